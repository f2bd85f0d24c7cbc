"""A quantised weight as it is stored: the tensors that lie beside one another, and what each must look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from wanalyze.checkpoints.content import Content, Raw, rows
from wanalyze.checkpoints.dtypes import DType, Holds
from wanalyze.checkpoints.quantised.blocks import Block, block_of, words
from wanalyze.checkpoints.quantised.codes import E8M0, look_up
from wanalyze.checkpoints.quantised.settings import Settings
from wanalyze.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_SMALL = 4096  # bytes; bitsandbytes' quant_state has about 200


@dataclass(frozen=True)
class Group:
    """The tensors named `prefix` + suffix that make up one weight; `members` has them by suffix.

    Shapes and dtypes are known from headers; whatever reads a tensor checks what it holds.
    """

    settings: Settings
    scheme: str
    prefix: str
    members: Mapping[str, Content]

    def __contains__(self, suffix: str) -> bool:
        return suffix in self.members

    def refuse(self, why: str, suffix: str | None = None) -> NoReturn:
        """CheckpointError that names the weight, or one of its tensors."""
        name = self.prefix + (suffix or "")
        raise CheckpointError(f"{self.settings.where}: {name[:160]!r}, quantised with {self.scheme}, {why[:300]}")

    def shape(self, suffix: str) -> tuple[int, ...]:
        return self.members[suffix].shape

    def dtype(self, suffix: str) -> DType:
        return self.members[suffix].dtype

    def expect_shape(self, suffix: str, *allowed: tuple[int, ...]) -> None:
        if self.shape(suffix) not in allowed:
            wanted = " or ".join(str(list(shape)) for shape in allowed)
            self.refuse(f"has the shape {list(self.shape(suffix))}, the tensors beside it call for {wanted}", suffix)

    def expect_dtype(self, suffix: str, *allowed: str) -> None:
        if self.dtype(suffix).name not in allowed:
            self.refuse(f"is stored in {self.dtype(suffix).name}, {' or '.join(allowed)} is needed", suffix)

    def expect_matrix(self, *suffixes: str) -> None:
        for suffix in suffixes:
            if len(self.shape(suffix)) != 2 or 0 in self.shape(suffix):
                self.refuse(f"has the shape {list(self.shape(suffix))}, a matrix is needed", suffix)

    def block(self, suffix: str, shape: tuple[int, ...], told: Sequence[Block]) -> Block:
        """The weights of `shape` that share a scale of those in `suffix`; see `blocks.block_of`."""
        found = block_of(self.shape(suffix), shape, told)
        if found is None:
            rule = " or ".join(dict.fromkeys(map(words, told))) or "one scale for equal blocks"
            self.refuse(f"has the shape {list(self.shape(suffix))}, weights of {list(shape)} call for {rule}", suffix)
        return found

    def count(self, suffix: str) -> int:
        return math.prod(self.shape(suffix))

    def size(self, suffix: str) -> int:
        """Bytes that a member takes."""
        return -(-self.count(suffix) * self.dtype(suffix).bits // 8)

    def read(self, suffix: str) -> Tensor:
        return self.members[suffix].read()

    def read_bytes(self, suffix: str) -> Tensor:
        """A member's bytes as uint8: in its shape, the last dimension as many times longer as an element has bytes."""
        import torch

        content = self.members[suffix]
        if isinstance(content, Raw):
            stored = content.read_bytes()
        else:
            stored = content.read().contiguous().reshape(-1).view(torch.uint8)
        *sides, last = content.shape or (1,)
        return stored.reshape(*sides, last * content.dtype.bits // 8)

    def read_small(self, suffix: str) -> bytes:
        """The bytes of a member that says how the others are to be read; without torch, so that it can be listed."""
        content = self.members[suffix]
        if self.size(suffix) > _SMALL:
            self.refuse(f"takes {self.size(suffix)} bytes, more than the {_SMALL} it may have", suffix)
        if isinstance(content, Raw):
            return bytes(content.file.read(content.start, content.size))
        return bytes(self.read_bytes(suffix).reshape(-1).tolist())

    def read_scale(self, suffix: str) -> Tensor:
        """Scales in float32, all finite; those in uint8 are exponents of two, as E8M0 has them."""
        dtype = self.dtype(suffix)
        if dtype.name in ("uint8", "F8_E8M0"):
            found = look_up(E8M0.values, self.read_bytes(suffix)).reshape(self.shape(suffix))
        elif dtype.holds is Holds.real:
            found = self.read(suffix).float()
        else:
            self.refuse(f"is stored in {dtype.name}, a scale is a float or an exponent in uint8", suffix)
        return self.finite(found, suffix)

    def finite(self, found: Tensor, suffix: str) -> Tensor:
        if not found.isfinite().all():
            self.refuse("holds NaN or infinity, a scale must be finite; the file is damaged or forged", suffix)
        return found

    def rows(self, start: int, stop: int) -> Group:
        """The part of a stack: these rows of every member."""
        return replace(self, members={suffix: rows(part, start, stop) for suffix, part in self.members.items()})
