"""A sum that is never formed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class Sum:
    """first + sign · second, never formed: W0 + ΔW of an adapter, W1 − W0 of two stored matrices.

    >>> import torch
    >>> from wanalyze.operators import Dense
    >>> Sum(Dense(torch.eye(2)), Dense(torch.ones(2, 2)), -1.0).columns(slice(0, 1), torch.float64)
    tensor([[ 0.],
            [-1.]], dtype=torch.float64)
    """

    first: Operator
    second: Operator
    sign: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    @property
    def T(self) -> Sum:
        return Sum(self.first.T, self.second.T, self.sign)

    def __matmul__(self, right: Tensor) -> Tensor:
        return (self.first @ right) + self.sign * (self.second @ right)

    def columns(self, block: slice, dtype: torch.dtype) -> Tensor:
        return self.first.columns(block, dtype) + self.sign * self.second.columns(block, dtype)

    def dense(self) -> Tensor:
        return self.columns(slice(0, self.shape[-1]), torch.float64)

    def map(self, change: Callable[[Tensor], Tensor]) -> Sum:
        return Sum(self.first.map(change), self.second.map(change), self.sign)
