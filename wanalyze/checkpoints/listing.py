"""Every file at and below a folder, by name and size, none of them opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wanalyze.checkpoints.folders import Folder
from wanalyze.errors import CheckpointError

_DEEPEST = 4  # folders in folders
_MOST = 20_000  # files in all


@dataclass(frozen=True)
class Listed:
    """A file; `problem` says why it is none that could be opened, and then `size` is None."""

    name: str
    size: int | None
    problem: str | None = None


def listing(folder: Folder) -> list[Listed]:
    """The files of a folder and of those in it, sorted; CheckpointError where they are too many."""
    found: list[Listed] = []
    for listed in _walk(folder, "", 0):
        found.append(listed)
        if len(found) > _MOST:
            raise CheckpointError(f"{folder.where}: holds more than {_MOST} files")
    return sorted(found, key=lambda listed: listed.name)


def _walk(folder: Folder, before: str, depth: int) -> Iterator[Listed]:
    for name in folder.names:
        try:
            size = folder.look(name)
            inner = folder.below(name.rstrip("/")) if name.endswith("/") else None
            is_empty = inner is None or not inner.names
        except CheckpointError as error:
            yield Listed(before + name, None, str(error))
            continue
        if inner is None:
            yield Listed(before + name, size)
        elif depth == _DEEPEST and not is_empty:
            yield Listed(before + name, None, f"lies more than {_DEEPEST} folders deep and was not looked into")
        else:
            yield from _walk(inner, before + name, depth + 1)
