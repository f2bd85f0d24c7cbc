"""A matrix with its rows scaled, never formed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators.operator import Operator, widened


@dataclass(frozen=True, eq=False)
class Scaled:
    """diag(rows) · matrix · diag(columns), of `rows` (m) and `columns` (n); no batch.

    >>> import torch
    >>> from wanalyze.operators import Dense
    >>> Scaled(Dense(torch.ones(2, 3)), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0, 3.0])).dense()
    tensor([[1., 0., 3.],
            [2., 0., 6.]])
    """

    matrix: Operator
    rows: Tensor
    columns_: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape

    @property
    def T(self) -> Scaled:
        return Scaled(self.matrix.T, self.columns_, self.rows)

    def __matmul__(self, right: Tensor) -> Tensor:
        inner = self.matrix @ (widened(self.columns_, right.dtype)[:, None] * right)
        return widened(self.rows, right.dtype)[:, None] * inner

    def columns(self, block: slice, dtype: torch.dtype) -> Tensor:
        rows, columns = widened(self.rows, dtype), widened(self.columns_, dtype)
        return rows[:, None] * self.matrix.columns(block, dtype) * columns[block]

    def dense(self) -> Tensor:
        return self.rows[:, None] * self.matrix.dense() * self.columns_

    def map(self, change: Callable[[Tensor], Tensor]) -> Scaled:
        return Scaled(self.matrix.map(change), change(self.rows), change(self.columns_))
