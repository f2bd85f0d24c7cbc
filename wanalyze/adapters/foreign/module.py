"""A module of an adapter that is being read: its parts, its alpha, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from wanalyze.adapters.adapter import Shift, Update
from wanalyze.checkpoints import TensorEntry
from wanalyze.errors import AdapterError


@dataclass(frozen=True)
class Module:
    """`name` is the base's, `parts` lack what scales them; `weight` is the shape of the base's, if that is known."""

    where: str
    name: str
    parts: Mapping[str, TensorEntry]
    alpha: float | None = None
    weight: tuple[int, ...] | None = None

    def refuse(self, why: str) -> NoReturn:
        raise AdapterError(f"{self.where}: module {self.name[:80]!r} {why}")

    def shape(self, part: str, *, dimensions: Iterable[int]) -> tuple[int, ...]:
        """The shape of a part, which has so many dimensions."""
        if part not in self.parts:
            self.refuse(f"has {', '.join(sorted(self.parts))} but no {part}; save the adapter again")
        found = self.parts[part].shape
        if len(found) not in dimensions:
            self.refuse(f"has {part} of shape {found}, which no such update has")
        return found

    def agree(self, *sizes: int, what: str) -> int:
        """A size that several tensors must have alike."""
        if len(set(sizes)) != 1:
            shapes = ", ".join(f"{part} {entry.shape}" for part, entry in sorted(self.parts.items()))
            self.refuse(f"has {shapes}, which give {what} as {' and '.join(map(str, sizes))}; one must be mended")
        return sizes[0]


@dataclass
class Changes:
    """What an adapter does, by the time all of it is read; of each module the algorithm, with a rank if it has one."""

    updates: list[Update] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)
    replaced: dict[str, TensorEntry] = field(default_factory=dict)
    algorithms: list[tuple[str, int | None]] = field(default_factory=list)
