"""Matrices of a run as a table."""

from __future__ import annotations

from collections.abc import Sequence

from wanalyze import wording
from wanalyze.printable import printable
from wanalyze.result import Module
from wanalyze.terminal.tables import elided, table

TABLE_METRICS = (
    ("relative_norm", "rel. norm"),
    ("effective_rank", "eff. rank"),
    ("stable_rank", "stable"),
    ("intruders_left", "left"),
    ("intruders_right", "right"),
)


def modules_table(modules: Sequence[Module]) -> str:
    """A row per model and matrix: the headline metrics."""
    header = ("model", "module", "shape", *(title for _, title in TABLE_METRICS), "status")
    rows = [
        (
            printable(module.model),
            elided(module.name, 44),
            " × ".join(map(str, module.shape)),
            *(wording.number(module.metric(key)) for key, _ in TABLE_METRICS),
            module.status.value,
        )
        for module in modules
    ]
    return "\n".join(table(header, rows, left=2)) + "\n"
