"""`topk`: intruder dimensions against how many vectors are looked at (Shuttleworth et al., figure 15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wanalyze.figures.canvas import whole_numbers
from wanalyze.figures.curves import SIDES, Count, cosines_of, counts, drawn, tally
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.series import Series, same_settings
from wanalyze.figures.venues import Venue
from wanalyze.intruders import Enclosure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Count]:  # noqa: ARG001 - as every figure
    top_k, epsilon = same_settings(series)

    def count(cosines: list[list[Enclosure]], k: float) -> tuple[int, int]:
        return tally([pair for module in cosines for pair in module[: int(k)]], epsilon)

    # a matrix has no more vectors than its short side, whatever k was asked for
    found = [
        cosines for one in series for member in one.members for side in SIDES for cosines in cosines_of(member, side)
    ]
    longest = max(map(len, found), default=0)
    return counts(series, range(1, min(top_k, longest) + 1), count)


def _draw(rows: Sequence[Count], series: Sequence[Series], venue: Venue) -> Figure:
    _, epsilon = same_settings(series)
    figure = drawn(rows, series, venue, rf"top $k$ ($\varepsilon={epsilon:g}$)")
    for axes in figure.axes:
        whole_numbers(axes.xaxis)
    return figure


topk = PaperFigure(
    "topk", "intruder dimensions among the top k vectors against k, output and input side", _numbers, _draw
)
