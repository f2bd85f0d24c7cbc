"""A figure: how its numbers are gathered from runs, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wanalyze.errors import UsageError
from wanalyze.figures.canvas import styled
from wanalyze.figures.formats import saved
from wanalyze.figures.series import Series, Shown, series_of
from wanalyze.figures.venues import Venue, venue_of
from wanalyze.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wanalyze.figures.evaluation import Evaluation

Row = TypeVar("Row", bound="tuple[Any, ...]")


@dataclass(frozen=True)
class Wanted:
    """What of the runs is drawn: the metric of `map` and `depth`, the module of `spectrum` and `overlap`.

    `module` None is the one with the most intruders. `evaluation` is what `forgetting` joins.
    """

    metric: str = "relative_norm"
    module: str | None = None
    evaluation: Evaluation | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            near = get_close_matches(self.metric, METRICS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"no metric is called {self.metric!r}; {hint}`wanalyze explain` lists them all")


@dataclass(frozen=True)
class PaperFigure(Generic[Row]):
    """A row of the table of figures, and a function: runs in, a matplotlib Figure out.

    `numbers` gives the rows that are drawn and nothing else, named tuples, the same that lie beside the figure as CSV;
    it raises FigureError where the runs have none. `draw` sees them and the series, for their order and legends.
    """

    name: str
    shows: str
    numbers: Callable[[Sequence[Series], Wanted], list[Row]]
    draw: Callable[[Sequence[Row], Sequence[Series], Venue], Figure]

    def __call__(self, *shown: Shown, venue: str = "neurips", **wanted: Any) -> Figure:
        """Draw results or series for `venue`; `metric`, `module` and `evaluation` as in `Wanted`."""
        series, size = series_of(shown), venue_of(venue)
        rows = self.numbers(series, Wanted(**wanted))
        with styled(size):
            figure = self.draw(rows, series, size)
            figure.draw_without_rendering()  # ticks take their type from the settings of the moment they are made
        return figure

    def file(self, rows: Sequence[Row], series: Sequence[Series], venue: Venue, file_format: str) -> tuple[str, bytes]:
        """The ending of its file and the content, the same bytes every time."""
        with styled(venue):
            return file_format, saved(self.draw(rows, series, venue), file_format)


@dataclass(frozen=True)
class LatexTable(Generic[Row]):
    """Like a PaperFigure, but what is drawn is the text of a LaTeX table."""

    name: str
    shows: str
    numbers: Callable[[Sequence[Series], Wanted], list[Row]]
    draw: Callable[[Sequence[Row], Sequence[Series]], str]

    def __call__(self, *shown: Shown) -> str:
        """The table of results or series."""
        series = series_of(shown)
        return self.draw(self.numbers(series, Wanted()), series)

    def file(self, rows: Sequence[Row], series: Sequence[Series], venue: Venue, file_format: str) -> tuple[str, bytes]:  # noqa: ARG002 - a table is set by the paper
        """Its ending and content."""
        return "tex", self.draw(rows, series).encode()
