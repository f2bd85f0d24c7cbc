"""Small value types for a matrix that need not be written out: shape, `@`, `.T`, `columns`, `dense()`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Protocol

import torch
from torch import Tensor

_BLOCK = 2**25  # entries widened at a time: 256 MiB of float64


class Operator(Protocol):
    """A real matrix of `shape` (..., m, n); leading dimensions are a batch.

    Products and `columns` come in the dtype asked for, whatever the storage: a matrix stored in 16 bits is widened
    a block at a time and never as a whole.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def T(self) -> Operator: ...

    def __matmul__(self, right: Tensor) -> Tensor: ...

    def columns(self, block: slice, dtype: torch.dtype) -> Tensor: ...

    def dense(self) -> Tensor: ...


def column_blocks(matrix: Operator) -> Iterator[slice]:
    """Slices of the columns that hold a bounded number of entries."""
    n = matrix.shape[-1]
    step = max(1, _BLOCK // max(math.prod(matrix.shape[:-1]), 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix written out, in any floating dtype.

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
        if self.matrix.dtype == right.dtype:
            return _product(self.matrix, right)
        parts = (_product(self.columns(block, right.dtype), right[..., block, :]) for block in column_blocks(self))
        return reduce(add, parts)

    def columns(self, block: slice, dtype: torch.dtype) -> Tensor:
        return widened(self.matrix[..., block], dtype)

    def dense(self) -> Tensor:
        return self.matrix


def widened(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """To `dtype`, by way of float32 for the 8-bit formats, which torch converts to nothing else."""
    return matrix.to(torch.float32).to(dtype) if matrix.element_size() == 1 else matrix.to(dtype)


def _product(matrix: Tensor, right: Tensor) -> Tensor:
    # Right factors that lie column by column keep a thin product at the speed of reading the matrix: written as
    # matrix.mT @ block, the same product took up to four times as long (measured with MKL and OpenBLAS).
    return (right.mT.contiguous() @ matrix.mT).mT


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


@dataclass(frozen=True, eq=False)
class Sum:
    """first + sign · second, never formed: W0 + ΔW of an adapter, W1 − W0 of two stored matrices.

    >>> import torch
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


@dataclass(frozen=True, eq=False)
class Stack:
    """Matrices of one shape as a batch (N, m, n), each kept as it is: nothing is copied together.

    >>> import torch
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
