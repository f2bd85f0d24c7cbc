"""Singular values down to float64's last digit of the largest, where one Gram matrix does not hold them."""

from __future__ import annotations

import torch
from torch import Tensor

from wanalyze.operators import LowRank, Operator, Sum
from wanalyze.spectra.decomposition import EPS, decompose
from wanalyze.spectra.triplets import leading_triplets
from wanalyze.spectra.values import BACKWARD_ERROR, Spectrum, exact, spectra

_UNRESOLVED = 1e-6  # of Σσ may be rounding, by a bound some thirty times what it is; above it the leading part goes
_KEPT = 1e-4  # of σ₁: what a Gram matrix resolves to 1e-7 of itself and better
_DROP = 4.0  # from one value to the next: what stands out by that is taken out with quickly found triplets
_FEW = 8  # up to one in so many values is taken out by Krylov spaces
_ROUNDS = 5  # four decades each: beyond float64


def singular_values(matrix: Operator) -> Tensor:
    """All singular values of one matrix (m, n) in float64, descending, good to a few eps of the largest."""
    return resolved(matrix, spectra([matrix])[0], share=0.0).values


def resolved(matrix: Operator, found: Spectrum, *, share: float = _UNRESOLVED) -> Spectrum:
    """`found`, or better where rounding of the Gram matrix may be more than a `share` of Σσ.

    An update that is low-rank but for the rounding of a float32 checkpoint is such a case: its leading triplets are
    taken out, and what is left has its own Gram matrix.
    """
    return _resolved(matrix, found, share, _ROUNDS)


def _resolved(matrix: Operator, found: Spectrum, share: float, rounds: int) -> Spectrum:
    if rounds == 0 or found.svd is not None or found.error.sum() <= share * found.values.sum():
        return found
    kept = _leading(found, min(matrix.shape) // _FEW)
    if kept == 0:
        # Neither few directions nor one scale: take it apart by all its vectors.
        return exact(decompose(matrix))
    return _without_leading(matrix, found, kept, share, rounds)


def _leading(found: Spectrum, most: int) -> int:
    """How many values, at most so many, stand out: those before the steepest drop, or all of the first scale; or 0."""
    values = found.values
    drops = values[:most] / torch.maximum(values[1 : most + 1], found.error[1 : most + 1])
    if drops.amax() >= _DROP:
        return int(drops.argmax()) + 1
    kept = int((values > _KEPT * values[0]).sum())
    return kept if kept <= most else 0


def _without_leading(matrix: Operator, found: Spectrum, kept: int, share: float, rounds: int) -> Spectrum:
    """Keep the leading values; measure the others on what is left without their triplets."""
    first = leading_triplets([matrix], kept, [found])[0]
    rest = Sum(matrix, LowRank(first.u * first.values, first.v.mT), -1.0)
    below = _resolved(rest, spectra([rest])[0], share, rounds - 1)
    floor = BACKWARD_ERROR * EPS * found.values[0]
    values = torch.cat([first.values, below.values])[: len(found.values)]
    error = torch.cat([first.residual, below.error])[: len(found.values)]
    values, order = values.sort(descending=True, stable=True)
    alive = values > max(matrix.shape) * EPS * values[0]
    return Spectrum(torch.where(alive, values, 0.0), error[order] + floor)
