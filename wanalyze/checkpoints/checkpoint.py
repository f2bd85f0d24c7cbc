"""Named tensors, listed at once and read one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wanalyze.checkpoints.content import Content
from wanalyze.checkpoints.dtypes import DType
from wanalyze.checkpoints.files import WeightFile

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's name and where to read it."""

    name: str
    content: Content

    @property
    def dtype(self) -> DType:
        return self.content.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.content.shape

    @property
    def size(self) -> int:
        """Bytes that reading it takes."""
        return sum(size for _, (_, size) in self.content.pieces)

    @property
    def files(self) -> Sequence[WeightFile]:
        return [file for file, _ in self.content.pieces]

    def read(self) -> Tensor:
        """The tensor in its storage dtype, or dequantised to float32; on the CPU, in memory of its own."""
        return self.content.read()


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model or adapter; `name` is what the user called it.

    `config` is its config.json, empty without one; `revision` the commit of a Hub repository. `notes` say what was
    chosen or done on the way: which of two formats was read, from which quantisation the weights were restored.
    `metadata` are the texts that the file itself holds beside its tensors; `beside` the configs and the index that were
    read with the `files` of weights.
    """

    name: str
    files: tuple[WeightFile, ...]
    entries: Mapping[str, TensorEntry]
    config: Mapping[str, object] = field(default_factory=dict)
    revision: str | None = None
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[WeightFile, ...] = ()

    def read(self, name: str) -> Tensor:
        return self.entries[name].read()
