"""Records as CSV: one row per model and matrix, numbers in full, names that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from wanalyze.metrics import ALONE, METRICS
from wanalyze.result.inventory import Inventory
from wanalyze.result.records import Module

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CHANGE = ("name", "layer", "kind", "shape", "dtype", "bytes", "rank", "scale", "status", "reason")
_FIELDS = ("model", "name", "layer", "kind", "rows", "columns", "dtype", "status", "reason")


def modules_csv(modules: Iterable[Module]) -> str:
    """The text of `modules.csv`; an empty field is a number that was not measured."""
    rows = (
        (
            *(module.model, module.name, module.layer, module.kind, *module.shape),
            *(module.dtype, module.status.value, module.reason),
            *(module.metric(key) for key in METRICS),
        )
        for module in modules
    )
    return csv_text((*_FIELDS, *METRICS), rows)


def inventory_csv(found: Inventory) -> str:
    """A row for each update of an adapter, or for each tensor of a checkpoint."""
    if found.adapter is None:
        entries = ((entry.name, entry.dtype, _sides(entry.shape), entry.bytes) for entry in found.tensors)
        return csv_text(("name", "dtype", "shape", "bytes"), entries)
    rows = (
        (
            *(change.name, change.layer, change.kind, _sides(change.shape or ()), change.dtype, change.bytes),
            *(change.rank, change.scale, change.status.value, change.reason),
            *(change.metrics.get(key) for key in ALONE),
        )
        for change in found.adapter.changes
    )
    return csv_text((*_CHANGE, *ALONE), rows)


def _sides(shape: Sequence[int]) -> str:
    return " ".join(map(str, shape))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""RFC 4180 with plain newlines. Text that a spreadsheet would take for a formula gets a leading quote.

    >>> csv_text(["a", "b"], [["=1+1", 0.5]])
    "a,b\n'=1+1,0.5\n"
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return repr(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
