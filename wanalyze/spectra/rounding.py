"""What rounding alone leaves behind: the grid a checkpoint is stored on, and the singular values of its error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators import widened

_EXPONENT = 0x7FF << 52  # the bits of a float64 that hold its exponent
# Golub-Kahan steps. The edge of a Gaussian matrix, where no gap helps, comes out up to 0.3 % low up to 4096;
# an edge made by heavy rows or columns is exact after five. Vectors one by one: for the same time, blocks gain less.
_STEPS = 20
_ROWS = 256  # widened at a time: what stays in cache is three times as fast
_STREAM = 0x9E3779B9  # added to the seed: weights may have been drawn with the same one, and must not correlate


@dataclass(frozen=True)
class Grid:
    """The numbers a storage format has: `eps` is their spacing at 1, `smallest` the smallest normal one.

    For formats narrower than float64, in which the weights are given.
    """

    eps: float
    smallest: float

    def spacing(self, weights: Tensor) -> Tensor:
        """Distance from each of `weights`, float64, to the next number away from zero.

        >>> Grid(2.0**-7, 2.0**-126).spacing(torch.tensor([1.0, -3.0], dtype=torch.float64)).tolist()
        [0.0078125, 0.015625]
        """
        # The exponent bits alone are 2^⌊log₂|w|⌋: five times as fast as frexp and ldexp.
        power = (weights.view(torch.int64) & _EXPONENT).view(torch.float64)
        return power.clamp_(min=self.smallest).mul_(self.eps)

    def neighbours(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Below and above each of `weights`, a number of this grid: what lies between is rounded to it.

        These are the midpoints to the next numbers. Towards zero a power of two has its next number at half the
        spacing, except where the subnormal numbers start.
        """
        size = weights.abs()
        outward = self.spacing(size)
        at_power = (size == outward / self.eps) & (size > self.smallest)
        inward = torch.where(at_power, outward / 2, outward)
        near, far = size - inward / 2, size + outward / 2
        negative = weights < 0
        return torch.where(negative, -far, near), torch.where(negative, -near, far)


def noise_edge(tuned: Tensor, grid: Grid | None, steps: Sequence[Tensor] = (), *, seed: int = 0) -> float:
    """The largest singular value that rounding W1 (m, n), of any dtype, to `grid` explains. One matrix, no batch.

    `steps` (m, n) are the cells that base and tuned were quantised in, where they were: errors that add up.

    Rounding moves each entry by spacing · U(−½, ½), provided the update is not far below the spacing; the edge is
    that of one such matrix, which includes the unequal variances of rows and columns (for which see
    arXiv 2306.11263), and 1 + 2 min(m, n)^(−⅔) of it to cover its fluctuation.
    """
    generator = torch.Generator().manual_seed(seed + _STREAM)
    # Made on the CPU, so that a GPU sees the same numbers.
    error = torch.rand(tuned.shape, generator=generator).sub_(0.5).to(tuned.device)
    start = torch.randn(tuned.shape[1], generator=generator).to(tuned.device)
    largest = max(_spacing(tuned, grid, steps, rows).amax() for rows in _row_blocks(tuned))
    if largest == 0:  # all blocks of a quantised matrix are zero
        return 0.0
    for rows in _row_blocks(tuned):
        # A power of two, if from a grid: dividing by it changes no digit and keeps float32 in range.
        error[rows] *= (_spacing(tuned, grid, steps, rows) / largest).to(error.dtype)
    return float(largest) * _top(error, start) * (1 + 2 * math.pow(min(tuned.shape), -2 / 3))


def _row_blocks(matrix: Tensor) -> Iterator[slice]:
    return (slice(first, first + _ROWS) for first in range(0, len(matrix), _ROWS))


def _spacing(weights: Tensor, grid: Grid | None, steps: Sequence[Tensor], rows: slice) -> Tensor:
    """The width of a uniform error of the variance of all errors together."""
    widths = [cells[rows].to(torch.float64) for cells in steps]
    if grid is not None:
        widths.append(grid.spacing(widened(weights[rows], torch.float64)))
    return widths[0] if len(widths) == 1 else torch.stack(widths).square().sum(0).sqrt()


def signal_rank(values: Tensor, edge: float | Tensor) -> Tensor:
    """How many of the singular values (..., r) exceed `edge`, one number or one per spectrum.

    >>> signal_rank(torch.tensor([3.0, 2.0, 0.5]), 1.0).item()
    2
    """
    limit = torch.as_tensor(edge, dtype=values.dtype, device=values.device)
    return (values > limit[..., None]).sum(-1)


def _top(matrix: Tensor, start: Tensor) -> float:
    """The largest singular value, from below: Golub-Kahan with every vector orthogonalised against all others."""
    basis, images = matrix.new_zeros(0, matrix.shape[0]), matrix.new_zeros(0, matrix.shape[1])
    vector = matrix @ start
    for _ in range(min(_STEPS, *matrix.shape)):
        for _ in range(2):  # once leaves what cancellation brought back
            vector = vector - (basis @ vector) @ basis
        basis = torch.cat([basis, torch.nn.functional.normalize(vector, dim=0)[None]])
        images = torch.cat([images, (basis[-1] @ matrix)[None]])
        vector = matrix @ images[-1]
    found = images.to(torch.float64)
    return float(torch.linalg.matrix_norm(found @ found.mT, 2).sqrt())
