"""What a tensor's entry stands for: where its bytes lie, and what becomes of them when they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

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


@runtime_checkable
class InRows(Protocol):
    """Also a content, of which some rows can be read without the others."""

    def rows(self, start: int, stop: int) -> Content: ...


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
        return self.read_bytes().view(torch_dtype(self.dtype, self.file)).reshape(self.shape)

    def read_bytes(self) -> Tensor:
        """Its bytes in a row (uint8), of whatever dtype they are."""
        import torch

        if self.size == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self.file.read(self.start, self.size), dtype=torch.uint8)

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


@dataclass(frozen=True)
class Joined:
    """Tensors one below the other, or along another `axis`."""

    parts: tuple[Content, ...]
    axis: int = 0

    @property
    def dtype(self) -> DType:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (*first[: self.axis], sum(part.shape[self.axis] for part in self.parts), *first[self.axis + 1 :])

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return [piece for part in self.parts for piece in part.pieces]

    def read(self) -> Tensor:
        return _joined([part.read() for part in self.parts], self.axis)

    def steps(self) -> Tensor | None:
        found = [part.steps() for part in self.parts]
        known = [steps for steps in found if steps is not None]
        return _joined(known, self.axis) if len(known) == len(found) else None


@dataclass(frozen=True)
class Picked:
    """Along `axis`, cut into `groups` equal ones, what lies from `start` to `stop` in each."""

    whole: Content
    groups: int
    start: int
    stop: int
    axis: int = 0

    @property
    def dtype(self) -> DType:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        size = self.groups * (self.stop - self.start)
        return (*self.whole.shape[: self.axis], size, *self.whole.shape[self.axis + 1 :])

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return self.whole.pieces

    def read(self) -> Tensor:
        return self._cut(self.whole.read())

    def steps(self) -> Tensor | None:
        steps = self.whole.steps()
        return None if steps is None else self._cut(steps)

    def _cut(self, tensor: Tensor) -> Tensor:
        size = self.whole.shape[self.axis] // self.groups
        grouped = tensor.reshape(*tensor.shape[: self.axis], self.groups, size, *tensor.shape[self.axis + 1 :])
        part = grouped.narrow(self.axis + 1, self.start, self.stop - self.start)
        return part.clone().reshape(self.shape)


@dataclass(frozen=True)
class Turned:
    """A matrix with its rows as columns."""

    whole: Content

    @property
    def dtype(self) -> DType:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.whole.shape[::-1]

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return self.whole.pieces

    def read(self) -> Tensor:
        return self.whole.read().mT.contiguous()

    def steps(self) -> Tensor | None:
        steps = self.whole.steps()
        return None if steps is None else steps.mT.contiguous()


def rows(content: Content, start: int, stop: int) -> Content:
    """Rows of a tensor; of one that lies in its file row by row only their bytes are read."""
    if isinstance(content, Raw) and content.dtype.bits % 8 == 0:
        width = math.prod(content.shape[1:]) * content.dtype.bits // 8
        shape = (stop - start, *content.shape[1:])
        return replace(content, start=content.start + start * width, size=(stop - start) * width, shape=shape)
    return content.rows(start, stop) if isinstance(content, InRows) else Rows(content, start, stop)


def item(content: Content, index: int) -> Content:
    """One of the matrices that a tensor of three dimensions stacks."""
    part = rows(content, index, index + 1)
    if isinstance(part, Raw):
        return replace(part, shape=part.shape[1:])
    return replace(part, is_index=True) if isinstance(part, Rows) else Rows(part, 0, 1, is_index=True)


def picked(content: Content, groups: int, start: int, stop: int, axis: int = 0) -> Content:
    """Of a tensor cut along `axis` into `groups` equal ones, what lies from `start` to `stop` in each.

    Of rows that are written out plainly only their bytes are read.
    """
    if axis == 0 and groups == 1:
        return rows(content, start, stop)
    if axis == 0 and isinstance(content, Raw):
        size = content.shape[0] // groups
        return Joined(tuple(rows(content, size * i + start, size * i + stop) for i in range(groups)))
    return Picked(content, groups, start, stop, axis)


def turned(content: Content) -> Content:
    """A matrix with its rows as columns."""
    return content.whole if isinstance(content, Turned) else Turned(content)


def _joined(tensors: list[Tensor], axis: int) -> Tensor:
    import torch

    # Not every dtype of one byte can be concatenated; bytes can.
    if tensors[0].element_size() == 1:
        return torch.cat([tensor.view(torch.uint8) for tensor in tensors], axis).view(tensors[0].dtype)
    return torch.cat(tensors, axis)


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
