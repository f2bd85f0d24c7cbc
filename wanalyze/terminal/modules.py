"""Matrices of a run as a table, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from wanalyze import markdown, wording
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
_HEADER = ("model", "module", "shape", *(title for _, title in TABLE_METRICS), "status")


def modules_table(modules: Sequence[Module]) -> str:
    """A row per model and matrix: the headline metrics."""
    rows = [(printable(module.model), elided(module.name, 44), *_cells(module)) for module in modules]
    return "\n".join(table(_HEADER, rows, left=2)) + "\n"


def modules_markdown(modules: Sequence[Module]) -> str:
    """The same as a table in Markdown."""
    rows = [(markdown.code(module.model), markdown.code(module.name), *_cells(module)) for module in modules]
    return markdown.table(_HEADER, rows, left=2)


def _cells(module: Module) -> tuple[str, ...]:
    return (
        " × ".join(map(str, module.shape)),
        *(wording.number(module.metric(key)) for key, _ in TABLE_METRICS),
        module.status.value,
    )
