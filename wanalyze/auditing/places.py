"""Which adapters a place stands for: itself, or all that lie in the folder."""

from __future__ import annotations

from pathlib import Path

from wanalyze.checkpoints import Location
from wanalyze.checkpoints.folders import LocalFolder
from wanalyze.checkpoints.formats import format_of
from wanalyze.checkpoints.sources import ADAPTER_CONFIG
from wanalyze.errors import CheckpointError


def expanded(location: Location) -> list[Location]:
    """The places of adapters in a local folder that is none itself, sorted; the place alone if there are none."""
    if not isinstance(location, Path) or not location.is_dir():
        return [location]
    try:
        if _may_be_adapter(location):
            return [location]
        inside = [location / name.rstrip("/") for name in LocalFolder(location).names if name.endswith("/")]
        return [place for place in inside if _may_be_adapter(place)] or [location]
    except CheckpointError:  # reading it will say so
        return [location]


def _may_be_adapter(folder: Path) -> bool:
    names = LocalFolder(folder).names
    return ADAPTER_CONFIG in names or any(format_of(name) is not None for name in names)
