"""A result in a notebook: a small table, and a data frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from wanalyze.errors import UsageError
from wanalyze.metrics import METRICS
from wanalyze.numerals import NOT_MEASURED, number
from wanalyze.printable import printable

if TYPE_CHECKING:
    from pandas import DataFrame

    from wanalyze.result.records import Model, Module

_MOST = 50  # models that are shown
_LONGEST = 80  # characters of a name
_HEADER = ("model", "method", "measured", "effective rank", "relative norm", "intruders out / in")
_OF_MODULE = ("model", "name", "layer", "kind", "dtype", "reason")


def models_html(models: Sequence[Model], *, estimated: bool) -> str:
    """A row for each model; no style, no script, names of strangers as text."""
    more = f"<p>and {len(models) - _MOST} more models</p>" if len(models) > _MOST else ""
    note = "<p>Estimates, computed in float32.</p>" if estimated else ""
    head = "".join(f"<th>{title}</th>" for title in _HEADER)
    rows = "".join(f"<tr>{_cells(model)}</tr>" for model in models[:_MOST])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}{note}"


def _cells(model: Model) -> str:
    found = model.summary
    cells = (
        model.label,
        model.method,
        f"{found.measured:,}",
        number(found.median_effective_rank),
        number(found.median_relative_norm),
        found.hits or NOT_MEASURED,
    )
    return "".join(f"<td>{escape(printable(cell[:_LONGEST]))}</td>" for cell in cells)


def modules_frame(modules: Iterable[Module]) -> DataFrame:
    """A row for each model and matrix, a column for each metric; UsageError without pandas."""
    try:
        import pandas
    except ImportError:
        raise UsageError("to_pandas needs pandas; install it with `pip install pandas`") from None
    return pandas.DataFrame(
        [
            {
                **{field: getattr(module, field) for field in _OF_MODULE},
                "shape": tuple(module.shape),
                "status": module.status.value,
                **{key: module.metric(key) for key in METRICS},
            }
            for module in modules
        ]
    )
