"""A quantised weight, read as the numbers that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wanalyze.checkpoints.content import Content, Rows
from wanalyze.checkpoints.dtypes import DType, Holds
from wanalyze.checkpoints.files import Range, WeightFile
from wanalyze.checkpoints.quantised.codes import Alphabet, look_up
from wanalyze.checkpoints.quantised.group import Group

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Coded:
    """Codes and what they are worth: (value of a code − zero) · scale, all in the shape of the weight or broadcast.

    Without an `alphabet` a code is its own value.
    """

    codes: Tensor
    scale: Tensor
    alphabet: Alphabet | None = None
    zero: Tensor | float = 0.0

    def weights(self) -> Tensor:
        found = look_up(self.alphabet.values, self.codes) if self.alphabet else self.codes.float()
        found -= self.zero
        return found.mul_(self.scale)

    def widths(self) -> Tensor:
        """Of every weight, the width of the cell that it was rounded in: see `Alphabet.widths`; of integers, one."""
        scale = self.scale.abs()
        if self.alphabet is None:
            return scale.expand(self.codes.shape).contiguous()
        return look_up(self.alphabet.widths, self.codes).mul_(scale)


@dataclass(frozen=True)
class Dequantised:
    """A quantised weight as a content: `shape` and `dtype` are the weight's, `label` is how it was quantised.

    `decode` reads the tensors of `group`. Of a stack (`is_stack`) every tensor has the matrices along its first
    dimension, so that a part of it is the same part of each.
    """

    dtype: DType
    shape: tuple[int, ...]
    group: Group
    decode: Callable[[Group], Coded]
    label: str
    is_stack: bool = False

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return [piece for content in self.group.members.values() for piece in content.pieces]

    def read(self) -> Tensor:
        return self.decode(self.group).weights().contiguous()

    def steps(self) -> Tensor:
        return self.decode(self.group).widths().contiguous()

    def rows(self, start: int, stop: int) -> Content:
        if not self.is_stack:
            return Rows(self, start, stop)
        return replace(self, group=self.group.rows(start, stop), shape=(stop - start, *self.shape[1:]))


def integers(name: str, bits: int) -> DType:
    """The dtype of weights rounded to integers, or to a list of codes, times a scale.

    There is no number 1 whose spacing could be told: `eps` is a cell over the largest number of a block, 2^(1 − bits).
    `smallest` is None because the weights lie on no floating grid; `steps()` says on which they lie.
    """
    return DType(name, bits, Holds.real, 2.0 ** (1 - bits))


def floats(name: str, bits: int, mantissa: int) -> DType:
    """The dtype of weights rounded to small floats, times a scale; `eps` is their spacing at 1."""
    return DType(name, bits, Holds.real, 2.0**-mantissa)
