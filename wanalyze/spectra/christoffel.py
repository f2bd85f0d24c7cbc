"""The block Christoffel bound: how much of a direction an eigenspace can hold, given a Krylov space.

A = W Wᵀ, X an orthonormal start block whose columns are the directions asked about, Q an orthonormal basis of the
Krylov space of s blocks, T = Qᵀ A Q = S Θ Sᵀ. For a unit v with A v = λ v, z = Qᵀ v solves (T − λ) z = E_s t for
some t: in Ritz coordinates z lies in the range of M = (Θ − λ)⁻¹ S_lᵀ with S_l the last block of rows of S, and
‖z‖ ≤ 1. The overlap ⟨x_i, v⟩ is row i of S times z, so ⟨x_i, v⟩² ≤ ‖P_range(M) s_i‖². It is the Christoffel number
1/K_s(λ) of the spectral measure for a block of one (Simon, "The Christoffel-Darboux kernel", 2008).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wanalyze.spectra.krylov import Ritz

_CHUNK = 2**22  # entries of the tables of one chunk of eigenvalues
# Cholesky of MᵀM loses what lies below the root of rounding; such λ, next to a Ritz value, get a QR of M.
_PIVOT = 1e-5


def christoffel(ritz: Ritz, width: int, columns: Tensor, dropped: Tensor, values: Tensor) -> Tensor:
    """Bounds on ⟨x_i, v⟩² (len(values), len(columns)) for the singular vectors v of W at the singular `values`.

    `columns` are indices into the start block, `width` its size; rows of `dropped` Ritz pairs are left out: they
    have converged, and what they hold of x_i is bounded by the caller.
    """
    rows = ~dropped
    theta = ritz.values[rows]
    first, last = ritz.left[columns][:, rows], ritz.left[-width:][:, rows]
    mass = first.square().sum(1)
    if len(theta) <= width:
        return mass.expand(len(values), -1)
    products = (last[:, None] * last).reshape(width * width, -1).mT.contiguous()
    shares = (last[:, None] * first).reshape(width * len(columns), -1).mT.contiguous()
    step = max(16, _CHUNK // (len(theta) + width * width))
    chunks = (values[start : start + step] for start in range(0, len(values), step))
    parts = [_bound(theta, first, last, products, shares, chunk) for chunk in chunks]
    return torch.minimum(torch.cat(parts), mass)


def _bound(theta: Tensor, first: Tensor, last: Tensor, products: Tensor, shares: Tensor, values: Tensor) -> Tensor:
    """Σ over columns of (MᵀM)^-1/2 Mᵀ s_i, for one chunk of values, by b x b Cholesky factors."""
    width, count = last.shape[0], first.shape[0]
    weights = _weights(theta, values)
    normal = (weights.square() @ products).reshape(-1, width, width)
    right = (weights @ shares).reshape(-1, width, count)
    factor, info = torch.linalg.cholesky_ex(normal)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    sound = (info == 0) & (pivots.amin(-1) > _PIVOT * pivots.amax(-1))
    bound = values.new_zeros(len(values), count)
    half = torch.linalg.solve_triangular(factor[sound], right[sound], upper=False)
    bound[sound] = half.square().sum(1)
    for i in torch.nonzero(~sound)[:, 0].tolist():
        bound[i] = _bound_by_qr(weights[i], first, last)
    return bound


def _weights(theta: Tensor, values: Tensor) -> Tensor:
    """1 / (θ² − σ²) as (θ − σ)(θ + σ), which keeps rounding at eps · σ₁, scaled to at most 1."""
    distance = (theta - values[:, None]) * (theta + values[:, None])
    least = torch.finfo(theta.dtype).eps * theta.amax().square()
    distance = torch.where(distance.abs() < least, least, distance)
    weights: Tensor = distance.reciprocal()
    return weights / weights.abs().amax(1, keepdim=True)


def _bound_by_qr(weights: Tensor, first: Tensor, last: Tensor) -> Tensor:
    # Rows in falling order keep a graded matrix's small rows out of the rounding of the large ones; where M is
    # short of rank Q holds more than its range, and the bound is the larger for it.
    order = weights.abs().argsort(descending=True)
    basis, _ = torch.linalg.qr(weights[order, None] * last.mT[order])
    held: Tensor = (first[:, order] @ basis).square().sum(1)
    return held
