"""Matrices of a run as a table, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from wanalyze import markdown, numerals, wording
from wanalyze.printable import elided
from wanalyze.result import Module
from wanalyze.terminal.tables import table

TABLE_METRICS = (
    ("relative_norm", "rel. norm"),
    ("effective_rank", "eff. rank"),
    ("stable_rank", "stable"),
    ("intruders_left", "left"),
    ("intruders_right", "right"),
)
_FEW = 4  # reasons that are listed
_HEADER = ("model", "module", "shape", *(title for _, title in TABLE_METRICS), "status")


def modules_table(modules: Sequence[Module], *, estimated: bool = False) -> str:
    """A row per model and matrix: the headline metrics; and why some of them have none."""
    rows = [(elided(module.model, 20), elided(module.name, 44), *_cells(module)) for module in modules]
    lines = table(_HEADER, rows, left=2) + _reasons(modules) + ([wording.ESTIMATES] if estimated else [])
    return "\n".join(lines) + "\n"


def _reasons(modules: Sequence[Module]) -> list[str]:
    told = [(module.model, module.name, module.reason) for module in modules if module.reason]
    lines = [f"{elided(model, 20)} {elided(name, 44)}: {elided(why, 200)}" for model, name, why in told[:_FEW]]
    return lines + ([f"and {len(told) - _FEW:,} more reasons: --format csv"] if len(told) > _FEW else [])


def modules_markdown(modules: Sequence[Module], *, estimated: bool = False) -> str:
    """The same as a table in Markdown."""
    rows = [(markdown.code(module.model), markdown.code(module.name), *_cells(module)) for module in modules]
    return markdown.table(_HEADER, rows, left=2) + (f"\n{wording.ESTIMATES}\n" if estimated else "")


def _cells(module: Module) -> tuple[str, ...]:
    return (
        " × ".join(map(str, module.shape)),
        *(numerals.number(module.metric(key)) for key, _ in TABLE_METRICS),
        module.status.value,
    )
