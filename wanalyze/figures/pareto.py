"""`pareto`: how far each matrix moved against along how many directions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import legend, metric_label, points, scale, sheet
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.labels import plain
from wanalyze.figures.places import pairs_of
from wanalyze.figures.series import Series
from wanalyze.figures.venues import Venue
from wanalyze.naming import kind_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_X, _Y = "relative_norm", "effective_rank"
_MOST_KINDS, _ACROSS = 8, 4
_OTHERS = "other kinds"


class Point(NamedTuple):
    """One matrix, each number the mean over `n` runs."""

    model: str
    module: str
    kind: str
    n: int
    relative_norm: float
    effective_rank: float


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Point]:  # noqa: ARG001 - as every figure
    rows = [Point(one.label, *pair) for one in series for pair in pairs_of(one, _X, _Y)]
    if not rows:
        raise FigureError("no changed matrix of the runs has both a relative norm and an effective rank")
    return rows


def _draw(rows: Sequence[Point], series: Sequence[Series], venue: Venue) -> Figure:
    models = [one for one in series if any(row.model == one.label for row in rows)]
    down = math.ceil(len(models) / _ACROSS)
    across = math.ceil(len(models) / down)
    figure = sheet(venue.text, down * 1.65 + 0.75)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    kinds = _shown_kinds(rows)
    handles = {}
    for letter, (axes, one) in enumerate(zip(panels, models, strict=False)):
        for index, kind in enumerate(kinds):
            own = [row for row in rows if row.model == one.label and _shown(row.kind, kinds) == kind]
            if own:
                handles[kind] = points(
                    axes, index, [row.relative_norm for row in own], [row.effective_rank for row in own]
                )
        axes.set_title(f"({chr(ord('a') + letter)}) {one.legend}", loc="left", pad=2)
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    for axes in panels[len(models) - across : len(models)]:
        axes.tick_params(labelbottom=True)  # the last row may be short
    for axes in panels[: len(models)]:
        scale(axes, "x", [row.relative_norm for row in rows])
        scale(axes, "y", [row.effective_rank for row in rows])
    figure.supxlabel(metric_label(_X), fontsize=venue.base)
    figure.supylabel(metric_label(_Y), fontsize=venue.base)
    shown = [kind for kind in kinds if kind in handles]
    legend(figure, [handles[kind] for kind in shown], [plain(kind, 16) for kind in shown], venue)
    return figure


def _shown_kinds(rows: Sequence[Point]) -> list[str]:
    """The commonest kinds, each with a marker of its own, and one more for the rest."""
    common = [kind for kind, _ in Counter(row.kind for row in rows).most_common()]
    if len(common) <= _MOST_KINDS:
        return sorted(common, key=kind_order)
    return [*sorted(common[: _MOST_KINDS - 1], key=kind_order), _OTHERS]


def _shown(kind: str, kinds: Sequence[str]) -> str:
    return kind if kind in kinds else _OTHERS


pareto = PaperFigure(
    "pareto", "relative norm against effective rank, a point per matrix, kinds by marker", _numbers, _draw
)
