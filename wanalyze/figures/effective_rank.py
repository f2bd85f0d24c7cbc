"""`effective_rank`: of every matrix, a line per method (Shuttleworth et al., figure 14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import FAINT, curve, legend, metric_label, scale, sheet
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.labels import plain
from wanalyze.figures.places import by_place, over_runs
from wanalyze.figures.series import Series, Spread
from wanalyze.figures.venues import Venue
from wanalyze.naming import kind_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_KEY = "effective_rank"


class Point(NamedTuple):
    """One matrix, or the median of the experts of a layer; `layer` is null outside the stack."""

    model: str
    kind: str
    layer: int | None
    matrices: int
    n: int
    mean: float
    sd: float | None


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Point]:  # noqa: ARG001 - as every figure
    held = by_place(series)
    rows = [
        Point(one.label, kind, layer, len(names), *found)
        for one in series
        for (kind, layer), names in held.items()
        if (found := over_runs(one, names, _KEY))
    ]
    if not rows:
        raise FigureError("the effective rank was measured of no matrix of the runs")
    return rows


def _draw(rows: Sequence[Point], series: Sequence[Series], venue: Venue) -> Figure:
    figure = sheet(venue.column, min(2.5, 0.78 * venue.column))
    axes = figure.subplots()
    scale(axes, "y", [row.mean for row in rows])
    slots = _slots(rows)
    handles, texts = [], []
    for index, one in enumerate(series):
        own = [row for row in rows if row.model == one.label]
        if own:
            handles.append(_line(axes, index, own, slots))
            texts.append(one.legend)
    _name_kinds(axes, slots)
    axes.set_ylabel(metric_label(_KEY))
    legend(figure, handles, texts, venue)
    return figure


class _Slot(NamedTuple):
    """Where a kind lies on the axis, and the place of each of its layers."""

    left: float
    right: float
    places: dict[int | None, float]


def _slots(rows: Sequence[Point]) -> dict[str, _Slot]:
    """Kinds side by side, each as wide as it has layers and wide enough for its name."""
    held: dict[str, set[int | None]] = {}
    for row in rows:
        held.setdefault(row.kind, set()).add(row.layer)
    least = 0.07 * sum(map(len, held.values()))
    slots: dict[str, _Slot] = {}
    left = 0.0
    for kind in sorted(held, key=kind_order):
        layers = sorted(held[kind], key=lambda layer: -1 if layer is None else layer)
        right = left + max(float(len(layers)), least)
        first = (left + right - len(layers) + 1) / 2
        slots[kind] = _Slot(left, right, {layer: first + i for i, layer in enumerate(layers)})
        left = right
    return slots


def _line(axes: Axes, index: int, own: Sequence[Point], slots: dict[str, _Slot]) -> Line2D:
    """A line that breaks between kinds and where a matrix has no number; each kind begins with a marker."""
    found = {(row.kind, row.layer): Spread(row.n, row.mean, row.sd) for row in own}
    nothing = Spread(0, float("nan"), None)
    x: list[float] = []
    y: list[Spread] = []
    starts = []
    for kind, slot in slots.items():
        values = [found.get((kind, layer), nothing) for layer in slot.places]
        starts += [len(x) + i for i, value in enumerate(values) if value is not nothing][:1]
        x += [*slot.places.values(), slot.right]
        y += [*values, nothing]
    line = curve(axes, index, x, [value.mean for value in y], [value.low for value in y], [value.high for value in y])
    line.set_markevery(starts)
    return line


def _name_kinds(axes: Axes, slots: dict[str, _Slot]) -> None:
    """The kinds below the axis, with a rule between them."""
    centres = [(slot.left + slot.right) / 2 for slot in slots.values()]
    axes.set_xticks(centres, [plain(kind, 14) for kind in slots], rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    for slot in list(slots.values())[1:]:
        axes.axvline(slot.left, color=FAINT, linewidth=0.3, zorder=0)
    axes.set_xlim(0, max(slot.right for slot in slots.values()))


effective_rank = PaperFigure(
    "effective_rank", "the effective rank of every update, by kind and layer, a line per method", _numbers, _draw
)
