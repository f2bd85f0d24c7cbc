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
_NEAR = 1e-4  # relative change of a row by the error of σ; nearer rows would be noise
# Cholesky of MᵀM loses the square of the spread of its pivots; λ next to a Ritz value get a QR of M.
_SPREAD = 1e4


def christoffel(ritz: Ritz, width: int, columns: Tensor, dropped: Tensor, values: Tensor, blur: Tensor) -> Tensor:
    """Bounds on |⟨x_i, v⟩| (len(values), len(columns)) for the singular vectors v of W at the singular `values`.

    `columns` are indices into the start block, `width` its size; rows of `dropped` Ritz pairs are left out: they
    have converged, and what they hold of x_i is bounded by the caller. Each value may be off by its `blur`, rounding
    of the recurrence included. That changes a row of M by blur / |θ − σ| of itself; rows so near that this is more than
    _NEAR are not constrained at all.
    """
    rows = ~dropped
    theta = ritz.values[rows]
    first, last = ritz.left[columns][:, rows], ritz.left[-width:][:, rows]
    mass = first.square().sum(1).sqrt()
    if len(theta) <= width:
        return mass.expand(len(values), -1)
    products = (last[:, None] * last).reshape(width * width, -1).mT.contiguous()
    shares = (last[:, None] * first).reshape(width * len(columns), -1).mT.contiguous()
    step = max(16, _CHUNK // (len(theta) + width * width))
    bounds = []
    for start in range(0, len(values), step):
        chunk = slice(start, start + step)
        moved = 2 * blur[chunk, None] / (theta - values[chunk, None]).abs()
        near = moved > _NEAR
        weights = _weights(theta, values[chunk], near)
        energy = _energy(weights, first, last, products, shares) + near.to(first.dtype) @ first.square().mT
        moved = moved.masked_fill(near, 0.0).amax(1, keepdim=True)
        bounds.append(energy.sqrt() * (1 + moved) + moved * mass)
    return torch.minimum(torch.cat(bounds), mass)


def _energy(weights: Tensor, first: Tensor, last: Tensor, products: Tensor, shares: Tensor) -> Tensor:
    """‖P_range(M) s_i‖² for one chunk of values: ‖(MᵀM)^-1/2 Mᵀ s_i‖², by b x b Cholesky factors."""
    width, count = last.shape[0], first.shape[0]
    normal = (weights.square() @ products).reshape(-1, width, width)
    right = (weights @ shares).reshape(-1, width, count)
    factor, info = torch.linalg.cholesky_ex(normal)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    spread = pivots.amax(-1) / pivots.amin(-1)
    sound = (info == 0) & (spread < _SPREAD)
    energy = weights.new_zeros(len(weights), count)
    half = torch.linalg.solve_triangular(factor[sound], right[sound], upper=False)
    lost = width * torch.finfo(weights.dtype).eps * spread[sound, None].square()
    energy[sound] = half.square().sum(1) + lost
    if not sound.all():
        energy[~sound] = _energy_by_qr(weights[~sound], first, last)
    return energy


def _weights(theta: Tensor, values: Tensor, near: Tensor) -> Tensor:
    """1 / (θ² − σ²) as (θ − σ)(θ + σ), which keeps rounding at eps · σ₁, scaled to at most 1; 0 where too near."""
    distance = (theta - values[:, None]) * (theta + values[:, None])
    weights: Tensor = distance.masked_fill(near, torch.inf).reciprocal()
    return weights / weights.abs().amax(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _energy_by_qr(weights: Tensor, first: Tensor, last: Tensor) -> Tensor:
    # Rows in falling order keep a graded matrix's small rows out of the rounding of the large ones; where M is
    # short of rank Q holds more than its range, and the energy is the larger for it.
    order = weights.abs().argsort(dim=1, descending=True)
    rows = weights.gather(1, order)[..., None] * last.mT[order]
    basis, _ = torch.linalg.qr(rows)
    held: Tensor = (first.mT[order].mT @ basis).square().sum(-1)
    return held
