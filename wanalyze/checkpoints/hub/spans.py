"""Which ranges of a file are fetched by one request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wanalyze.checkpoints.files import Range

_GAP = 2**20  # bytes; to leave out less than this costs more time, in another request, than it saves
MOST = 64 * 2**20  # bytes held, and bytes of one request


@dataclass(eq=False)
class Span:
    """Ranges that are fetched together; `waiting` have yet to be read, one entry for each time."""

    waiting: list[Range] = field(default_factory=list)

    @property
    def hull(self) -> Range:
        """All that is still wanted, and what lies between."""
        start = min(start for start, _ in self.waiting)
        return start, max(start + size for start, size in self.waiting) - start


def spans(ranges: Iterable[Range]) -> list[Span]:
    """Ranges in the order in which they will be read, those in a row that lie together put together.

    Only in a row: what lies near but is read much later would have to be held until then.

    >>> [span.hull for span in spans([(0, 10), (30, 10), (2**22, 5), (12, 4)])]
    [(0, 40), (4194304, 5), (12, 4)]
    """
    found: list[Span] = []
    begin, end = 0, -_GAP
    for start, size in ranges:
        if size == 0:
            continue
        stop = start + size
        near = start - end < _GAP and begin - stop < _GAP
        if not near or max(stop, end) - min(start, begin) > MOST:
            found.append(Span())
            begin, end = start, stop
        begin, end = min(begin, start), max(end, stop)
        found[-1].waiting.append((start, size))
    return found
