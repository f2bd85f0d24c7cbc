"""`overlap`: which singular vectors of the base the leading ones of the tuned matrix are (figures 1 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import ACCENT, cells, colour_bar, sheet
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.labels import plain
from wanalyze.figures.places import chosen_module, where
from wanalyze.figures.series import Series
from wanalyze.figures.venues import Venue
from wanalyze.intruders import is_intruder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

_MOST_MODELS, _MOST_VECTORS = 6, 64
_SIDES = {"left": "output side", "right": "input side"}


class Overlap(NamedTuple):
    """|cos| of the `tuned`-th singular vector of W1 with the `base`-th of W0, both from 1; `runs` is how many there
    are, of which the first is shown; `intruder` says what the tuned vector is, null where undecided or not asked.
    """

    model: str
    module: str
    side: str
    tuned: int
    base: int
    cosine: float
    intruder: bool | None
    runs: int


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Overlap]:
    name = chosen_module(series, wanted.module, "similarity_left")
    rows = [row for one in series for side in _SIDES for row in _side(one, name, side)]
    models = len({row.model for row in rows})
    if models > _MOST_MODELS:
        raise FigureError(f"{models} models do not fit side by side ({_MOST_MODELS} do); draw some with --group alone")
    return rows


def _side(one: Series, name: str, side: str) -> list[Overlap]:
    # A mean over runs would be of vectors that do not correspond: the first run that has the array stands for all.
    member = next((member for member in one.members if member.array(name, f"similarity_{side}") is not None), None)
    array = None if member is None else member.array(name, f"similarity_{side}")
    if member is None or array is None:
        return []
    if (
        array.ndim != 2
        or not array.size
        or max(array.shape) > _MOST_VECTORS
        or not ((array >= 0) & (array < 1.001)).all()
    ):
        raise FigureError(
            f"{one.label}: similarity_{side} of {name} is no table of cosines of at most {_MOST_VECTORS} vectors"
        )
    module, epsilon = member.modules[name], member.result.settings.epsilon
    cosines = module.max_cosine_left if side == "left" else module.max_cosine_right
    verdicts = [is_intruder(cosine, epsilon) for cosine in cosines]
    verdicts += [None] * (array.shape[0] - len(verdicts))
    return [
        Overlap(one.label, name, side, i + 1, j + 1, min(value, 1.0), verdicts[i], len(one.members))
        for i, row in enumerate(array.tolist())
        for j, value in enumerate(row)
    ]


def _draw(rows: Sequence[Overlap], series: Sequence[Series], venue: Venue) -> Figure:
    models = [one for one in series if any(row.model == one.label for row in rows)]
    sides = [side for side in _SIDES if any(row.side == side for row in rows)]
    panel = min(1.8, (venue.text - 1.0) / len(models))
    figure = sheet(venue.text, len(sides) * (panel + 0.18) + 0.5)
    grid = figure.subplots(len(sides), len(models), squeeze=False)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    for down, side in enumerate(sides):
        grid[down, 0].set_ylabel(f"tuned, {_SIDES[side]}")
        for axes, one in zip(grid[down], models, strict=True):
            _panel(axes, [row for row in rows if row.model == one.label and row.side == side])
            axes.set_title(f"({next(letters)}) {one.legend}" if down == 0 else f"({next(letters)})", loc="left", pad=2)
    figure.supxlabel(f"base, {plain(where(series, rows[0].module), 32)}", fontsize=venue.base)
    colour_bar(figure, grid.ravel().tolist(), _scale(), r"$|\cos|$")
    if any(row.intruder for row in rows):
        figure.legend([_outline((0, 0), 1)], ["intruder"], loc="outside upper right")
    return figure


def _panel(axes: Axes, own: Sequence[Overlap]) -> None:
    import numpy as np

    if not own:
        axes.set_axis_off()
        return
    tall, wide = max(row.tuned for row in own), max(row.base for row in own)
    cells(axes, np.array([row.cosine for row in own]).reshape(tall, wide), _scale())
    for i in sorted({row.tuned for row in own if row.intruder}):
        axes.add_patch(_outline((-0.5, i - 1.5), wide))
    axes.set_aspect("equal")
    for axis, count in ((axes.xaxis, wide), (axes.yaxis, tall)):
        named = [1, *range(8, count + 1, 8)] if count > 10 else [*range(1, count + 1)]
        axis.set_ticks([number - 1 for number in named], [str(number) for number in named])


def _scale() -> Normalize:
    from matplotlib.colors import Normalize

    return Normalize(0, 1)


def _outline(corner: tuple[float, float], width: float) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, 1, fill=False, edgecolor=ACCENT, linewidth=0.7, zorder=3)


overlap = PaperFigure(
    "overlap", "|cos| of the leading singular vectors of W1 and W0 of one module, intruders outlined", _numbers, _draw
)
