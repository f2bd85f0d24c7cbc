"""Laws of rounding: what it leaves of an update, and what can be read back, on updates that are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.matrices import orthonormal
from wanalyze.spectra.merged import BLOCK, MergedFit, merged_rank
from wanalyze.spectra.rounding import Grid, noise_edge, signal_rank

BF16, FP16, FP32 = Grid(2.0**-7, 2.0**-126), Grid(2.0**-10, 2.0**-14), Grid(2.0**-23, 2.0**-126)
GRIDS = {torch.bfloat16: BF16, torch.float16: FP16, torch.float32: FP32}
DTYPES = list(GRIDS)


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def gaussian_base(rows: int = 1024, columns: int = 1024, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (0.02 * normal(rows, columns, seed=5)).to(dtype)


@cache
def heavy_base(n: int = 1024) -> Tensor:
    """Rows and columns of very unequal size, as trained layers have them."""
    rows, columns = torch.exp(0.7 * normal(n, 1, seed=6)), torch.exp(0.7 * normal(1, n, seed=7))
    return (0.02 * rows * columns * normal(n, n, seed=8)).to(torch.bfloat16)


def flat(base: Tensor, rank: int, relative: float) -> Tensor:
    """An update of equal singular values and relative Frobenius norm `relative`."""
    left, right = (orthonormal(size, rank, seed=20 + dim) for dim, size in enumerate(base.shape))
    return relative * base.double().norm() / rank**0.5 * left @ right.mT


def dense(base: Tensor, relative: float) -> Tensor:
    update = normal(*base.shape, seed=9)
    return relative * base.double().norm() / update.norm() * update


def rounded(base: Tensor, update: Tensor) -> Tensor:
    return (base.double() + update).to(base.dtype)


def fit(base: Tensor, tuned: Tensor, **options: int) -> MergedFit:
    return merged_rank(base.double(), tuned.double(), GRIDS[base.dtype], **options)


# --- the grid ---


def numbers(dtype: torch.dtype) -> Tensor:
    """Powers of two and what is next to them, zero, subnormal and negative numbers, random ones."""
    info = torch.finfo(dtype)
    powers = torch.ldexp(torch.ones(30, dtype=torch.float64), torch.arange(-14, 16)).to(dtype)
    special = torch.tensor([0.0, info.tiny, info.tiny * info.eps, 3 * info.tiny * info.eps, 5 * info.tiny], dtype=dtype)
    found = torch.cat([powers, special, (0.02 * normal(1, 200, seed=1))[0].to(dtype), info.tiny * special[3:]])
    infinity = torch.full_like(found, torch.inf)
    found = torch.cat([found, torch.nextafter(found, infinity), torch.nextafter(found, -infinity)])
    return torch.cat([found, -found])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_neighbours_are_the_midpoints_to_the_next_numbers(dtype: torch.dtype) -> None:
    weights = numbers(dtype)
    infinity = torch.full_like(weights, torch.inf)
    below, above = GRIDS[dtype].neighbours(weights.double())
    assert torch.equal(below, (weights.double() + torch.nextafter(weights, -infinity).double()) / 2)
    assert torch.equal(above, (weights.double() + torch.nextafter(weights, infinity).double()) / 2)


def test_every_float16_lies_between_its_neighbours() -> None:
    # torch has no nextafter for float16, but only 63 487 finite ones: in order, the next number is the next entry.
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).double()
    ordered = every[every.isfinite()].unique()
    below, above = FP16.neighbours(ordered)
    midpoints = (ordered[1:] + ordered[:-1]) / 2
    assert torch.equal(below[1:], midpoints)
    assert torch.equal(above[:-1], midpoints)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_spacing_leads_to_the_next_number_away_from_zero(dtype: torch.dtype) -> None:
    weights = numbers(dtype)
    away = torch.nextafter(weights, torch.copysign(torch.full_like(weights, torch.inf), weights))
    assert torch.equal(GRIDS[dtype].spacing(weights.double()), (away.double() - weights.double()).abs())


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_between_the_neighbours_is_rounded_to_the_number(dtype: torch.dtype) -> None:
    exact = 0.02 * normal(200, 200, seed=2)
    if dtype != torch.float32:
        exact = exact.float().double()  # torch rounds float64 to 16 bits by way of float32, some of it twice
    below, above = GRIDS[dtype].neighbours(exact.to(dtype).double())
    assert ((below <= exact) & (exact <= above)).all()


# --- the noise edge ---


def edge_over_error(base: Tensor, relative: float) -> float:
    """The edge without its margin, over the largest singular value of the rounding error itself."""
    exact = base.double() + flat(base, 8, relative)
    tuned = exact.to(torch.bfloat16).double()
    true = torch.linalg.matrix_norm((tuned - exact).float(), 2).item()
    return noise_edge(tuned, BF16) / (1 + 2 * min(base.shape) ** (-2 / 3)) / true


@pytest.mark.parametrize(("base", "relative"), [(gaussian_base, 1e-2), (gaussian_base, 1e-1), (heavy_base, 1e-1)])
def test_the_edge_is_that_of_the_rounding_error(base: Callable[[], Tensor], relative: float) -> None:
    assert edge_over_error(base(), relative) == pytest.approx(1, rel=0.02)


def test_the_edge_lies_above_the_error_of_large_weights_that_the_update_does_not_move() -> None:
    assert 1 < edge_over_error(heavy_base(), 1e-2) < 2


@pytest.mark.parametrize("shape", [(300, 900), (900, 300), (60, 60), (1, 40), (40, 1)])
def test_the_edge_of_any_shape_is_that_of_a_random_error(shape: tuple[int, int]) -> None:
    weights = (0.02 * normal(*shape, seed=3)).to(torch.bfloat16).double()
    spread = BF16.spacing(weights) * (torch.rand(shape, generator=torch.Generator().manual_seed(4)) - 0.5)
    true = torch.linalg.matrix_norm(spread, 2).item() * (1 + 2 * min(shape) ** (-2 / 3))
    assert noise_edge(weights, BF16) == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize("grid", [None, FP16])
def test_the_edge_of_quantised_weights_is_that_of_their_cells(grid: Grid | None) -> None:
    base = 0.02 * normal(400, 600, seed=3)
    steps = base.abs().reshape(400, 20, 30).amax(2, keepdim=True).expand(400, 20, 30).reshape(400, 600) / 7
    codes = (base / steps).round().clamp(-7, 7)
    true = torch.linalg.matrix_norm(codes * steps - base, 2).item() * (1 + 2 * 400 ** (-2 / 3))
    assert noise_edge(base, grid, [steps.float()]) == pytest.approx(true, rel=0.05)


def test_errors_of_base_and_tuned_add_up() -> None:
    weights, cells = normal(200, 300, seed=3), torch.full((200, 300), 0.1)
    one = noise_edge(weights, None, [cells])
    assert noise_edge(weights, None, [cells, cells]) == pytest.approx(2**0.5 * one, rel=1e-5)
    assert noise_edge(weights, None, [0 * cells]) == 0


@pytest.mark.parametrize("power", [-90, -3, 40])
def test_the_edge_scales_with_the_weights(power: int) -> None:
    weights = gaussian_base(200, 300).double()
    assert noise_edge(weights * 2.0**power, BF16) == noise_edge(weights, BF16) * 2.0**power


def test_the_edge_is_reproducible_and_leaves_its_input_alone() -> None:
    weights = gaussian_base(200, 300).double()
    before, state = weights.clone(), torch.get_rng_state()
    assert noise_edge(weights, BF16) == noise_edge(weights, BF16) != noise_edge(weights, BF16, seed=1)
    assert torch.equal(weights, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_drawn_with_the_seed_do_not_correlate_with_the_error() -> None:
    for columns in (300, 4096):
        weights = normal(300, columns, seed=0)
        assert noise_edge(weights, BF16) == pytest.approx(noise_edge(weights, BF16, seed=1), rel=0.05)


def test_the_edge_of_zeros_is_that_of_the_smallest_numbers() -> None:
    assert 0 < noise_edge(torch.zeros(5, 4, dtype=torch.float64), BF16) < 1e-38


# --- the rank that stands out ---


@pytest.mark.parametrize(
    ("base", "rank", "relative"), [(gaussian_base, 8, 1e-2), (gaussian_base, 64, 1e-2), (heavy_base, 8, 3e-3)]
)
def test_signal_rank_is_that_of_the_update(base: Callable[[], Tensor], rank: int, relative: float) -> None:
    tuned = rounded(base(), flat(base(), rank, relative)).double()
    values = torch.linalg.svdvals((tuned - base().double()).float())
    assert signal_rank(values, noise_edge(tuned, BF16)).item() == rank


def test_signal_rank_takes_batches() -> None:
    values = torch.tensor([[3.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    assert signal_rank(values, 1.5).tolist() == [2, 1]
    assert signal_rank(values, torch.tensor([0.5, 5.0])).tolist() == [3, 0]


# --- the rank that was merged ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merged_rank_below_the_noise_is_found(dtype: torch.dtype) -> None:
    base = gaussian_base(dtype=dtype)
    found = fit(base, rounded(base, flat(base, 8, 1e-3)))
    assert (found.rank, found.identified) == (8, True)


@pytest.mark.parametrize("rank", [1, 10, 64])
def test_any_merged_rank_is_found(rank: int) -> None:
    base = gaussian_base()
    found = fit(base, rounded(base, flat(base, rank, 1e-3)))
    assert (found.rank, found.identified) == (rank, True)


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_a_merge_in_the_arithmetic_of_the_grid_is_found(scale: float) -> None:
    base = gaussian_base()
    found = fit(base, base + flat(base, 8, 1e-1).to(torch.bfloat16) * scale)
    assert (found.rank, found.identified) == (8, True)


@pytest.mark.parametrize("start", [1, 5, 16, 500])
def test_a_first_guess_changes_no_answer(start: int) -> None:
    base = gaussian_base(300, 400)
    found = fit(base, rounded(base, flat(base, 8, 3e-3)), start=start)
    assert (found.rank, found.identified) == (8, True)


@pytest.mark.parametrize("relative", [1e-3, 1e-2])
def test_a_dense_update_is_no_merge(relative: float) -> None:
    base = gaussian_base()
    assert fit(base, rounded(base, dense(base, relative))) == MergedFit(None, None, False, 128)


def test_what_rounding_destroyed_is_not_identified() -> None:
    base = gaussian_base()
    assert not fit(base, rounded(base, flat(base, 64, 3e-4)), start=64).identified


@pytest.mark.parametrize("n", [64, 128, 256, 512])
@pytest.mark.parametrize("relative", [3e-4, 1e-3, 3e-3])
def test_no_rank_of_a_small_dense_update_is_identified(n: int, relative: float) -> None:
    base = gaussian_base(n, n)
    assert not fit(base, rounded(base, dense(base, relative))).identified


@pytest.mark.parametrize("n", [64, 128, 256, 512])
def test_a_merged_rank_of_a_small_matrix_is_found(n: int) -> None:
    base = gaussian_base(n, n)
    found = fit(base, rounded(base, flat(base, 4, 1e-2)))
    assert (found.rank, found.identified) == (4, True)


def test_a_few_changed_entries_are_no_merge() -> None:
    base = gaussian_base(512, 512)
    tuned = base.clone()
    chosen = torch.randperm(base.numel(), generator=torch.Generator().manual_seed(3))[:200]
    tuned.view(-1)[chosen] *= 1.01
    assert not fit(base, tuned).identified


def test_of_a_large_matrix_a_part_is_fitted() -> None:
    base = gaussian_base(1500, 1200)
    assert min(base.shape) > BLOCK
    found = fit(base, rounded(base, flat(base, 8, 1e-3)))
    assert (found.rank, found.identified) == (8, True)


def test_equal_matrices_differ_by_rank_zero() -> None:
    base = gaussian_base(40, 30)
    assert fit(base, base) == MergedFit(0, None, False, 7)


def test_ranks_beyond_a_quarter_or_the_most_are_not_tried() -> None:
    base = gaussian_base(40, 400)
    assert fit(base, rounded(base, flat(base, 20, 1e-1))) == MergedFit(None, None, False, 10)
    assert fit(base, rounded(base, flat(base, 6, 1e-1)), most=4) == MergedFit(None, None, False, 4)
    assert fit(base[:3], rounded(base[:3], dense(base[:3], 1e-1))) == MergedFit(None, None, False, 0)


def test_a_fit_is_reproducible() -> None:
    base = gaussian_base(300, 400)
    tuned = rounded(base, flat(base, 4, 1e-3))
    assert fit(base, tuned) == fit(base, tuned)
