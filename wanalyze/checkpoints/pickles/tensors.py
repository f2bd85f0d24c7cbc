"""A tensor as a pickle describes it: a part of a storage, seen with a shape and strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanalyze.checkpoints.content import Content, Raw, torch_dtype
from wanalyze.checkpoints.dtypes import DType
from wanalyze.checkpoints.files import Range, WeightFile
from wanalyze.checkpoints.pickles.opcodes import FORGED, Refused

if TYPE_CHECKING:
    from torch import Tensor

MAX_DIMENSIONS = 8
_MAX_EXTENT = 2**48  # elements along one dimension, as of safetensors


@dataclass(frozen=True)
class StorageType:
    """torch's class of a storage; None for `UntypedStorage`, which counts bytes."""

    dtype: DType | None

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return 1 if self.dtype is None else self.dtype.bits // 8


@dataclass(frozen=True)
class Storage:
    """`count` elements in the archive's file `data/<key>`."""

    kind: StorageType
    key: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.kind.width


@dataclass(frozen=True)
class Strided:
    """A tensor in a storage: element i of it lies at offset + Σ i·strides, counted in elements of `dtype`."""

    storage: Storage
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def check(self) -> None:
        """Refused where it reaches out of its storage or has more elements than it reads bytes for."""
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.strides) != len(self.shape):
            raise Refused(f"has {len(self.shape)} sizes and {len(self.strides)} strides; {FORGED}")
        if min(numbers) < 0 or max(numbers) > _MAX_EXTENT:
            raise Refused(f"has a negative or impossibly large size, stride or offset; {FORGED}")
        if self.offset + self.span > self.storage.size // self.width:
            raise Refused(f"reaches beyond its storage of {self.storage.size} bytes; {FORGED}")
        if self.count > self.span:
            raise Refused(
                f"has {self.count} elements in {self.span} places of its storage (an expanded or overlapping view); "
                "save `tensor.clone()` instead"
            )

    def content(self, file: WeightFile, start: int) -> Content:
        """It, where its storage lies in `file` from byte `start` on."""
        first, size = start + self.offset * self.width, self.span * self.width
        if self._is_plain:
            return Raw(file, first, size, self.dtype, self.shape)
        return View(file, first, size, self.dtype, self.shape, self.strides)

    @property
    def width(self) -> int:
        return self.dtype.bits // 8

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Elements of the storage from its first to its last."""
        if self.count == 0:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def _is_plain(self) -> bool:
        """Whether it lies row by row; the stride of a dimension of size 1 says nothing."""
        expected = 1
        for size, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if size != 1 and stride != expected:
                return self.count == 0
            expected *= size
        return True


@dataclass(frozen=True)
class View:
    """A tensor that does not lie row by row (transposed, a column block): `size` bytes from `start` span it."""

    file: WeightFile
    start: int
    size: int
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return ((self.file, (self.start, self.size)),)

    def read(self) -> Tensor:
        import torch

        span = torch.frombuffer(self.file.read(self.start, self.size), dtype=torch_dtype(self.dtype, self.file))
        return span.as_strided(self.shape, self.strides).clone(memory_format=torch.contiguous_format)

    def steps(self) -> None:
        return None
