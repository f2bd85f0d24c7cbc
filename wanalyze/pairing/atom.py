"""The smallest matrices that any checkpoint of a family stores as tensors of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from wanalyze.checkpoints import TensorEntry
from wanalyze.checkpoints.content import turned


class Span(NamedTuple):
    """Of the rows, cut into `groups` equal ones, those from `start` to `stop` of each."""

    groups: int
    start: int
    stop: int


@dataclass(frozen=True)
class Atom:
    """One such matrix, or vector; `key` is the same on both sides, `transposed` says that it is stored (in, out)."""

    key: str
    entry: TensorEntry
    transposed: bool = False

    def stored_as(self, other: Atom) -> TensorEntry:
        """Its entry, turned where the other side stores it the other way."""
        if self.transposed == other.transposed or len(self.entry.shape) != 2:
            return self.entry
        return TensorEntry(self.entry.name, turned(self.entry.content))


Cut: TypeAlias = "Callable[[], list[Atom] | str]"


@dataclass(frozen=True)
class Composite:
    """A tensor that holds several atoms, of the given keys; `cut` gives them, or the reason why it cannot."""

    entry: TensorEntry
    keys: tuple[str, ...]
    cut: Cut
