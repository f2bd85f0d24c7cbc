"""How close each leading singular vector of W1 comes to any singular vector of W0, with its error bar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.spectra.decomposition import EPS, KEPT, Decomposition

# Singular values closer than this, in units of σ₁, share a subspace. Of W1: which vectors span it is up to the
# last digits of the weights, and no solver reproduces it (research notes on multiplicities). Of W0: float64 itself
# tells them apart only to an angle of 1e-2; for the same reason what lies this close to zero is null space.
TUNED_SEPARATION = 1e-6
BASE_SEPARATION = 1e-9
_BACKWARD_ERROR = 32 * EPS  # of eigh on a Gram matrix, in units of σ₁²; LAPACK's constant is smaller


@dataclass(frozen=True, eq=False)
class Overlaps:
    """For each of k vectors (..., k): the enclosure of max_j |cos| and what it points to.

    `matched` is the index j of the nearest vector of the base, −1 where that is one of several with the
    same singular value. `group` numbers the vectors of W1: those that share a number also share a singular
    value, and then only `high`, the cosine of their common subspace, is defined; their `low` is 0. `alone` is
    False for them, also where the others lie beyond k.
    """

    low: Tensor
    high: Tensor
    matched: Tensor
    group: Tensor
    alone: Tensor


def overlaps(tuned: Decomposition, base: Decomposition, *, k: int) -> tuple[Overlaps, Overlaps]:
    """Left and right enclosures of max_j |cos(u_i(W1), u_j(W0))| for i < k, over all j.

    k is at most the number of non-zero singular values of W1; W0 is not zero. A base vector of a multiple singular
    value has no direction of its own: of c, the norm of u_i in their common subspace of dimension d, some vector of
    any basis holds at least c / sqrt(d) and none more than c, and that is the enclosure.
    """
    batch = tuned.values.shape[:-1]
    count = batch.numel()
    sides = []
    for tuned_vectors, base_vectors in ((tuned.u, base.u), (tuned.v, base.v)):
        parts = [
            _one(*item, k=k)
            for item in zip(
                tuned_vectors.reshape(count, *tuned_vectors.shape[-2:]),
                tuned.values.reshape(count, -1),
                base_vectors.reshape(count, *base_vectors.shape[-2:]),
                base.values.reshape(count, -1),
                strict=True,
            )
        ]
        columns = (torch.stack(column).reshape(*batch, k) for column in zip(*parts, strict=True))
        sides.append(Overlaps(*columns))
    return sides[0], sides[1]


def _one(
    tuned_vectors: Tensor, tuned_values: Tensor, base_vectors: Tensor, base_values: Tensor, *, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    alive = base_values > BASE_SEPARATION * base_values[0]
    base_vectors, base_values = base_vectors[:, alive], base_values[alive]
    tuned_group = _groups(tuned_values, TUNED_SEPARATION)
    base_group = _groups(base_values, BASE_SEPARATION)
    wide = int((tuned_group <= tuned_group[k - 1]).sum())  # the last group may reach beyond k
    energy = (base_vectors.mT @ tuned_vectors[:, :wide]).square()
    shared = _sum_by(base_group, energy)
    size = torch.bincount(base_group).to(shared.dtype)[:, None]
    bar = _angle_error(base_values, base_group)[:, None] + _angle_error(tuned_values, tuned_group)[tuned_group[:k]]

    cosine = shared[:, :k].sqrt()
    low = (cosine / size.sqrt() - bar).amax(0).clamp(0, 1)
    high, nearest = (cosine + bar).max(0)
    first = torch.searchsorted(base_group, nearest)
    matched = torch.where(size[nearest, 0] == 1, first, -1)

    together = _sum_by(tuned_group[:wide], shared.mT).mT  # (base groups, tuned groups)
    subspace = (together.sqrt() + bar.amax(1, keepdim=True)).amax(0)[tuned_group[:k]]
    alone = torch.bincount(tuned_group[:wide])[tuned_group[:k]] == 1
    return (
        torch.where(alone, low, 0.0),
        torch.where(alone, high, subspace).clamp(max=1.0),
        torch.where(alone, matched, -1),
        tuned_group[:k],
        alone,
    )


def _groups(values: Tensor, separation: float) -> Tensor:
    """Number the values (n), descending: a gap of more than `separation` · σ₁ starts a new group."""
    apart = values[:-1] - values[1:] > separation * values[0]
    return torch.nn.functional.pad(apart.cumsum(0), (1, 0))


def _sum_by(group: Tensor, rows: Tensor) -> Tensor:
    total = rows.new_zeros(int(group[-1]) + 1, rows.shape[1])
    return total.index_add_(0, group, rows)


def _angle_error(values: Tensor, group: Tensor) -> Tensor:
    """Bound on the angle between computed and exact subspace, per group (Davis and Kahan).

    The perturbation of the Gram matrix over the gap of its eigenvalues; a Gram matrix is only used for values
    within KEPT of the largest it holds, which bounds the ratio of the two.
    """
    ends = values.new_zeros(int(group[-1]) + 1)
    bottom, top = (
        ends.clone().index_copy_(0, group, values),
        ends.index_copy_(0, group.flip(0), values.flip(0)),
    )
    infinity = values.new_full((1,), torch.inf)
    above = torch.cat([infinity, bottom[:-1] - top[1:]])
    below = torch.cat([bottom[:-1] - top[1:], bottom[-1:]])
    gap = torch.minimum(above, below).clamp(min=torch.finfo(values.dtype).tiny)
    leverage = (values[0] / top.clamp(min=torch.finfo(values.dtype).tiny)).clamp(max=1 / KEPT)
    return (_BACKWARD_ERROR * values[0] * leverage / gap).clamp(max=1.0)
