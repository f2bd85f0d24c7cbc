"""The page as text: the result in, HTML out."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wanalyze import wording
from wanalyze.metrics import METRICS
from wanalyze.printable import printable
from wanalyze.report.maps import CELL, TOP, cut_from_maps, metric_maps, outside_the_stack
from wanalyze.result import Module, Result, Status

TABLE_ROWS = 250  # per page; all rows are in modules.csv
COLUMNS = (
    "relative_norm",
    "effective_rank",
    "stable_rank",
    "energy_rank_90",
    "changed_fraction",
    "intruders_left",
    "intruders_right",
    "relative_spectral_norm",
)


def page(result: Result) -> str:
    """The report of `result`: no script, no request, every name escaped; same result, same bytes."""
    style = _text("page.css")
    rows = _ranked(result)
    return (
        _environment()
        .from_string(_text("page.html"))
        .render(
            result=result,
            style=Markup(style),
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            verdict=wording.verdict(result),
            evidence=wording.evidence(result),
            maps=metric_maps(result),
            cell_size=CELL,
            map_top=TOP,
            outside=outside_the_stack(result),
            cut=cut_from_maps(result),
            rows=rows[:TABLE_ROWS],
            row_count=len(rows),
            columns=[METRICS[key] for key in COLUMNS],
            metrics=METRICS,
            failures=wording.failures(result),
            skipped=wording.skipped_reasons(result),
            notes=wording.notes(result),
            files=wording.files(result),
            wording=wording,
        )
    )


def _ranked(result: Result) -> list[Module]:
    """Failures first, then by how far a matrix moved; unchanged ones last."""
    return sorted(
        result.modules,
        key=lambda module: (
            module.status is not Status.failed,
            -(module.metric("relative_norm") or 0.0),
            module.name,
            module.model,
        ),
    )


def _text(name: str) -> str:
    return files("wanalyze.report").joinpath(name).read_text(encoding="utf-8")


def _inert(value: object) -> object:
    """Text from strangers without what turns its reading around, or hides part of it, whatever HTML makes of it."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_inert,
    )
    environment.filters["number"] = wording.number
    environment.filters["share"] = wording.share
    return environment
