"""Laws of the numerics, on matrices with known spectra, against LAPACK in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.matrices import SHAPES, SPECTRA, shaped, with_spectrum
from wanalyze.operators import Dense, Kronecker, LowRank
from wanalyze.spectra import ranks
from wanalyze.spectra.decomposition import EPS, decompose
from wanalyze.spectra.deflation import singular_values
from wanalyze.spectra.values import spectra


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_values_are_lapacks(name: str, shape: tuple[int, int]) -> None:
    matrix = shaped(name, *shape)
    expected = torch.linalg.svdvals(matrix)
    error = (singular_values(Dense(matrix)) - expected).abs().max()
    assert error <= 50 * max(shape) * EPS * expected[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_triplets_are_orthonormal_and_rebuild_the_matrix(name: str, shape: tuple[int, int]) -> None:
    matrix = shaped(name, *shape)
    found = decompose(Dense(matrix))
    alive = int(torch.count_nonzero(found.values))
    scale = found.values[0] if alive else 1.0
    assert ((found.u * found.values) @ found.v.mT / scale - matrix / scale).abs().max() < 1e-12
    for vectors in (found.u[:, :alive], found.v[:, :alive]):
        assert (vectors.mT @ vectors - torch.eye(alive, dtype=torch.float64)).abs().sum() < 1e-7


def test_zero_directions_have_no_vectors() -> None:
    found = decompose(Dense(with_spectrum(torch.tensor([2.0, 1.0], dtype=torch.float64), 9, 7)))
    assert torch.count_nonzero(found.values) == 2
    assert not found.u[:, 2:].any()
    assert not found.v[:, 2:].any()


def test_a_batch_is_a_loop() -> None:
    batch = torch.stack([shaped(name, 12, 8) for name in SPECTRA]).reshape(-1, 1, 12, 8)
    together = decompose(Dense(batch))
    for i in range(len(SPECTRA)):
        alone = decompose(Dense(batch[i, 0]))
        assert torch.equal(together.values[i, 0], alone.values)
        assert torch.equal(together.u[i, 0], alone.u)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_storage_dtypes_are_widened_first(dtype: torch.dtype) -> None:
    stored = shaped("power law", 20, 10).to(dtype)
    assert torch.allclose(singular_values(Dense(stored)), torch.linalg.svdvals(stored.double()), rtol=1e-12)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(50, 30, 4), (30, 50, 4), (6, 40, 16), (40, 6, 16), (1, 9, 1)])
def test_factors_give_the_spectrum_of_their_product(rows: int, columns: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    left = torch.randn(rows, rank, generator=generator)
    right = torch.randn(rank, columns, generator=generator)
    update = LowRank(left, right, -2.5)
    expected = torch.linalg.svdvals(-2.5 * left.double() @ right.double())
    found = singular_values(update)
    assert len(found) == min(rows, columns, rank)
    assert torch.allclose(found, expected[: len(found)], rtol=1e-12, atol=1e-12)
    assert torch.allclose(update @ torch.eye(columns), update.dense(), atol=1e-4)
    assert torch.allclose(update.T.dense(), update.dense().mT, atol=1e-4)


@pytest.mark.parametrize("shapes", [((3, 4), (50, 30)), ((4, 3), (30, 50)), ((40, 2), (2, 40))])
def test_values_of_a_kronecker_product_are_products_of_values(shapes: tuple[tuple[int, int], ...]) -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    found = spectra([Kronecker(Dense(first), LowRank(second, torch.eye(second.shape[1])), -0.5)])[0].values
    expected = torch.linalg.svdvals(-0.5 * torch.kron(first, second))
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12 * expected[0].item())


spectrum = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)


@given(spectrum, st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_ranks_are_ordered_and_ignore_scale(values: torch.Tensor, scale: float) -> None:
    stable, participation = ranks.stable_rank(values), ranks.participation_ratio(values)
    energy, entropy = ranks.effective_rank_energy(values), ranks.effective_rank(values)
    slack = 1 + 1e-9
    assert stable * slack >= 1
    assert participation <= energy * slack
    assert energy <= entropy * slack
    assert entropy <= len(values) * slack
    for rank in (ranks.stable_rank, ranks.participation_ratio, ranks.effective_rank, ranks.effective_rank_energy):
        assert torch.isclose(rank(scale * values), rank(values), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_equal_values_count_themselves(n: int) -> None:
    values = torch.full((n,), 0.1, dtype=torch.float64)
    for rank in (ranks.effective_rank, ranks.effective_rank_energy, ranks.stable_rank, ranks.participation_ratio):
        assert rank(values).item() == pytest.approx(n)
    assert ranks.energy_rank(values, 0.5).item() == math.ceil(n / 2)
    assert ranks.energy_rank(values, 0.99).item() == math.ceil(0.99 * n)


def test_ranks_take_batches() -> None:
    values = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert ranks.numerical_rank(values, 1e-9).tolist() == [2, 3]
    assert ranks.energy_rank(values, 0.9).tolist() == [2, 3]
    assert ranks.stable_rank(values).tolist() == [1.25, 3.0]
