"""What a tensor's entry stands for: where its bytes lie, and what becomes of them when they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from wanalyze.checkpoints.dtypes import DType, Holds
from wanalyze.checkpoints.files import Range, WeightFile
from wanalyze.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Content(Protocol):
    """A tensor that can be read: `dtype` is what it is stored in, `pieces` where its bytes lie."""

    @property
    def dtype(self) -> DType: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]: ...

    def read(self) -> Tensor:
        """The tensor on the CPU, in memory of its own: as stored, or dequantised to float32."""
        ...

    def steps(self) -> Tensor | None:
        """Of quantised weights, the width of the cell that each was rounded in; None where `dtype` says it."""
        ...


@dataclass(frozen=True)
class Raw:
    """A tensor written out row by row: `size` bytes from `start`, little-endian."""

    file: WeightFile
    start: int
    size: int
    dtype: DType
    shape: tuple[int, ...]

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return ((self.file, (self.start, self.size)),)

    def read(self) -> Tensor:
        import torch

        dtype = torch_dtype(self.dtype, self.file)
        if self.size == 0:
            return torch.empty(self.shape, dtype=dtype)
        return (
            torch.frombuffer(self.file.read(self.start, self.size), dtype=torch.uint8).view(dtype).reshape(self.shape)
        )

    def steps(self) -> None:
        return None


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of another tensor, or, with `index` set, one of the matrices it stacks."""

    whole: Content
    start: int
    stop: int
    is_index: bool = False

    @property
    def dtype(self) -> DType:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        rest = self.whole.shape[1:]
        return rest if self.is_index else (self.stop - self.start, *rest)

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return self.whole.pieces

    def read(self) -> Tensor:
        return self._cut(self.whole.read())

    def steps(self) -> Tensor | None:
        steps = self.whole.steps()
        return None if steps is None else self._cut(steps)

    def _cut(self, tensor: Tensor) -> Tensor:
        part = tensor[self.start : self.stop]
        return (part[0] if self.is_index else part).clone()


def rows(content: Content, start: int, stop: int) -> Content:
    """Rows of a tensor; of one that is written out plainly only their bytes are read."""
    if isinstance(content, Raw) and content.dtype.bits % 8 == 0:
        width = math.prod(content.shape[1:]) * content.dtype.bits // 8
        shape = (stop - start, *content.shape[1:])
        return replace(content, start=content.start + start * width, size=(stop - start) * width, shape=shape)
    return Rows(content, start, stop)


def item(content: Content, index: int) -> Content:
    """One of the matrices that a tensor of three dimensions stacks."""
    part = rows(content, index, index + 1)
    if isinstance(part, Raw):
        return replace(part, shape=part.shape[1:])
    return Rows(content, index, index + 1, is_index=True)


def torch_dtype(dtype: DType, file: WeightFile) -> torch.dtype:
    """The torch dtype of a plain storage dtype; CheckpointError for those torch does not read."""
    import torch

    if dtype.holds is Holds.unsupported:
        raise CheckpointError(f"{file.where}: dtype {dtype.name} is not read")
    found: torch.dtype = getattr(torch, dtype.name)
    return found


def expect(contents: Iterator[Content]) -> None:
    """Tell every file what will be read of it."""
    wanted: dict[int, tuple[WeightFile, list[Range]]] = {}
    for content in contents:
        for file, piece in content.pieces:
            wanted.setdefault(id(file), (file, []))[1].append(piece)
    for file, ranges in wanted.values():
        file.expect(ranges)
