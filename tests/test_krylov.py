"""Laws of the pieces: Gram values, Krylov spaces, leading triplets, Christoffel bounds, vectors deep in a spectrum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.matrices import SHAPES, SPECTRA, iterative, orthonormal, shaped, with_spectrum
from wanalyze.operators import Dense, Kronecker, LowRank, Operator, Scaled, Stack, Sum
from wanalyze.spectra import triplets as triplets_module
from wanalyze.spectra import values as values_module
from wanalyze.spectra.christoffel import _energy_by_qr, _weights, christoffel
from wanalyze.spectra.decomposition import EPS
from wanalyze.spectra.deflation import resolved, singular_values
from wanalyze.spectra.interior import Interior
from wanalyze.spectra.krylov import Krylov, cholesky_qr
from wanalyze.spectra.triplets import groups, leading_spectra, leading_triplets
from wanalyze.spectra.values import gram, spectra


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- values ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_error_of_a_value_is_within_its_bound(name: str, shape: tuple[int, int]) -> None:
    matrix = shaped(name, *shape)
    with iterative():
        found = spectra([Dense(matrix)])[0]
    assert ((found.values - torch.linalg.svdvals(matrix)).abs() <= found.error).all()


@pytest.mark.parametrize("name", ["outlier", "deficient", "steep", "tiny", "zero"])
@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
def test_small_values_are_resolved(name: str, shape: tuple[int, int]) -> None:
    matrix = shaped(name, *shape)
    with iterative():
        found = singular_values(Dense(matrix))
    expected = torch.linalg.svdvals(matrix)
    assert (found - expected).abs().max() <= 50 * max(shape) * EPS * expected[0]


def test_an_update_that_is_low_rank_but_for_rounding_keeps_its_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = orthonormal(300, 6, seed=1) @ orthonormal(250, 6, seed=2).mT + 1e-9 * normal(300, 250)
    monkeypatch.setattr("wanalyze.spectra.deflation.decompose", None)  # by Krylov spaces, not by all vectors
    with iterative():
        found = resolved(Dense(matrix), spectra([Dense(matrix)])[0]).values
    assert torch.allclose(found, torch.linalg.svdvals(matrix), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_a_gram_matrix_in_column_blocks_is_the_gram_matrix(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    stored = normal(*shape).to(torch.bfloat16)
    widths = []

    class Watched(Dense):
        @property
        def T(self) -> Dense:
            return Watched(self.matrix.mT)

        def columns(self, block: slice, dtype: torch.dtype) -> Tensor:
            widths.append(block.stop - block.start)
            return super().columns(block, dtype)

    monkeypatch.setattr("wanalyze.operators.operator._BLOCK", 30 * 8)
    found, scale = gram(Watched(stored))
    wide = stored.double() if shape[0] < shape[1] else stored.double().mT
    assert scale == 1
    assert max(widths) == 8  # never the whole matrix in float64
    assert torch.allclose(found.tril(), (wide @ wide.mT).tril(), rtol=1e-13)
    assert torch.allclose(Watched(stored) @ normal(shape[1], 3), stored.double() @ normal(shape[1], 3), rtol=1e-12)


def test_values_in_flight_are_values_alone() -> None:
    matrices = [Dense(normal(60, 40, seed)) for seed in range(5)]
    threads = torch.get_num_threads()
    with iterative():
        torch.set_num_threads(2)
        try:
            together = spectra(matrices)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)
        for matrix, found in zip(matrices, together, strict=True):
            assert torch.allclose(found.values, spectra([matrix])[0].values, rtol=1e-12)


# --- operators ---


@pytest.mark.parametrize(
    "operator",
    [
        Dense(normal(7, 5)),
        LowRank(normal(7, 2), normal(2, 5), -0.5),
        Sum(Dense(normal(7, 5)), LowRank(normal(7, 2), normal(2, 5), 3.0)),
        Sum(Dense(normal(7, 5)), Dense(normal(7, 5, 1).bfloat16()), -1.0),
        Kronecker(Dense(normal(7, 1)), LowRank(normal(1, 2), normal(2, 5)), 0.5),
        Kronecker(Dense(normal(1, 5)), Dense(normal(7, 1).bfloat16()), 2.0),
        Scaled(LowRank(normal(7, 2), normal(2, 5)), normal(7, 1)[:, 0], normal(5, 1)[:, 0]),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_an_operator_is_its_dense_matrix(operator: Operator) -> None:
    dense = torch.cat([operator.columns(slice(0, 2), torch.float64), operator.columns(slice(2, 5), torch.float64)], 1)
    right, left = normal(5, 3), normal(7, 3)
    assert torch.allclose(operator @ right, dense @ right)
    assert torch.allclose(operator.T @ left, dense.mT @ left)
    assert torch.allclose(operator.dense().double(), dense)
    assert torch.allclose(
        Stack([operator, operator]) @ torch.stack([right, 2 * right]), torch.stack([dense @ right, 2 * dense @ right])
    )


# --- Krylov spaces ---


def assert_relations(space: Krylov, matrix: Tensor) -> None:
    (left,), (right,) = space.bases()
    full = space.left[0]
    for basis in (full, right):
        assert (basis.mT @ basis - torch.eye(basis.shape[1], dtype=basis.dtype)).abs().max() < 1e-13
    small = left.mT @ matrix @ right
    scale = torch.linalg.matrix_norm(matrix, 2)
    assert (matrix.mT @ left - right @ small.mT).abs().max() < 1e-13 * scale
    ritz = space.ritz()[0]
    assert torch.allclose(ritz.values, torch.linalg.svdvals(small), atol=1e-12 * scale)
    y, z = left @ ritz.left, right @ ritz.right
    residual = torch.linalg.vector_norm(matrix @ z - y * ritz.values, dim=0)
    assert ((residual - ritz.residual).abs() <= 1e-13 * scale).all()


@pytest.mark.parametrize("name", ["flat", "power law", "deficient", "outlier"])
def test_the_recurrence_holds(name: str) -> None:
    matrix = shaped(name, 90, 70)
    space = Krylov(Stack([Dense(matrix)]), normal(90, 4)[None])
    for _ in range(6):
        space.step()
    assert_relations(space, matrix)


def test_an_invariant_start_is_completed() -> None:
    matrix = shaped("power law", 90, 70)
    start = torch.linalg.svd(matrix)[0][:, [0, 3, 8]]
    space = Krylov(Stack([Dense(matrix)]), start[None])
    for _ in range(5):
        space.step()
    assert_relations(space, matrix)
    assert torch.allclose(space.ritz()[0].values[0], torch.ones(1, dtype=torch.float64))


def test_a_space_can_go_on_with_some_of_a_batch() -> None:
    matrices = [Dense(normal(40, 30, seed)) for seed in range(3)]
    space = Krylov(Stack(matrices), normal(40, 2).expand(3, -1, -1))
    space.step()
    space.keep([2])
    space.step()
    alone = Krylov(Stack(matrices[2:]), normal(40, 2)[None])
    for _ in range(2):
        alone.step()
    assert torch.allclose(space.ritz()[0].values, alone.ritz()[0].values, rtol=1e-12)


def test_cholesky_qr_is_a_qr_or_says_no() -> None:
    block = normal(200, 8).expand(3, -1, -1) * torch.logspace(0, -5, 8, dtype=torch.float64)
    found = cholesky_qr(block)
    assert found is not None
    q, r = found
    assert (q.mT @ q - torch.eye(8, dtype=torch.float64)).abs().max() < 1e-14
    assert torch.allclose(q @ r, block)
    assert not r.tril(-1).any()
    assert cholesky_qr(block * torch.tensor([1.0] * 7 + [0.0], dtype=torch.float64)) is None
    assert cholesky_qr(torch.cat([block, block[..., :1]], -1)) is None


# --- leading triplets ---


@pytest.mark.parametrize("shape", [(160, 160), (200, 120), (120, 200)])
@pytest.mark.parametrize("name", ["flat", "power law", "outlier"])
def test_leading_vectors_lie_within_their_angle(name: str, shape: tuple[int, int]) -> None:
    matrix = shaped(name, *shape)
    with iterative():
        values = spectra([Dense(matrix)])
        sure = leading_triplets([Dense(matrix)], 3, values, tolerance=1e-3)[0]
        ((partial, unsure),) = leading_spectra([Dense(matrix)], 3, tolerance=1e-3)
    u, s, vh = torch.linalg.svd(matrix)
    assert sure.angle.max() <= 1e-3
    for found in (sure, unsure):
        assert ((found.values - s[:3]).abs() <= found.residual).all()
        group = groups(s, 1e-6)
        for mine, true in ((found.u, u), (found.v, vh.mT)):
            for i in range(3):
                space = true[:, : len(s)][:, group == group[i]]
                sine = torch.linalg.vector_norm(mine[:, i] - space @ (space.mT @ mine[:, i]))
                assert sine <= torch.sin(found.angle[i]) + 1e-12
    assert ((partial.values[:3] - s[:3]).abs() <= partial.error[:3]).all()


def test_a_missed_vector_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.diag(torch.arange(100.0, 0, -1, dtype=torch.float64))
    blind = torch.eye(100, dtype=torch.float64)[None, :, 1:9]  # holds nothing of the first vector, nor ever will
    monkeypatch.setattr(triplets_module, "start_blocks", lambda *rest: blind)
    with iterative():
        found = leading_triplets([Dense(matrix)], 2, spectra([Dense(matrix)]), tolerance=1e-3)[0]
    assert found.values.tolist() == pytest.approx([100.0, 99.0])


def test_what_does_not_settle_is_returned_with_its_error() -> None:
    matrix = normal(200, 200)
    with iterative():
        found = leading_triplets(
            [Dense(matrix)], 5, spectra([Dense(matrix)]), tolerance=1e-9, most_steps=3, settle=False
        )[0]
    u = torch.linalg.svd(matrix)[0][:, :5]
    sine = torch.linalg.vector_norm(found.u - u * (found.u * u).sum(0), dim=0)
    assert (sine <= torch.sin(found.angle) + 1e-12).all()
    assert found.angle.max() > 1e-9


# --- Christoffel bounds ---


@pytest.mark.parametrize("steps", [1, 3, 6])
@pytest.mark.parametrize("name", ["flat", "power law"])
def test_no_vector_holds_more_than_the_bound(name: str, steps: int) -> None:
    matrix = shaped(name, 120, 100)
    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    start = torch.cat([orthonormal(120, 3, seed=9), normal(120, 2)], 1)
    space = Krylov(Stack([Dense(matrix)]), start[None])
    for _ in range(steps):
        space.step()
    nothing = torch.zeros(5 * steps, dtype=torch.bool)
    blur = torch.full_like(s, 1e-13)
    bound = christoffel(space.ritz()[0], 5, torch.arange(3), nothing, s, blur)
    held = (u.mT @ start[:, :3]).abs()
    assert (bound >= held - 1e-12).all()
    assert steps == 1 or bound.mean() < 0.9


@pytest.mark.parametrize("decades", [3, 6])
def test_a_value_that_is_not_known_well_bounds_no_less(decades: int) -> None:
    spectrum = 10.0 ** -torch.linspace(0, decades, 100, dtype=torch.float64)
    matrix = with_spectrum(spectrum, 120, 100, seed=3)
    u = torch.linalg.svd(matrix, full_matrices=False)[0]
    start = torch.nn.functional.normalize(u[:, [10, 50, 90]] + 0.3 * orthonormal(120, 3, seed=9), dim=0)
    space = Krylov(Stack([Dense(matrix)]), start[None])
    blur = 1e-12 / spectrum
    held = (u.mT @ torch.linalg.qr(start)[0]).abs()
    for _ in range(20):
        space.step()
        nothing = torch.zeros(3 * space.steps, dtype=torch.bool)
        for side in (-1, 1):
            moved = spectrum + 0.9 * side * blur
            assert (christoffel(space.ritz()[0], 3, torch.arange(3), nothing, moved, blur) >= held - 1e-9).all()


def test_both_ways_to_a_bound_agree() -> None:
    matrix = shaped("power law", 120, 100)
    space = Krylov(Stack([Dense(matrix)]), normal(120, 4)[None])
    for _ in range(5):
        space.step()
    ritz = space.ritz()[0]
    values = torch.linspace(0.012, 0.9, 40, dtype=torch.float64)
    nothing = torch.zeros(20, dtype=torch.bool)
    quick = christoffel(ritz, 4, torch.arange(4), nothing, values, torch.zeros_like(values))
    weights = _weights(ritz.values, values, torch.zeros(40, 20, dtype=torch.bool))
    slow = _energy_by_qr(weights, ritz.left[:4], ritz.left[-4:])
    assert torch.allclose(quick, slow.sqrt(), atol=1e-6)


# --- vectors deep in a spectrum ---


@pytest.mark.parametrize("shape", [(120, 120), (150, 100), (100, 150)])
def test_a_deep_vector_is_found_next_to_its_value(shape: tuple[int, int]) -> None:
    spectrum = torch.linspace(3, 1, min(shape), dtype=torch.float64)
    matrix = with_spectrum(spectrum, *shape, seed=4)
    short = matrix if shape[0] <= shape[1] else matrix.mT
    u = torch.linalg.svd(short, full_matrices=False)[0]
    found = Interior(Dense(matrix)).near(float(spectrum[60]) * 1.0001, u[:, 60] + 0.1 * u[:, 61])
    assert found is not None
    near, far, values, residual = found
    best = (near.mT @ u[:, 60]).abs().argmax()
    assert (near[:, best] @ u[:, 60]).abs() == pytest.approx(1, abs=1e-9)
    assert values[best] == pytest.approx(float(spectrum[60]))
    assert torch.linalg.vector_norm(short @ far - near * values, dim=0).sub(residual).max() <= 1e-13
    assert torch.allclose(short.mT @ near, far * values)


# --- no full SVD ---


def test_no_svd_of_a_large_matrix_on_any_path(monkeypatch: pytest.MonkeyPatch) -> None:
    from wanalyze import measure
    from wanalyze.spectra.rounding import Grid

    sizes = []

    def watched(original: Callable[..., object]) -> Callable[..., object]:
        def svd(matrix: Tensor, *rest: object, **named: object) -> object:
            sizes.append(min(matrix.shape[-2:]))
            return original(matrix, *rest, **named)

        return svd

    for name in ("svd", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, watched(getattr(torch.linalg, name)))
    base = normal(values_module.SMALL + 40, values_module.SMALL + 40).bfloat16()
    tuned = (base.double() + 0.1 * normal(*base.shape, 1)).bfloat16()
    scope = measure.Scope(10, 0.5)
    stored = measure.Stored(tuned, 2.0**-7, Grid(2.0**-7, 2.0**-126))
    (found,) = measure.compare(measure.prepare([base], scope), [stored], scope)
    assert found.metrics["effective_rank"] is not None
    assert sizes
    assert max(sizes) < 400
