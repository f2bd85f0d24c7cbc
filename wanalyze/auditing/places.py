"""Which adapters a place stands for: itself, and all that lie in the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wanalyze.checkpoints import Location, public
from wanalyze.checkpoints.folders import LocalFolder
from wanalyze.checkpoints.formats import format_of
from wanalyze.checkpoints.sources import ADAPTER_CONFIG
from wanalyze.errors import CheckpointError

_DEEPEST = 6  # folders in folders


class Place(NamedTuple):
    """Where an adapter lies, and what a report calls it: below a folder, by the way from there."""

    ref: str
    location: Location


def expanded(location: Location) -> list[Place]:
    """The adapters at and below a local folder, sorted; the place alone if there are none.

    What cannot be looked into is a place as well, so that reading it says why: nothing is passed over.
    """
    if not isinstance(location, Path) or not location.is_dir():
        return [Place(public(location), location)]
    around = Path(public(location))
    found = [*_adapters(location, 0)] or [location]
    return [Place(public(around / folder.relative_to(location)), folder) for folder in found]


def _adapters(folder: Path, depth: int, *, inside: bool = False) -> Iterator[Path]:
    """`inside` an adapter, weights without a config are what its training left, and links are for its rules."""
    try:
        names = LocalFolder(folder).names
    except CheckpointError:
        yield folder
        return
    has_config = ADAPTER_CONFIG in names
    is_adapter = has_config or (not inside and any(format_of(name) is not None for name in names))
    folders = [folder / name.rstrip("/") for name in names if name.endswith("/")]
    if is_adapter or (depth == _DEEPEST and folders and not inside):
        yield folder
    inside = inside or has_config
    for below in folders if depth < _DEEPEST else ():
        if not below.is_symlink():
            yield from _adapters(below, depth + 1, inside=inside)
        elif not inside:  # links can make circles: no further than this
            yield from _adapters(below, _DEEPEST)
