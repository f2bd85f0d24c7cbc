"""`depth`: a metric along the layers, a line per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import curve, legend, logarithmic, metric_label, scale, sheet, whole_numbers
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.places import by_place, over_runs
from wanalyze.figures.series import Series, Spread
from wanalyze.figures.venues import Venue

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """The median over the changed matrices of a layer: its mean over `n` runs, and the standard deviation."""

    model: str
    metric: str
    layer: int
    n: int
    mean: float
    sd: float | None


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Point]:
    layers = _layers(series)
    rows = [
        Point(one.label, wanted.metric, layer, *found)
        for one in series
        for layer, names in layers.items()
        if (found := over_runs(one, names, wanted.metric))
    ]
    if not rows:
        raise FigureError(f"{wanted.metric} was measured in no layer of the runs")
    return rows


def _layers(series: Sequence[Series]) -> dict[int, list[str]]:
    """The names of the matrices of each layer."""
    found: dict[int, list[str]] = {}
    for (_, layer), names in by_place(series).items():
        if layer is not None:
            found.setdefault(layer, []).extend(names)
    return dict(sorted(found.items()))


def _draw(rows: Sequence[Point], series: Sequence[Series], venue: Venue) -> Figure:
    figure = sheet(venue.column, min(2.3, 0.68 * venue.column))
    axes = figure.subplots()
    handles, texts = [], []
    for index, one in enumerate(series):
        own = [row for row in rows if row.model == one.label]
        if own:
            bands = [Spread(row.n, row.mean, row.sd) for row in own]
            x, y = [row.layer for row in own], [row.mean for row in own]
            handles.append(curve(axes, index, x, y, [band.low for band in bands], [band.high for band in bands]))
            texts.append(one.legend)
    values = [row.mean for row in rows]
    scale(axes, "y", values)
    if not logarithmic(values):
        axes.set_ylim(bottom=min(0.0, *axes.get_ylim()))
    whole_numbers(axes.xaxis)
    axes.set_xlabel("layer")
    axes.set_ylabel(metric_label(rows[0].metric))
    legend(figure, handles, texts, venue)
    return figure


depth = PaperFigure(
    "depth", "a metric along depth: the median over each layer's matrices, a line per method", _numbers, _draw
)
