"""What an adapter does, read from its headers and config: which module is changed how, and by which tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from wanalyze.checkpoints import TensorEntry
from wanalyze.operators import LowRank


class Update(Protocol):
    """ΔW of one module, rows as outputs; `read` loads its tensors."""

    @property
    def module(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes on disk."""
        ...

    def read(self) -> LowRank: ...


@dataclass(frozen=True)
class Adapter:
    """A parsed adapter.

    `updates` change a weight; `replaced` are tensors saved whole (new heads, embeddings, biases), by the name
    they have in the base. `input_first` says that the base may store weights as (in, out): it decides the
    orientation of square ones. `facts` are what `inspect` shows, `trained_parameters` all that it stores.
    """

    name: str
    method: str
    updates: tuple[Update, ...]
    replaced: Mapping[str, TensorEntry]
    input_first: bool
    facts: Mapping[str, object]
    trained_parameters: int
