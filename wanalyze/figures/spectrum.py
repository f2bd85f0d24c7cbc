"""`spectrum`: the singular values of one update, with the edge that rounding alone can reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wanalyze.figures.canvas import FAINT, curve, legend, look, scale, sheet
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.labels import plain
from wanalyze.figures.places import chosen_module, over_runs, where
from wanalyze.figures.series import Member, Series, Spread, spread
from wanalyze.figures.venues import Venue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ARRAY = "update_values"


class Value(NamedTuple):
    """σ_i of ΔW, i from 1; or, with `what` "noise edge" and no i, what rounding alone explains."""

    model: str
    module: str
    what: str
    i: int | None
    n: int
    mean: float
    sd: float | None


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Value]:
    name = chosen_module(series, wanted.module, _ARRAY)
    return [row for one in series for row in _values(one, name)]


def _values(one: Series, name: str) -> list[Value]:
    found = [values for member in one.members if (values := _positive(member, name))]
    rows = [
        Value(one.label, name, "σ", index + 1, *spread([values[index] for values in found if index < len(values)]))
        for index in range(max(map(len, found), default=0))
    ]
    edge = over_runs(one, [name], "noise_edge")
    return [*rows, Value(one.label, name, "noise edge", None, *edge)] if edge and rows else rows


def _positive(member: Member, name: str) -> list[float]:
    """The singular values that a logarithmic axis can show."""
    array = member.array(name, _ARRAY)
    return [] if array is None else [value for value in array.ravel().tolist() if 0 < value < float("inf")]


def _draw(rows: Sequence[Value], series: Sequence[Series], venue: Venue) -> Figure:
    figure = sheet(venue.column, min(2.5, 0.75 * venue.column))
    axes = figure.subplots()
    scale(axes, "x", [row.i for row in rows if row.i is not None], always_log=True)
    scale(axes, "y", [row.mean for row in rows], always_log=True)
    handles, texts = [], []
    for index, one in enumerate(series):
        own = [row for row in rows if row.model == one.label]
        if own:
            handles.append(_line(axes, index, own))
            texts.append(one.legend)
    if any(row.i is None for row in rows):
        handles.append(axes.plot([], [], color=FAINT, linewidth=0.6, linestyle=(0, (1, 1)))[0])
        texts.append("edge of rounding")
    axes.set_xlabel("index $i$")
    axes.set_ylabel(rf"$\sigma_i(\Delta W)$, {plain(where(series, rows[0].module))}")
    legend(figure, handles, texts, venue)
    return figure


def _line(axes: Axes, index: int, own: Sequence[Value]) -> Any:
    values = [row for row in own if row.i is not None]
    bands = [Spread(row.n, row.mean, row.sd) for row in values]
    x, y = [row.i for row in values if row.i is not None], [row.mean for row in values]
    # a band that reaches zero would run off a logarithmic axis
    low = [band.low if band.low > 0 else band.mean for band in bands]
    line = curve(axes, index, x, y, low, [band.high for band in bands])
    line.set_markevery(_evenly(len(x)))
    for row in own:
        if row.i is None:
            axes.axhline(row.mean, color=look(index)["color"], linewidth=0.6, linestyle=(0, (1, 1)))
    return line


def _evenly(count: int) -> list[int]:
    """Indices that lie evenly on a logarithmic axis; the last one marks where the spectrum ends."""
    steps = 8
    return sorted({round(count ** (step / steps)) - 1 for step in range(steps + 1)})


spectrum = PaperFigure(
    "spectrum", "the singular values of ΔW of one module, with the edge of rounding", _numbers, _draw
)
