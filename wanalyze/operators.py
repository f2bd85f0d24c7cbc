"""Small value types for a matrix that need not be written out: shape, `@`, `.T`, `dense()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor


class Operator(Protocol):
    """A real matrix of `shape` (..., m, n); leading dimensions are a batch."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def T(self) -> Operator: ...

    def __matmul__(self, right: Tensor) -> Tensor: ...

    def dense(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix written out.

    >>> import torch
    >>> Dense(torch.eye(2)).T.shape
    (2, 2)
    """

    matrix: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def T(self) -> Dense:
        return Dense(self.matrix.mT)

    def __matmul__(self, right: Tensor) -> Tensor:
        return self.matrix @ right

    def dense(self) -> Tensor:
        return self.matrix


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
        return self.scale * (self.left @ (self.right @ right))

    def dense(self) -> Tensor:
        return self.scale * (self.left @ self.right)


Structured: TypeAlias = Dense | LowRank
