"""`forgetting`: intruder dimensions against what an evaluation measured (Shuttleworth et al., figure 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import legend, points, sheet
from wanalyze.figures.evaluation import Evaluation
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.labels import plain
from wanalyze.figures.series import Member, Series, same_settings
from wanalyze.figures.spearman import spearman
from wanalyze.figures.venues import Venue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_METRICS = 6


class Point(NamedTuple):
    """One model; `rho` and `p` are Spearman's over the `n` models that have this metric, null where not defined."""

    model: str
    run: str
    metric: str
    intruders_left: int
    value: float
    n: int
    rho: float | None
    p: float | None
    p_method: str | None


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Point]:
    if wanted.evaluation is None:
        raise FigureError(
            "there is nothing to set the intruders against; give --evaluation FILE.csv (label,metric,value)"
        )
    same_settings(series)
    if len(wanted.evaluation.values) > _MOST_METRICS:
        raise FigureError(
            f"{len(wanted.evaluation.values)} metrics do not fit a page; leave {_MOST_METRICS} in the file"
        )
    return [row for metric in wanted.evaluation.values for row in _points(list(series), wanted.evaluation, metric)]


def _points(series: list[Series], evaluation: Evaluation, metric: str) -> list[Point]:
    joined = evaluation.joined(series, metric)
    counts = [_counted(member, evaluation) for _, member, _ in joined]
    found = spearman(counts, [value for _, _, value in joined])
    rho, p, method = found or (None, None, None)
    return [
        Point(one.label, member.run, metric, count, value, len(joined), rho, p, method)
        for (one, member, value), count in zip(joined, counts, strict=True)
    ]


def _counted(member: Member, evaluation: Evaluation) -> int:
    """A model's intruders: none of one that changed nothing, no number of one that could not be measured."""
    summary = member.model.summary
    if not summary.counted and (summary.measured or summary.failed):
        raise FigureError(
            f"{evaluation.source}: no intruders of {member.label!r} could be counted; take its rows out of the file"
        )
    return summary.intruders_left


def _draw(rows: Sequence[Point], series: Sequence[Series], venue: Venue) -> Figure:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    across = min(3, len(metrics))
    down = math.ceil(len(metrics) / across)
    figure = sheet(venue.column if across == 1 else venue.text, down * 1.7 + 0.5)
    panels = figure.subplots(down, across, sharex=True, squeeze=False).ravel()
    handles, texts = {}, {}
    for axes, metric in zip(panels, metrics, strict=False):
        own = [row for row in rows if row.metric == metric]
        for index, one in enumerate(series):
            mine = [row for row in own if row.model == one.label]
            if mine:
                x, y = [row.intruders_left for row in mine], [row.value for row in mine]
                texts[index] = one.legend
                handles[index] = points(axes, index, x, y)
        axes.set_title(_said(own[0]), loc="right", pad=2)
        axes.set_ylabel(plain(metric, 28))
        axes.margins(0.08)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    for axes in panels[len(metrics) - across : len(metrics)]:
        axes.tick_params(labelbottom=True)  # the last row may be short
    figure.supxlabel("intruder dimensions (output side)", fontsize=venue.base)
    legend(figure, list(handles.values()), list(texts.values()), venue)
    return figure


def _said(row: Point) -> str:
    if row.rho is None or row.p is None:
        return rf"$\rho$ not defined, $n={row.n}$"
    p = f"p={row.p:.2g}" if row.p >= 1e-4 else "p<10^{-4}"
    return rf"$\rho={row.rho:.2f}$, ${p}$, $n={row.n}$"


forgetting = PaperFigure(
    "forgetting", "intruder dimensions against an evaluation, with Spearman's ρ and p (--evaluation)", _numbers, _draw
)
