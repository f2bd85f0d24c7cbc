"""Singular triplets of a matrix through float64 Gram matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.operators import Dense, LowRank, Operator, widened

EPS = torch.finfo(torch.float64).eps
KEPT = 1e-3  # of the largest value: what one Gram matrix is trusted with, see `_tall`


@dataclass(frozen=True, eq=False)
class Decomposition:
    """All singular triplets, descending: u (..., m, r), values (..., r), v (..., n, r).

    Where a value is zero in float64, the value is exactly 0 and its vectors are zero columns:
    a null direction has no singular vector of its own.
    """

    u: Tensor
    values: Tensor
    v: Tensor


def decompose(matrix: Operator) -> Decomposition:
    """Singular triplets of `matrix` (..., m, n), in float64.

    Values are exact to a few eps · σ₁, as from LAPACK. A dense matrix costs one Gram product and one
    `eigh` on its short side; `LowRank` costs two thin QRs and an r x r problem.
    """
    if isinstance(matrix, LowRank):
        return _low_rank(matrix)
    dense = matrix.columns(slice(0, matrix.shape[-1]), torch.float64)
    flat = dense.reshape(-1, *dense.shape[-2:])
    parts = [_one(item) for item in flat]
    u, values, v = (torch.stack(column) for column in zip(*parts, strict=True))
    batch = dense.shape[:-2]
    return Decomposition(*(part.reshape(*batch, *part.shape[1:]) for part in (u, values, v)))


def power_of_two(size: float) -> float:
    """The power of two next below `size`, 1 for 0: dividing by it changes no digit and keeps squares in range.

    >>> power_of_two(5.0)
    4.0
    """
    return math.ldexp(1.0, math.frexp(size)[1] - 1) if size else 1.0


def triangles(matrix: LowRank) -> tuple[Tensor, Tensor]:
    """R (min(m, r), r) of left = Q R, and R (min(n, r), r) of rightᵀ = Q R.

    The values of the product are those of scale · R_left R_rightᵀ.
    """
    left, right = (widened(factor, torch.float64) for factor in (matrix.left, matrix.right.mT))
    return torch.linalg.qr(left, mode="r").R, torch.linalg.qr(right, mode="r").R


def _low_rank(matrix: LowRank) -> Decomposition:
    # The thin QRs of `triangles`, with their Q for the vectors: the m x n product is never formed.
    q_left, r_left = torch.linalg.qr(widened(matrix.left, torch.float64))
    q_right, r_right = torch.linalg.qr(widened(matrix.right.mT, torch.float64))
    core = decompose(Dense(matrix.scale * (r_left @ r_right.mT)))
    return Decomposition(q_left @ core.u, core.values, q_right @ core.v)


def _one(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = power_of_two(matrix.abs().amax().item())
    scaled = matrix / scale
    if matrix.shape[0] < matrix.shape[1]:
        v, values, u = _tall(scaled.mT)
    else:
        u, values, v = _tall(scaled)
    return u, values * scale, v


def _tall(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u, values, v of one matrix with at least as many rows as columns.

    `eigh` of WᵀW gives σ² to eps · σ₁², which leaves nothing of a σ below sqrt(eps) · σ₁. So only the directions
    with σ ≥ KEPT · σ₁ are taken from a Gram matrix; the rest of W, rotated and freed of them, is decomposed
    again. A flat spectrum takes one round, one that spans d decades d / 3.
    """
    m, n = matrix.shape
    rest, basis = matrix, torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    u, values, v = matrix.new_zeros(m, 0), matrix.new_zeros(0), matrix.new_zeros(n, 0)
    zero = 0.0
    while rest.shape[1]:
        rotation = torch.linalg.eigh(rest.mT @ rest).eigenvectors
        turned = rest @ rotation
        found, order = torch.linalg.vector_norm(turned, dim=0).sort(descending=True, stable=True)
        if not found.isfinite().all():
            raise NumericsError("the eigenvalues of its Gram matrix did not come out finite")
        zero = zero or max(m, n) * EPS * found[0].item()
        if found[0].item() <= zero:
            break
        turned, basis = turned[:, order], basis @ rotation[:, order]
        kept = int((found >= KEPT * found[0]).sum())
        u = torch.cat([u, turned[:, :kept] / found[:kept]], dim=1)
        values, v = torch.cat([values, found[:kept]]), torch.cat([v, basis[:, :kept]], dim=1)
        rest, basis = _without(turned[:, kept:], u), basis[:, kept:]
    return _sorted_and_padded(u, values, v, n, zero)


def _without(matrix: Tensor, u: Tensor) -> Tensor:
    for _ in range(2):  # once leaves what cancellation brought back
        matrix = matrix - u @ (u.mT @ matrix)
    return matrix


def _sorted_and_padded(u: Tensor, values: Tensor, v: Tensor, n: int, zero: float) -> tuple[Tensor, Tensor, Tensor]:
    values, order = values.sort(descending=True, stable=True)
    alive = int((values > zero).sum())
    order = order[:alive]
    return (
        torch.nn.functional.pad(u[:, order], (0, n - alive)),
        torch.nn.functional.pad(values[:alive], (0, n - alive)),
        torch.nn.functional.pad(v[:, order], (0, n - alive)),
    )
