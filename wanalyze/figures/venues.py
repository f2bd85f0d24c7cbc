"""What a page of each venue measures: widths from its style file, sizes of type from tueplots' bundles."""

from __future__ import annotations

from difflib import get_close_matches
from types import MappingProxyType
from typing import NamedTuple

from wanalyze.errors import UsageError


class Venue(NamedTuple):
    """Widths in inches, type in points: `base` for axis labels, `small` for ticks and legends.

    Where the page has one column, `column` is the width of the text.
    """

    name: str
    column: float
    text: float
    base: float
    small: float
    source: str


_CM = 1 / 2.54
_TABLE = (
    Venue("neurips", 5.5, 5.5, 9, 7, "neurips_2025.sty: textwidth 5.5in"),
    Venue("icml", 3.25, 6.75, 8, 6, "icml2025.sty: textwidth 6.75in, columnsep 0.25in"),
    Venue("iclr", 5.5, 5.5, 9, 7, "iclr2024_conference.sty: textwidth 5.5 true in"),
    Venue("acl", 7.7 * _CM, 16 * _CM, 9, 7, "acl.sty: A4 with margins of 2.5cm, columnsep 0.6cm"),
    Venue("cvpr", 3.28125, 6.875, 8, 6, "cvpr.sty 2025: textwidth 6.875in, columnsep 0.3125in"),
    Venue("aaai", 3.3125, 7.0, 9, 7, "aaai25.sty: textwidth 7.0in, columnsep 0.375in"),
    Venue("tmlr", 6.5, 6.5, 9, 7, "tmlr.sty: textwidth 6.5 true in"),
)
VENUES: MappingProxyType[str, Venue] = MappingProxyType({venue.name: venue for venue in _TABLE})


def venue_of(name: str) -> Venue:
    """The venue of that name; UsageError if there is none."""
    if name not in VENUES:
        near = get_close_matches(name, VENUES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no venue is called {name!r}; {hint}Known: {', '.join(VENUES)}")
    return VENUES[name]
