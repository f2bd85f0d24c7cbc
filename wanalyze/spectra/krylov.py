"""Block Golub-Kahan bidiagonalisation: what a matrix looks like from a block of directions, a few passes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators import Stack

# A computed residual is not better than the recurrence itself, which holds to 2-5 eps · σ₁ (measured).
RESIDUAL_FLOOR = 8.0


@dataclass(frozen=True, eq=False)
class Ritz:
    """Approximate singular triplets of one matrix from its Krylov spaces.

    `values` (K) descending; `left`, `right` (K, K): coefficients of the vectors, a column per triplet, in the
    bases of `Krylov`; `residual` (K): ‖W z − θ y‖ with rounding; Wᵀ y = θ z holds to rounding.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    residual: Tensor


class Krylov:
    """Orthonormal bases of span{X, WWᵀX, ...} and span{WᵀX, ...}, grown block by block.

    `matrix` (N, m, n), `start` X (N, m, b); everything happens in X's dtype and on its device. With U, V the
    bases after s steps, B their (s·b) x (s·b) bidiagonal, last the final left block and S its coupling:
    W V = U B + last S Eᵀ and Wᵀ U = V Bᵀ. A block that runs into an invariant space is completed by
    arbitrary orthonormal vectors, which keeps both relations (Golub and Kahan 1965; Golub, Luk, Overton 1981).
    """

    def __init__(self, matrix: Stack, start: Tensor) -> None:
        self.matrix, self.transposed = matrix, matrix.T
        first, _ = _orthonormal(start, start[..., :0])
        self.left, self.right = first, first.new_zeros(*first.shape[:-2], matrix.shape[-1], 0)
        self.width, self.steps = start.shape[-1], 0
        self.diagonal: list[Tensor] = []
        self.below: list[Tensor] = []

    @property
    def most_steps(self) -> int:
        """Beyond this the bases would fill the space."""
        return min(self.matrix.shape[-2:]) // self.width - 1

    def step(self) -> None:
        """One more block: a product with Wᵀ and one with W."""
        block = self.transposed @ self.left[..., -self.width :]
        found, diagonal = _orthonormal(block, self.right)
        self.right = torch.cat([self.right, found], -1)
        block = self.matrix @ found
        found, below = _orthonormal(block, self.left)
        self.left = torch.cat([self.left, found], -1)
        self.diagonal.append(diagonal)
        self.below.append(below)
        self.steps += 1

    def keep(self, chosen: Sequence[int]) -> None:
        """Go on with some of the batch only."""
        if len(chosen) == self.matrix.shape[0]:
            return
        self.matrix = Stack([self.matrix.matrices[i] for i in chosen])
        self.transposed = self.matrix.T
        index = list(chosen)
        self.left, self.right = self.left[index], self.right[index]
        self.diagonal = [block[index] for block in self.diagonal]
        self.below = [block[index] for block in self.below]

    def ritz(self) -> list[Ritz]:
        """The triplets of each matrix of the batch; the small problems are solved in float64 on the CPU."""
        b = self.width
        small = torch.zeros(len(self.left), self.steps * b, self.steps * b, dtype=torch.float64)
        for j, (diagonal, below) in enumerate(zip(self.diagonal, self.below, strict=True)):
            rows = slice(j * b, (j + 1) * b)
            small[:, rows, rows] = diagonal.mT.to(small)
            small[:, (j + 1) * b : (j + 2) * b, rows] = below.to(small)[:, : small.shape[1] - (j + 1) * b]
        last = self.below[-1].to(small)
        eps = torch.finfo(self.left.dtype).eps
        return [_ritz(problem, coupling, eps) for problem, coupling in zip(small, last, strict=True)]

    def bases(self) -> tuple[Tensor, Tensor]:
        """U (N, m, s·b) and V (N, n, s·b), without the block that is not yet multiplied."""
        return self.left[..., : -self.width], self.right


def _ritz(small: Tensor, coupling: Tensor, eps: float) -> Ritz:
    left, values, right = torch.linalg.svd(small)
    residual = torch.linalg.vector_norm(coupling @ right[:, -coupling.shape[0] :].mT, dim=0)
    return Ritz(values, left, right.mT, residual + RESIDUAL_FLOOR * eps * values[0])


def _orthonormal(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Q, R with block = basis (basisᵀ block) + Q R and Q orthonormal to the basis: twice is enough.

    Where nothing is left of the block, random directions take its place: those of a QR may lie in the basis.
    """
    found, first = _thin_qr(_without(block, basis))
    held = torch.linalg.vector_norm(first, dim=-1)  # by each direction of the block: the rows of R
    dead = held <= torch.finfo(block.dtype).eps * torch.linalg.matrix_norm(block)[..., None]
    if dead.any():
        generator = torch.Generator().manual_seed(basis.shape[-1])
        random = torch.randn(found.shape[-2:], generator=generator, dtype=torch.float64).to(found)
        found = torch.where(dead[..., None, :], _thin_qr(_without(random.expand_as(found), basis))[0], found)
        first = torch.where(dead[..., None], 0.0, first)
    found, second = _thin_qr(_without(found, basis))
    return found, second @ first


def _without(block: Tensor, basis: Tensor) -> Tensor:
    return block - basis @ (basis.mT @ block) if basis.shape[-1] else block


def _thin_qr(block: Tensor) -> tuple[Tensor, Tensor]:
    if block.is_cuda:
        found = cholesky_qr(block)
        if found is not None:
            return found
    q, r = torch.linalg.qr(block)
    return q, r


def cholesky_qr(block: Tensor) -> tuple[Tensor, Tensor] | None:
    """Thin QR of a tall block by two rounds of Cholesky (CholeskyQR2), all of it matrix products.

    None where the block is too nearly rank-deficient for it (condition above about eps^-1/2): a Householder QR
    is needed then. Source: Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, ETNA 44 (2015).
    """
    q, r = block, None
    for _ in range(2):
        factor, info = torch.linalg.cholesky_ex(q.mT @ q)
        pivots = factor.diagonal(dim1=-2, dim2=-1)
        limit = 8 * torch.finfo(block.dtype).eps ** 0.5
        if bool((info != 0).any()) or not bool((pivots.amin(-1) > limit * pivots.amax(-1)).all()):
            return None
        q = torch.linalg.solve_triangular(factor, q.mT, upper=False).mT
        r = factor.mT if r is None else factor.mT @ r
    assert r is not None
    return q, r
