"""Rows of queries and keys in the order of llama.cpp, put back into that of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanalyze.checkpoints.content import Content
from wanalyze.checkpoints.dtypes import DType
from wanalyze.checkpoints.files import Range, WeightFile

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Unpermuted:
    """A weight (or bias) of `heads` heads whose rows lie in pairs that RoPE turns; Hugging Face has them in halves.

    The inverse of `permute` in llama.cpp's conversion/llama.py: within a head row 2i + j goes to place j·d/2 + i.
    """

    whole: Content
    heads: int

    @property
    def dtype(self) -> DType:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.whole.shape

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return self.whole.pieces

    def read(self) -> Tensor:
        return self._ordered(self.whole.read())

    def steps(self) -> Tensor | None:
        steps = self.whole.steps()
        return None if steps is None else self._ordered(steps)

    def _ordered(self, rows: Tensor) -> Tensor:
        pairs = rows.reshape(self.heads, len(rows) // (2 * self.heads), 2, *rows.shape[1:])
        return pairs.transpose(1, 2).reshape(rows.shape)
