"""A tensor whose parts lie apart, each written by torch.save on its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from wanalyze.checkpoints.content import Content, torch_dtype
from wanalyze.checkpoints.dtypes import DType
from wanalyze.checkpoints.files import Range, WeightFile, check_memory
from wanalyze.checkpoints.pickles import read_tensor
from wanalyze.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Box: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # the place and the shape of a part


@dataclass(frozen=True)
class Chunk:
    """The part of `shape` at `offsets` of a tensor, in a torch file that is `size` bytes of `file` from `start`."""

    file: WeightFile
    start: int
    size: int
    dtype: DType
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def bytes_needed(self) -> int:
        return math.prod(self.shape) * self.dtype.bits // 8

    def read(self) -> Tensor:
        """It; what is found there must be what was promised."""
        found = read_tensor(_Excerpt(self.file, self.file.read(self.start, self.size)))
        if (found.dtype, found.shape) != (self.dtype, self.shape):
            raise CheckpointError(
                f"{self.file.where}: the chunk at byte {self.start} is {found.dtype.name} of {list(found.shape)}, "
                f".metadata says {self.dtype.name} of {list(self.shape)}; the file is damaged or forged"
            )
        return found.read()


@dataclass(frozen=True)
class Assembled:
    """A tensor of `chunks` that tile it, or its rows from `first` on; `file` is where it is described."""

    file: WeightFile
    chunks: tuple[Chunk, ...]
    dtype: DType
    shape: tuple[int, ...]
    first: int = 0

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return [(chunk.file, (chunk.start, chunk.size)) for chunk in self.chunks]

    def read(self) -> Tensor:
        import torch

        check_memory(math.prod(self.shape) * self.dtype.bits // 8, self.file.where)
        found = torch.empty(self.shape, dtype=torch_dtype(self.dtype, self.file))
        for chunk in self.chunks:
            self._fill(found, chunk)
        return found

    def rows(self, start: int, stop: int) -> Content:
        """Some rows, of which only the chunks that they reach into are read."""
        first, last = self.first + start, self.first + stop
        chunks = tuple(c for c in self.chunks if c.offsets[0] < last and first < c.offsets[0] + c.shape[0])
        return replace(self, chunks=chunks, shape=(stop - start, *self.shape[1:]), first=first)

    def steps(self) -> None:
        return None

    def _fill(self, whole: Tensor, chunk: Chunk) -> None:
        part = chunk.read()
        if not chunk.shape:
            whole.copy_(part)
            return
        begin, end = chunk.offsets[0] - self.first, chunk.offsets[0] - self.first + chunk.shape[0]
        rows = slice(max(begin, 0), min(end, self.shape[0]))
        others = (slice(at, at + size) for at, size in zip(chunk.offsets[1:], chunk.shape[1:], strict=True))
        box = (rows, *others)
        whole[box] = part[rows.start - begin : rows.stop - begin]


@dataclass(frozen=True)
class _Excerpt:
    """Bytes of a file that have been read, as a file of their own."""

    file: WeightFile
    data: bytearray

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def where(self) -> str:
        return self.file.where

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def is_whole(self) -> bool:
        return False

    def read(self, start: int, size: int) -> bytearray:
        if start < 0 or size < 0 or start + size > self.size:
            raise CheckpointError(f"{self.where}: bytes {start} to {start + size} lie outside a chunk of {self.size}")
        return self.data[start : start + size]

    def expect(self, ranges: Iterable[Range]) -> None:
        """It is in memory."""

    def sha256(self) -> None:
        return None


def tile(shape: tuple[int, ...], boxes: Sequence[Box]) -> bool:
    """Whether boxes, each a place and a shape, fill a tensor and do not overlap.

    Only grids are accepted, which is how tensors are sharded: it costs no more than looking at each box once.

    >>> tile((4, 3), [((0, 0), (1, 3)), ((1, 0), (3, 3))]), tile((4, 3), [((0, 0), (2, 3)), ((1, 0), (3, 3))])
    (True, False)
    """
    if any(len(at) != len(shape) or len(size) != len(shape) for at, size in boxes):
        return False
    if 0 in shape:
        return not boxes
    cells = [_cuts(axis, boxes, end) for axis, end in enumerate(shape)]
    return len({at for at, _ in boxes}) == len(boxes) == math.prod(cells) > 0


def _cuts(axis: int, boxes: Sequence[Box], end: int) -> int:
    """Into how many intervals boxes cut an axis; 0 if they do not follow on each other from 0 to `end`."""
    lengths: dict[int, int] = {}
    for at, size in boxes:
        if lengths.setdefault(at[axis], size[axis]) != size[axis]:
            return 0
    position = 0
    for start in sorted(lengths):
        if start != position:
            return 0
        position += lengths[start]
    return len(lengths) if position == end else 0
