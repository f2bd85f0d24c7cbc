"""A matrix as the product of a tall and a wide one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators.operator import widened


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale · left @ right with left (..., m, r) and right (..., r, n).

    >>> import torch
    >>> LowRank(torch.ones(3, 1), torch.ones(1, 2), 0.5).dense()
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000],
            [0.5000, 0.5000]])
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.left.shape[:-1], self.right.shape[-1])

    @property
    def T(self) -> LowRank:
        return LowRank(self.right.mT, self.left.mT, self.scale)

    def __matmul__(self, right: Tensor) -> Tensor:
        inner = widened(self.right, right.dtype) @ right
        return self.scale * (widened(self.left, right.dtype) @ inner)

    def columns(self, block: slice, dtype: torch.dtype) -> Tensor:
        return self.scale * (widened(self.left, dtype) @ widened(self.right[..., block], dtype))

    def dense(self) -> Tensor:
        return self.scale * (self.left @ self.right)

    def map(self, change: Callable[[Tensor], Tensor]) -> LowRank:
        return LowRank(change(self.left), change(self.right), self.scale)
