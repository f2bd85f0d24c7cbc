"""A Kronecker product that is never formed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators.operator import Operator, widened


@dataclass(frozen=True, eq=False)
class Kronecker:
    """scale · first ⊗ second, of first (a, c) and second (b, d): (a·b, c·d); no batch.

    Its singular values are all products of theirs (Horn and Johnson, Topics in Matrix Analysis, theorem 4.2.15).

    >>> import torch
    >>> from wanalyze.operators import Dense
    >>> Kronecker(Dense(torch.tensor([[1.0, 2.0]])), Dense(torch.eye(2)), 2.0).dense()
    tensor([[2., 0., 4., 0.],
            [0., 2., 0., 4.]])
    """

    first: Operator
    second: Operator
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        (a, c), (b, d) = self.first.shape, self.second.shape
        return a * b, c * d

    @property
    def T(self) -> Kronecker:
        return Kronecker(self.first.T, self.second.T, self.scale)

    def __matmul__(self, right: Tensor) -> Tensor:
        # (A ⊗ B) vec(X) = vec(A X Bᵀ), X filled row by row; k columns at once.
        (a, c), (b, d), k = self.first.shape, self.second.shape, right.shape[-1]
        inner = self.second @ right.reshape(c, d, k).movedim(1, 0).reshape(d, c * k)
        outer = self.first @ inner.reshape(b, c, k).movedim(1, 0).reshape(c, b * k)
        return self.scale * outer.reshape(a * b, k)

    def columns(self, block: slice, dtype: torch.dtype) -> Tensor:
        (a, c), (b, d) = self.first.shape, self.second.shape
        start, stop, _ = block.indices(c * d)
        reached = slice(start // d, -(-stop // d))  # columns of `first` that the block touches
        left, right = self.first.columns(reached, dtype), self.second.columns(slice(0, d), dtype)
        whole = (left[:, None, :, None] * right[None, :, None, :]).reshape(a * b, -1)
        offset = start - reached.start * d
        return self.scale * whole[:, offset : offset + stop - start]

    def dense(self) -> Tensor:
        first, second = (widened(part.dense(), torch.float64) for part in (self.first, self.second))
        return (self.scale * torch.kron(first, second)).to(self.first.dense().dtype)

    def map(self, change: Callable[[Tensor], Tensor]) -> Kronecker:
        return Kronecker(self.first.map(change), self.second.map(change), self.scale)
