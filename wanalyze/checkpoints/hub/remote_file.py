"""A file that stays at the Hub and is read in parts, by HTTP range requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from threading import Lock

from wanalyze.checkpoints.files import Range, check_memory
from wanalyze.checkpoints.hub.spans import MOST, Span, spans
from wanalyze.checkpoints.hub.transport import Answer, get
from wanalyze.checkpoints.location import HubLocation
from wanalyze.errors import CheckpointError

_AHEAD = 100_000  # bytes that a small read fetches: nearly every header of safetensors fits
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class RemoteFile:
    """A file of one commit at `url`; `size` is what the Hub lists. Threads may share it.

    At most one piece of it, of 64 MiB unless more is read at once, is held for reads to come.
    """

    def __init__(self, url: str, name: str, where: str, size: int, location: HubLocation) -> None:
        self._url, self._location = url, location
        self.name, self.where, self.size = name, where, size
        self._etag: str | None = None
        self._plan: list[Span] = []
        self._held_from, self._held = 0, bytearray()
        self._lock = Lock()

    @property
    def is_whole(self) -> bool:
        return False

    def sha256(self) -> None:
        return None

    def expect(self, ranges: Iterable[Range]) -> None:
        """Plan the reads to come, in their order; those in a row that lie together become one request."""
        with self._lock:
            self._plan = spans(ranges)

    def read(self, start: int, size: int) -> bytearray:
        if start < 0 or size < 0 or start + size > self.size:
            raise CheckpointError(f"{self.where}: bytes {start} to {start + size} lie outside its {self.size}")
        if size == 0:
            return bytearray()
        with self._lock:
            span = next((span for span in self._plan if (start, size) in span.waiting), None)
            if not self._holds(start, size):
                ahead = start, min(max(size, _AHEAD), self.size - start)
                self._hold(*(span.hull if span else ahead))
            found = self._take(start, size)
            if span:
                self._strike_out(span, (start, size))
            return found

    def _holds(self, start: int, size: int) -> bool:
        return self._held_from <= start and start + size <= self._held_from + len(self._held)

    def _hold(self, start: int, size: int) -> None:
        self._held = bytearray()  # not beside what replaces it
        self._held_from, self._held = start, self._fetch(start, size)

    def _take(self, start: int, size: int) -> bytearray:
        """Bytes that are held; if they are all of them, not a copy: then they are held no longer."""
        if len(self._held) > size:
            offset = start - self._held_from
            return self._held[offset : offset + size]
        found, self._held = self._held, bytearray()
        return found

    def _strike_out(self, span: Span, piece: Range) -> None:
        span.waiting.remove(piece)
        if not span.waiting:
            self._plan.remove(span)
            self._held = bytearray()

    def _fetch(self, start: int, size: int) -> bytearray:
        if size <= MOST:
            return self._fetch_part(start, size)
        check_memory(size, self.where)
        found = bytearray(size)
        for done in range(0, size, MOST):  # what breaks off is not begun anew from the start
            part = self._fetch_part(start + done, min(MOST, size - done))
            found[done : done + len(part)] = part
        return found

    def _fetch_part(self, start: int, size: int) -> bytearray:
        answer = get(self._url, self._location, where=self.where, span=(start, size))
        self._check_range(answer, start, size)
        self._check_etag(answer)
        if len(answer.body) != size:
            raise CheckpointError(f"{self.where}: {len(answer.body)} bytes arrived, {size} were asked for; run again")
        return answer.body

    def _check_range(self, answer: Answer, start: int, size: int) -> None:
        said = answer.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(said)
        if found is None or (int(found[1]), int(found[2])) != (start, start + size - 1):
            raise CheckpointError(
                f"{self.where}: bytes {start} to {start + size - 1} were asked for, the server sends {said[:80]!r}"
            )
        if int(found[3]) != self.size:
            raise CheckpointError(
                f"{self.where}: the Hub lists {self.size} bytes, the server has {int(found[3])}; run again later"
            )

    def _check_etag(self, answer: Answer) -> None:
        etag = answer.headers.get("ETag", "").removeprefix("W/")
        if not etag:
            raise CheckpointError(
                f"{self.where}: the server sends no ETag, so a change between two reads would go unnoticed; "
                f"run `hf download {self._location.repository}` and pass the folder it prints"
            )
        if self._etag not in (None, etag):
            raise CheckpointError(f"{self.where}: changed while it was being read (another ETag); run again")
        self._etag = etag
