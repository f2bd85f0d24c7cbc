"""`dora`: change of magnitude against change of direction (Liu et al., DoRA, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import legend, metric_label, points, scale, sheet
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.places import pairs_of
from wanalyze.figures.series import Series
from wanalyze.figures.venues import Venue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_X, _Y = "direction_change", "magnitude_change"


class Point(NamedTuple):
    """One matrix, each number the mean over `n` runs; `pearson` is the correlation over the matrices of the model."""

    model: str
    module: str
    kind: str
    n: int
    direction_change: float
    magnitude_change: float
    pearson: float | None


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Point]:  # noqa: ARG001 - as every figure
    rows = [row for one in series for row in _points(one)]
    if not rows:
        raise FigureError("no changed matrix of the runs has both ΔM and ΔD")
    return rows


def _points(one: Series) -> list[Point]:
    found = pairs_of(one, _X, _Y)
    pearson = _pearson([pair.x for pair in found], [pair.y for pair in found])
    return [Point(one.label, *pair, pearson) for pair in found]


def _pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r, None where it is not defined."""
    import numpy as np

    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _draw(rows: Sequence[Point], series: Sequence[Series], venue: Venue) -> Figure:
    figure = sheet(venue.column, min(2.6, 0.78 * venue.column))
    axes = figure.subplots()
    handles, texts = [], []
    for index, one in enumerate(series):
        own = [row for row in rows if row.model == one.label]
        if own:
            handles.append(
                points(axes, index, [row.direction_change for row in own], [row.magnitude_change for row in own])
            )
            r = own[0].pearson
            texts.append(one.legend if r is None else f"{one.legend}, $r={r:.2f}$")
    scale(axes, "x", [row.direction_change for row in rows])
    scale(axes, "y", [row.magnitude_change for row in rows])
    axes.set_xlabel(metric_label(_X))
    axes.set_ylabel(metric_label(_Y))
    legend(figure, handles, texts, venue)
    return figure


dora = PaperFigure("dora", "change of magnitude ΔM against change of direction ΔD, a point per matrix", _numbers, _draw)
