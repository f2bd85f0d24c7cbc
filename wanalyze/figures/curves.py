"""What `epsilon` and `topk` share: counts of intruders on both sides along one axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.canvas import curve, legend, sheet, whole_numbers
from wanalyze.figures.series import Member, Series, Spread, spread
from wanalyze.figures.venues import Venue
from wanalyze.intruders import Enclosure, count_intruders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Side = Literal["left", "right"]
SIDES: dict[Side, str] = {"left": "(a) output side", "right": "(b) input side"}


class Count(NamedTuple):
    """Intruders summed over the matrices, at `at` on the axis: how many certainly are (mean and standard deviation
    of `n` runs), and how many could be (mean), as a cosine is known up to its enclosure.
    """

    model: str
    side: str
    at: float
    n: int
    mean: float
    sd: float | None
    possible: float


def cosines_of(member: Member, side: Side) -> list[list[Enclosure]]:
    """The enclosures of every matrix of a model."""
    modules = member.modules.values()
    return [list(module.max_cosine_left if side == "left" else module.max_cosine_right) for module in modules]


def tally(pairs: Sequence[Enclosure], epsilon: float) -> tuple[int, int]:
    """How many vectors certainly are intruders, and how many could be.

    >>> tally([(0.1, 0.2), (0.4, 0.6), (0.9, 1.0)], 0.5)
    (1, 2)
    """
    return count_intruders(pairs, epsilon), sum(low < epsilon for low, _ in pairs)


def counts(
    series: Sequence[Series], axis: Sequence[float], count: Callable[[list[list[Enclosure]], float], tuple[int, int]]
) -> list[Count]:
    """`count` gives how many are certain and how many possible, of the enclosures of a model at a place of the axis."""
    rows = []
    for one in series:
        for side in SIDES:
            held = [found for member in one.members if any(found := cosines_of(member, side))]
            for at in axis if held else ():
                pairs = [count(cosines, at) for cosines in held]
                certain = spread([pair[0] for pair in pairs])
                rows.append(Count(one.label, side, at, *certain, spread([pair[1] for pair in pairs]).mean))
    if not rows:
        raise FigureError("the runs hold no cosines of singular vectors, from which intruders are counted")
    return rows


def drawn(rows: Sequence[Count], series: Sequence[Series], venue: Venue, axis: str) -> Figure:
    """Both sides beside each other on one scale."""
    figure = sheet(venue.column, min(2.3, 0.66 * venue.column))
    panels = figure.subplots(1, 2, sharey=True)
    handles, texts = {}, {}
    for axes, (side, title) in zip(panels, SIDES.items(), strict=True):
        for index, one in enumerate(series):
            own = [row for row in rows if row.model == one.label and row.side == side]
            if own:
                low, high = zip(*map(_band, own), strict=True)
                texts[index] = one.legend
                handles[index] = curve(axes, index, [row.at for row in own], [row.mean for row in own], low, high)
        axes.set_title(title, loc="left", pad=2)
        axes.set_xlabel(axis)
    panels[0].set_ylabel("intruder dimensions")
    panels[0].set_ylim(bottom=0)
    whole_numbers(panels[0].yaxis)
    legend(figure, list(handles.values()), list(texts.values()), venue)
    return figure


def _band(row: Count) -> tuple[float, float]:
    """Of several runs their standard deviation; of one, from what is certain to what is possible."""
    if row.sd is None:
        return row.mean, row.possible
    band = Spread(row.n, row.mean, row.sd)
    return band.low, band.high
