"""The rank of an update that was added to the weights and then rounded away: box consistency."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators import widened
from wanalyze.spectra.rounding import Grid

BLOCK = 1024  # rows and columns looked at: a part of a rank r update has rank r
ACCEPTED = 1e-4  # excess at which a rank explains the weights
# A rank of a whole block is identified if one less fits this much worse; of a smaller one, where the excess falls
# more steeply from rank to rank, in proportion more. The true rank does by 60 and more where the weights determine
# it, up to 1e5, the first one that happens to fit by 2; at 128 x 128 that one comes to 12, at 64 x 64 to 150.
SHARP = 40.0
_ITERATIONS = 40  # twice as many find a fit at one rank less, slowly, where the last direction is faint
_CHECK = 10  # iterations from one look at the excess to the next
_HOPELESS = 10.0  # times ACCEPTED, at the end: a fit that heads there is given up
# Beyond the nearest point of the box, which many entries would only touch. With momentum up to 1 an entry far
# outside is brought back without swinging for anything below 4/3.
_RELAXATION = 1.3
_FINE = 2.0**-16  # below this eps the boxes are too small for fits in float32
_FLOOR = 1e-6  # of the excess: float32 tells less from nothing


@dataclass(frozen=True)
class MergedFit:
    """The smallest accepted rank, None if none up to `limit` is, and whether the weights single it out.

    `sharpness` is the excess at one rank less over that at `rank`; None where there is nothing to compare.
    """

    rank: int | None
    sharpness: float | None
    identified: bool
    limit: int


@dataclass(frozen=True, eq=False)
class _Box:
    """low ≤ ΔW ≤ high, around the observed W1 − W0."""

    low: Tensor
    high: Tensor
    observed: Tensor

    def excess(self, update: Tensor) -> float:
        outside = torch.dist(update, update.clamp(self.low, self.high))
        return float(outside / torch.dist(self.high, self.low))


def merged_rank(
    base: Tensor, tuned: Tensor, grid: Grid, *, most: int = 128, start: int | None = None, seed: int = 0
) -> MergedFit:
    """The smallest k for which some update of rank k turns W0 into W1 by rounding to `grid`.

    W0 and W1 are (m, n), W1 of numbers of `grid`. Each entry of W1 says between which bounds W0 + ΔW lay before
    it was rounded; the fit looks for a matrix of rank k within all of them (low-rank recovery from quantised
    entries: arXiv 2310.03224). Of a matrix with more than BLOCK rows or columns a random part is fitted: it has the
    rank of the whole, and the bounds hold entry by entry. Ranks up to `most` and a quarter of the short side are
    tried, from `start` on; beyond, so many numbers fit anything.
    """
    box = _box(*_part(base, tuned, seed), grid)
    limit = min(most, min(box.observed.shape) // 4)
    excess = {0: box.excess(torch.zeros_like(box.observed))}
    if excess[0] <= ACCEPTED or limit == 0:
        return MergedFit(0 if excess[0] <= ACCEPTED else None, None, False, limit)
    rows = _leading(box.observed, limit, seed)

    def accepted(k: int) -> bool:
        excess[k] = _fit(box, rows[:k])
        return excess[k] <= ACCEPTED

    rank = _smallest(accepted, limit, min(start or 1, limit))
    if rank is None:
        return MergedFit(None, None, False, limit)
    sharpness = excess[rank - 1] / max(excess[rank], _FLOOR)
    return MergedFit(rank, sharpness, sharpness >= SHARP * BLOCK / min(box.observed.shape), limit)


def _part(base: Tensor, tuned: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for dim, size in enumerate(base.shape):
        if size > BLOCK:
            chosen = torch.randperm(size, generator=generator)[:BLOCK].sort().values.to(base.device)
            base, tuned = base.index_select(dim, chosen), tuned.index_select(dim, chosen)
    return widened(base, torch.float64), widened(tuned, torch.float64)


def _box(base: Tensor, tuned: Tensor, grid: Grid) -> _Box:
    observed = tuned - base
    low, high = grid.neighbours(tuned)
    # A merge in the arithmetic of the grid rounds B A, then s B A, by up to half of this each, before it adds them.
    slack = grid.eps * observed.abs()
    parts = (low - base - slack, high - base + slack, observed)
    scale = torch.ldexp(base.new_ones(()), torch.frexp(torch.dist(base, tuned)).exponent)
    dtype = torch.float64 if grid.eps < _FINE else torch.float32
    return _Box(*((part / scale).to(dtype) for part in parts))


def _leading(matrix: Tensor, k: int, seed: int) -> Tensor:
    """The first k right singular vectors, as rows, nearly: three steps of the power method."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(k, matrix.shape[1], generator=generator).to(matrix)
    for _ in range(3):
        _, core = _step(matrix, rows)
        rows = torch.linalg.qr(core.mT)[0].mT
    leading: Tensor = torch.linalg.svd(core, full_matrices=False)[2]
    return leading


def _fit(box: _Box, rows: Tensor) -> float:
    """Excess of the best matrix found whose rank is the number of `rows`, the row space it starts from.

    Clip to the box and project back to the rank, with Nesterov's momentum: without it the excess falls too slowly
    to tell a rank from one less.
    """
    current, rows = _project(box.observed, rows)
    before, seen = current, [box.excess(current)]
    for step in range(1, _ITERATIONS + 1):
        ahead = torch.lerp(before, current, 1 + (step - 1) / (step + 2))
        inside = ahead.clamp(box.low, box.high)
        before = current
        current, rows = _project(torch.lerp(ahead, inside, _RELAXATION), rows)
        if step % _CHECK == 0:
            seen.append(box.excess(current))
            if _hopeless(seen):
                break
    return seen[-1]


def _project(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """To the rank of `rows` by one subspace step from their span; the matrix and its row space."""
    left, core = _step(matrix, rows)
    return left @ core, torch.linalg.qr(core.mT)[0].mT


def _step(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    # Products with few columns are slow in the BLAS of a CPU, with few rows they are not.
    left: Tensor = torch.linalg.qr((rows @ matrix.mT).mT)[0]
    return left, left.mT @ matrix


def _hopeless(seen: list[float]) -> bool:
    """Whether the excess, shrinking as it last did, ends up far from accepted."""
    left = _ITERATIONS / _CHECK - (len(seen) - 1)
    shrinking = min(1.0, seen[-1] / max(seen[-2], _FLOOR))
    return seen[-1] * math.pow(shrinking, left) > ACCEPTED * _HOPELESS


def _smallest(accepted: Callable[[int], bool], limit: int, start: int) -> int | None:
    """The smallest accepted number up to `limit`: doubling from `start`, then bisection."""
    rejected, best = 0, start
    while not accepted(best):
        if best == limit:
            return None
        rejected, best = best, min(2 * best, limit)
    middle = best - 1  # first: people choose powers of two, so that doubling often lands on the rank itself
    while best - rejected > 1:
        if accepted(middle):
            best = middle
        else:
            rejected = middle
        middle = (best + rejected) // 2
    return best
