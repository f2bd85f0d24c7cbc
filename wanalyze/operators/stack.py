"""Matrices of one shape, worked on together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class Stack:
    """Matrices of one shape as a batch (N, m, n), each kept as it is: nothing is copied together.

    >>> import torch
    >>> from wanalyze.operators import Dense
    >>> (Stack([Dense(torch.eye(2)), Dense(2 * torch.eye(2))]) @ torch.ones(2, 2, 1)).squeeze(-1)
    tensor([[1., 1.],
            [2., 2.]])
    """

    matrices: Sequence[Operator]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.matrices), *self.matrices[0].shape)

    @property
    def T(self) -> Stack:
        return Stack([matrix.T for matrix in self.matrices])

    def __matmul__(self, right: Tensor) -> Tensor:
        products = [matrix @ block for matrix, block in zip(self.matrices, right, strict=True)]
        return torch.stack(products) if len(products) > 1 else products[0][None]
