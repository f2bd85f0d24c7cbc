"""Numbers that a file holds as tensors of one element, which scale its updates."""

from __future__ import annotations

import math
from collections.abc import Mapping

from wanalyze.checkpoints import TensorEntry
from wanalyze.checkpoints.content import expect
from wanalyze.checkpoints.dtypes import Holds
from wanalyze.errors import AdapterError


def numbers(entries: Mapping[str, TensorEntry], *, where: str) -> dict[str, float]:
    """The value of each; AdapterError for what is no finite number. Few bytes, but they lie all over the file."""
    for entry in entries.values():
        if math.prod(entry.shape) != 1 or entry.dtype.holds is Holds.unsupported:
            raise AdapterError(f"{where}: tensor {entry.name[:80]!r} of shape {entry.shape} is not one number")
    expect(entry.content for entry in entries.values())
    found = {key: float(entry.read().reshape(())) for key, entry in entries.items()}
    for key, value in found.items():
        if not math.isfinite(value):
            raise AdapterError(f"{where}: tensor {entries[key].name[:80]!r} is {value}, no number that could scale")
    return found


def scale_of(alpha: float | None, rank: int, *, module: str, where: str) -> float:
    """The scale alpha / rank; 1 where there is no alpha, as every reader of these files has it."""
    if alpha == 0:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has alpha 0, which some programs read as no update and kohya's as scale "
            f"1; write {rank} for scale 1"
        )
    return 1.0 if alpha is None else alpha / rank
