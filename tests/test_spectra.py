"""Laws of the numerics, on matrices with known spectra, against LAPACK in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.matrices import SHAPES, SPECTRA, orthonormal, shaped, with_spectrum
from wanalyze.operators import Dense, LowRank
from wanalyze.spectra import ranks
from wanalyze.spectra.decomposition import EPS, decompose, singular_values
from wanalyze.spectra.overlaps import BASE_SEPARATION, overlaps


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


# --- overlaps ---


def pairs() -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    found = []
    for name in ("flat", "power law", "steep", "deficient"):
        for rows, columns in ((30, 30), (45, 20), (20, 45)):
            base = shaped(name, rows, columns)
            noise = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            spike = torch.outer(orthonormal(rows, 1, seed=8)[:, 0], orthonormal(columns, 1, seed=9)[:, 0])
            found.extend(
                (f"{name} noise {size} {rows}x{columns}", base, base + size * base.norm() * noise / noise.norm())
                for size in (1e-3, 0.1)
            )
            found.append((f"{name} spike {rows}x{columns}", base, base + 1.5 * base.norm() * spike))
    return found


@pytest.mark.parametrize(("base", "tuned"), [pair[1:] for pair in pairs()], ids=[pair[0] for pair in pairs()])
def test_enclosures_hold_lapacks_cosines(base: torch.Tensor, tuned: torch.Tensor) -> None:
    k = 5
    left, right = overlaps(decompose(Dense(tuned)), decompose(Dense(base)), k=k)
    u0, s0, v0 = torch.linalg.svd(base, full_matrices=False)
    u1, _, v1 = torch.linalg.svd(tuned, full_matrices=False)
    real = s0 > BASE_SEPARATION * s0[0]  # a null direction is no singular vector
    for side, base_vectors, tuned_vectors in ((left, u0, u1), (right, v0.mT, v1.mT)):
        cosine = (base_vectors[:, real].mT @ tuned_vectors[:, :k]).abs().amax(0)
        assert (side.low - 1e-9 <= cosine).all()
        assert (cosine <= side.high + 1e-9).all()
        assert (side.high - side.low).max() < 0.02


def test_transposition_swaps_the_sides() -> None:
    base, tuned = shaped("power law", 20, 14), shaped("power law", 20, 14) + 0.1 * shaped("flat", 20, 14)
    left, right = overlaps(decompose(Dense(tuned)), decompose(Dense(base)), k=4)
    swapped = overlaps(decompose(Dense(tuned.mT)), decompose(Dense(base.mT)), k=4)
    assert torch.allclose(left.low, swapped[1].low, atol=1e-9)
    assert torch.allclose(right.high, swapped[0].high, atol=1e-9)


def test_the_base_matches_itself() -> None:
    base = decompose(Dense(shaped("power law", 18, 25)))
    for side in overlaps(base, base, k=10):
        assert (side.low > 1 - 1e-6).all()
        assert side.matched.tolist() == list(range(10))


def test_overlaps_of_a_batch_are_a_loop() -> None:
    base = torch.stack([shaped(name, 12, 9) for name in ("flat", "power law")])
    tuned = base + 0.2 * shaped("flat", 12, 9).flip(0)
    together = overlaps(decompose(Dense(tuned)), decompose(Dense(base)), k=3)
    for i in range(2):
        alone = overlaps(decompose(Dense(tuned[i])), decompose(Dense(base[i])), k=3)
        assert torch.equal(together[0].low[i], alone[0].low)
        assert torch.equal(together[1].high[i], alone[1].high)


def test_a_multiple_value_of_the_base_encloses_every_basis() -> None:
    values = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    left, right = orthonormal(9, 5, seed=1), orthonormal(7, 5, seed=2)
    base = (left * values) @ right.mT
    inside = torch.nn.functional.normalize(left[:, 1:4] @ torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), dim=0)
    tuned = 50 * torch.outer(inside, orthonormal(7, 1, seed=5)[:, 0])
    found, _ = overlaps(decompose(Dense(tuned)), decompose(Dense(base)), k=1)
    assert found.high[0] == pytest.approx(1.0)
    assert found.low[0] == pytest.approx(1 / math.sqrt(3))
    assert found.matched[0] == -1


def test_unseparated_vectors_of_the_tuned_have_only_a_subspace() -> None:
    tuned = with_spectrum(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64), 8, 8, seed=3)
    base = shaped("power law", 8, 8)
    found, _ = overlaps(decompose(Dense(tuned)), decompose(Dense(base)), k=3)
    assert found.group.tolist() == [0, 0, 1]
    assert found.low[:2].tolist() == [0.0, 0.0]
    u1, u0 = torch.linalg.svd(tuned)[0][:, :2], torch.linalg.svd(base)[0]
    assert found.high[0] == pytest.approx(torch.linalg.vector_norm(u1.mT @ u0, dim=0).max().item(), abs=1e-6)
    assert found.low[2] > 0
