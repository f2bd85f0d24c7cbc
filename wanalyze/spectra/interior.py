"""Singular vectors deep in the spectrum of W, next to a given value, by shift and invert."""

from __future__ import annotations

import torch
from torch import Tensor

from wanalyze.operators import Operator
from wanalyze.spectra.krylov import RESIDUAL_FLOOR
from wanalyze.spectra.values import gram

_BLOCK = 8
_ROUNDS = 12  # each brings the nearest vectors closer by the ratio of distances to the shift


class Interior:
    """Finds triplets of W (m, n) next to a value; the Gram matrix on the short side is formed once.

    Inverse subspace iteration with W Wᵀ − σ² I: one LU factorisation per shift.
    """

    def __init__(self, matrix: Operator) -> None:
        self.short = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.T
        lower, self.scale = gram(matrix)
        lower = lower.tril()
        self.gram = lower + lower.tril(-1).mT

    def near(self, value: float, direction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """(near (r, p), far, values (p), residual (p)) next to `value`, from a direction (r) on the short side.

        None where the shift is an eigenvalue to the last digit, which cannot be inverted.

        Wᵀ · near = values · far exactly; the residual is that of W · far = values · near, with rounding.
        """
        r = len(direction)
        shifted = self.gram - (value / self.scale) ** 2 * torch.eye(r, dtype=self.gram.dtype, device=self.gram.device)
        *factors, info = torch.linalg.lu_factor_ex(shifted)
        if info.item():
            return None
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(r, _BLOCK - 1, generator=generator, dtype=torch.float64).to(direction)
        block = torch.cat([direction[:, None], random], 1)
        for _ in range(_ROUNDS):
            block = torch.linalg.qr(torch.linalg.lu_solve(*factors, torch.linalg.qr(block)[0]))[0]
        small = block.mT @ self.gram @ block
        eigenvalues, rotation = torch.linalg.eigh(small)
        near = (block @ rotation)[:, eigenvalues > 0]
        far = self.short.T @ near
        values = torch.linalg.vector_norm(far, dim=0)
        far = far / values
        residual = torch.linalg.vector_norm(self.short @ far - near * values, dim=0)
        floor = (
            RESIDUAL_FLOOR * torch.finfo(torch.float64).eps * torch.linalg.matrix_norm(self.gram).sqrt() * self.scale
        )
        return near, far, values, residual + floor
