"""`map`: where a metric is large, layers across and kinds down, one strip per model on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import FAINT, cells, colour_bar, log_ticks, logarithmic, metric_label, sheet
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.labels import plain
from wanalyze.figures.places import by_place, over_runs
from wanalyze.figures.series import Member, Series
from wanalyze.figures.venues import Venue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_MOST_KINDS, _MOST_LAYERS = 40, 256


class Cell(NamedTuple):
    """One place of one model; `status` is measured, unchanged or not measured."""

    model: str
    metric: str
    kind: str
    layer: int
    n: int
    mean: float | None
    sd: float | None
    status: str


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Cell]:
    held = {(kind, layer): names for (kind, layer), names in by_place(series).items() if layer is not None}
    kinds, layers = {kind for kind, _ in held}, {layer for _, layer in held}
    if not held:
        raise FigureError("no module of the runs lies in a layer, and a map has layers across")
    if len(kinds) > _MOST_KINDS or len(layers) > _MOST_LAYERS:
        raise FigureError(
            f"{len(kinds)} kinds in {len(layers)} layers do not fit a page (at most {_MOST_KINDS} and {_MOST_LAYERS}); "
            "compare fewer with --only"
        )
    rows = [_cell(one, place, names, wanted.metric) for one in series for place, names in held.items()]
    if not any(row.mean is not None for row in rows):
        raise FigureError(f"{wanted.metric} was measured in no layer of the runs")
    return rows


def _cell(one: Series, place: tuple[str, int], names: Sequence[str], metric: str) -> Cell:
    found = over_runs(one, names, metric)
    if found is not None:
        return Cell(one.label, metric, *place, found.n, found.mean, found.sd, "measured")
    still = all(_unchanged(member, names) for member in one.members)
    return Cell(one.label, metric, *place, len(one.members), None, None, "unchanged" if still else "not measured")


def _unchanged(member: Member, names: Sequence[str]) -> bool:
    return all(name in member.modules and member.modules[name].status.value == "unchanged" for name in names)


def _draw(rows: Sequence[Cell], series: Sequence[Series], venue: Venue) -> Figure:
    kinds = list(dict.fromkeys(row.kind for row in rows))
    layers = sorted({row.layer for row in rows})
    strip = max(len(kinds), 5) * 1.25 * venue.small  # points, with room for the model's name beside it
    figure = sheet(venue.text, len(series) * (strip / 72 + 0.12) + 0.45)
    grid = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0].tolist()
    values = [row.mean for row in rows if row.mean is not None]
    norm = _norm(values)
    for axes, one in zip(grid, series, strict=True):
        _strip(axes, [row for row in rows if row.model == one.label], kinds, layers, norm)
        letters = int(strip / (0.55 * venue.small)) - (6 if len(one.members) > 1 else 0)
        axes.set_ylabel(one.named(letters), fontsize=venue.small)
    every = math.ceil(len(layers) / 16)
    grid[-1].set_xticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    grid[-1].set_xlabel("layer")
    bar = colour_bar(figure, grid, norm, metric_label(rows[0].metric))
    if logarithmic(values):
        log_ticks(bar.ax.yaxis, values)
    _legend(figure, {row.status for row in rows})
    return figure


def _norm(values: Sequence[float]) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    low, high = min(values), max(values)
    if logarithmic(values):
        return LogNorm(low, high)
    around = 0.5 * (abs(low) or 1.0) if low == high else 0.0
    return Normalize(low - around, high + around)


def _strip(axes: Axes, shown: Sequence[Cell], kinds: Sequence[str], layers: Sequence[int], norm: Normalize) -> None:
    import numpy as np

    values = np.full((len(kinds), len(layers)), np.nan)
    for cell in shown:
        y, x = kinds.index(cell.kind), layers.index(cell.layer)
        if cell.mean is not None:
            values[y, x] = cell.mean
        elif cell.status == "not measured":
            axes.add_patch(_hatched((x - 0.5, y - 0.5)))
    cells(axes, values, norm)
    axes.set_yticks(range(len(kinds)), [plain(kind, 16) for kind in kinds])
    axes.tick_params(length=0, axis="y")
    axes.spines[:].set_visible(True)


def _hatched(corner: tuple[float, float] = (0, 0)) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, fill=False, hatch="/////", edgecolor=FAINT, linewidth=0)


def _legend(figure: Figure, statuses: set[str]) -> None:
    from matplotlib.patches import Rectangle

    handles = {
        "not measured": _hatched(),
        "unchanged": Rectangle((0, 0), 1, 1, fill=False, edgecolor=FAINT, linewidth=0.4),
    }
    shown = [status for status in handles if status in statuses]
    if shown:
        figure.legend(
            [handles[status] for status in shown], shown, loc="outside upper right", ncols=2, borderaxespad=0.2
        )


map_ = PaperFigure(
    "map", "where a metric is large: layers across, kinds down, a strip per model on one scale", _numbers, _draw
)
