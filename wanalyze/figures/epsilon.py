"""`epsilon`: intruder dimensions against ε (Shuttleworth et al., figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wanalyze.figures.curves import Count, counts, drawn, tally
from wanalyze.figures.figure import PaperFigure, Wanted
from wanalyze.figures.series import Series, same_settings
from wanalyze.figures.venues import Venue
from wanalyze.intruders import Enclosure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = 100


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Count]:  # noqa: ARG001 - as every figure
    same_settings(series)
    return counts(series, [step / _STEPS for step in range(_STEPS + 1)], _count)


def _count(cosines: list[list[Enclosure]], epsilon: float) -> tuple[int, int]:
    return tally([pair for module in cosines for pair in module], epsilon)


def _draw(rows: Sequence[Count], series: Sequence[Series], venue: Venue) -> Figure:
    top_k, _ = same_settings(series)
    return drawn(rows, series, venue, rf"$\varepsilon$ (top $k={top_k}$)")


epsilon = PaperFigure("epsilon", "intruder dimensions against ε, output and input side", _numbers, _draw)
