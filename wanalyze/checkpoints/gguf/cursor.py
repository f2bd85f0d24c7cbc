"""The header of a file, read from its beginning on in pieces."""

from __future__ import annotations

import struct
from typing import NoReturn

from wanalyze.checkpoints.files import WeightFile
from wanalyze.errors import CheckpointError

_LIMIT = 2**27  # bytes of header; with the largest vocabularies it has some 25 MB
_FIRST, _MOST = 2**16, 2**22  # bytes fetched at once, doubled every time: a file may lie far away
_LENGTH = struct.Struct("<Q")


class Cursor:
    """A place in the header of `file`; whatever would lie behind its end, or too far in, is refused."""

    def __init__(self, file: WeightFile) -> None:
        self._file = file
        self._end = min(file.size, _LIMIT)
        self._buffer, self._base, self._at = bytearray(), 0, 0
        self._fetch = _FIRST

    @property
    def position(self) -> int:
        return self._base + self._at

    @property
    def left(self) -> int:
        """Bytes that the header can still have."""
        return self._end - self.position

    def refuse(self, why: str, way_out: str = "the file is damaged or forged") -> NoReturn:
        raise CheckpointError(f"{self._file.where}: {why}; {way_out}")

    def take(self, size: int) -> bytearray:
        self._need(size)
        found = self._buffer[self._at : self._at + size]
        self._at += size
        return found

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def skip(self, size: int) -> None:
        """Go on without reading."""
        self._check(size)
        self._at += size

    def skip_strings(self, count: int) -> None:
        """Vocabularies have a million strings: they are stepped over, not made."""
        unpack = _LENGTH.unpack_from
        while count:
            self._need(_LENGTH.size)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - _LENGTH.size
            while count and at <= last:
                at += _LENGTH.size + unpack(buffer, at)[0]
                count -= 1
            self.skip(at - self._at)

    def _need(self, size: int) -> None:
        """Have the next `size` bytes in the buffer."""
        self._check(size)
        if self._at + size <= len(self._buffer):
            return
        start = self.position
        self._buffer = self._file.read(start, max(size, min(self._fetch, self._end - start)))
        self._base, self._at = start, 0
        self._fetch = min(2 * self._fetch, _MOST)

    def _check(self, size: int) -> None:
        if size <= self.left:
            return
        if self.position + size > self._file.size:
            raise CheckpointError(
                f"{self._file.where}: its header goes on to byte {self.position + size}, the file has "
                f"{self._file.size}; damaged or cut short, download it again"
            )
        raise CheckpointError(
            f"{self._file.where}: a header of more than {_LIMIT} bytes, which no model needs; refused"
        )
