"""The plain way of finding intruder dimensions, in float32, and the same in float64 with what can be known of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.decisions import Cosines

# In units of σ₁. A vector of W1 whose value has a neighbour as close as this turns with the last digits of stored
# weights. Vectors of W0 as close as this turn with the last digits of the decomposition: float64 LAPACK is off by
# some 10 eps · σ₁ / gap, an angle of 1e-6 at this gap. Below BASE_NULL there is null space, by definition.
TUNED_SEPARATION = 1e-6
BASE_SEPARATION = 1e-9
BASE_NULL = 1e-7


@dataclass(frozen=True, eq=False)
class Plain:
    """max_j |cos| of the k leading vectors of each side, and the singular values of ΔW, all in float32."""

    left: Tensor
    right: Tensor
    update_values: Tensor


@dataclass(frozen=True, eq=False)
class Oracle:
    """The cosines of both sides in float64: a point where `defined`, else what every choice of basis stays within."""

    left: Cosines
    right: Cosines


def plain(base: Tensor, tuned: Tensor, k: int) -> Plain:
    """Two decompositions, a product and a maximum: null directions and multiple values are not looked for."""
    base, tuned = base.to(torch.float32), tuned.to(torch.float32)
    base_u, _, base_vh = torch.linalg.svd(base, full_matrices=False)
    tuned_u, _, tuned_vh = torch.linalg.svd(tuned, full_matrices=False)
    left = (base_u.mT @ tuned_u[:, :k]).abs().amax(0)
    right = (base_vh @ tuned_vh[:k].mT).abs().amax(0)
    return Plain(left, right, torch.linalg.svdvals(tuned - base))


def oracle(base: Tensor, tuned: Tensor, k: int) -> Oracle:
    """What float64 LAPACK can tell; k is at most the rank of W1.

    Not defined is the cosine of a vector of W1 that is not TUNED_SEPARATION away from its neighbours: it lies
    between 0 and the cosine of their subspaces. Nor is it where a subspace of W0 of dimension d, of values not
    BASE_SEPARATION apart, holds more of the vector, c, than any single vector does: some vector of every basis of it
    holds c / sqrt(d) or more, and none more than c.
    """
    base_u, base_values, base_vh = torch.linalg.svd(base.to(torch.float64), full_matrices=False)
    tuned_u, tuned_values, tuned_vh = torch.linalg.svd(tuned.to(torch.float64), full_matrices=False)
    alive = base_values > BASE_NULL * base_values[0]
    base_group = _groups(base_values[alive], BASE_SEPARATION)
    tuned_group = _groups(tuned_values, TUNED_SEPARATION)
    wide = int((tuned_group <= tuned_group[k - 1]).sum())  # the last group may reach beyond k
    tuned_group = tuned_group[:wide]
    return Oracle(
        _cosines(base_u[:, alive].mT @ tuned_u[:, :wide], base_group, tuned_group, k),
        _cosines(base_vh[alive] @ tuned_vh[:wide].mT, base_group, tuned_group, k),
    )


def _cosines(products: Tensor, base_group: Tensor, tuned_group: Tensor, k: int) -> Cosines:
    """Of the products (base vectors, tuned vectors): enclosures for the first k of the latter."""
    energy = _sums(products.square(), base_group)
    dimension = torch.bincount(base_group).to(energy.dtype)[:, None]
    high = energy[:, :k].amax(0)
    low = (energy / dimension)[:, :k].amax(0)
    together = _sums(energy.mT, tuned_group).amax(1)[tuned_group[:k]]
    alone = torch.bincount(tuned_group)[tuned_group[:k]] == 1
    return Cosines(
        torch.where(alone, low, 0).sqrt().clamp(max=1),
        torch.where(alone, high, together).sqrt().clamp(max=1),
        alone & (low == high),
    )


def _groups(values: Tensor, separation: float) -> Tensor:
    """Number descending values: those of one number follow each other at no more than `separation` · σ₁."""
    apart = values[:-1] - values[1:] > separation * values[0]
    return torch.cat([apart.new_zeros(1, dtype=torch.long), apart.cumsum(0)])


def _sums(rows: Tensor, group: Tensor) -> Tensor:
    """The sums of the rows that share a number."""
    return rows.new_zeros(int(group[-1]) + 1, rows.shape[1]).index_add_(0, group, rows)
