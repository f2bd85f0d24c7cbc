"""What a matrix must be able to do that need not be written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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

    def map(self, change: Callable[[Tensor], Tensor]) -> Operator:
        """The same with every tensor that it is made of changed: moved to a device, widened, checked."""
        ...


def column_blocks(matrix: Operator) -> Iterator[slice]:
    """Slices of the columns that hold a bounded number of entries."""
    n = matrix.shape[-1]
    step = max(1, _BLOCK // max(math.prod(matrix.shape[:-1]), 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def widened(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """To `dtype`, by way of float32 for the 8-bit formats, which torch converts to nothing else."""
    return matrix.to(torch.float32).to(dtype) if matrix.element_size() == 1 else matrix.to(dtype)
