"""One file of weights: read in pieces, noticed when it changes. Local here; the Hub's lie in `hub`."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from wanalyze.errors import CheckpointError
from wanalyze.printable import printable

_CHUNK = 2**22  # bytes hashed at a time

Range: TypeAlias = tuple[int, int]  # start and size in bytes


class WeightFile(Protocol):
    """One file of weights as it was when it was opened; `name` is relative to the checkpoint, `where` for messages."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def is_whole(self) -> bool:
        """Whether all of it is at hand, so that it can be hashed."""
        ...

    def read(self, start: int, size: int) -> bytearray:
        """Exactly these bytes; CheckpointError if the file does not have them or has changed."""
        ...

    def expect(self, ranges: Iterable[Range]) -> None:
        """Say what will be read, so that what lies together can be fetched together."""
        ...

    def sha256(self) -> str | None:
        """Hash of the whole file, in hexadecimal; None of a file that is not whole."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A regular file on this machine, opened by its `path`; `name` is for people.

    `expected_sha256` is what somebody who should know says of it.
    """

    path: Path
    name: str
    size: int
    identity: tuple[int, int, int]
    expected_sha256: str | None = None

    @classmethod
    def open(cls, path: Path, *, name: str, expected_sha256: str | None = None) -> LocalFile:
        """Look at a file without opening it: a pipe would block, a device has no end."""
        state = _state(path)
        if not stat.S_ISREG(state.st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        return cls(path, printable(name), state.st_size, _identity(state), expected_sha256)

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def is_whole(self) -> bool:
        return True

    def read(self, start: int, size: int) -> bytearray:
        # Plain reads, not a memory map: a file truncated under a map kills the process.
        if start < 0 or size < 0 or start + size > self.size:
            raise CheckpointError(f"{self.path}: bytes {start} to {start + size} lie outside its {self.size}")
        check_memory(size, self.where)
        try:
            buffer = bytearray(size)
            with self._opened() as stream:
                stream.seek(start)
                view = memoryview(buffer)
                done = 0
                while done < size and (count := stream.readinto(view[done:])):
                    done += count
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error
        except MemoryError:
            raise CheckpointError(
                f"{self.path}: {size} bytes of memory are needed at once, more than there is"
            ) from None
        self.check_unchanged()
        if done < size:
            raise CheckpointError(f"{self.path}: ends {size - done} bytes early; download it again")
        return buffer

    def expect(self, ranges: Iterable[Range]) -> None:
        """The system reads ahead by itself."""

    def sha256(self) -> str:
        digest = hashlib.sha256()
        try:
            with self._opened() as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error
        self.check_unchanged()
        found = digest.hexdigest()
        if self.expected_sha256 not in (None, found):
            raise CheckpointError(
                f"{self.path}: sha256 is {found}, the Hub says {self.expected_sha256}; delete it and download it again"
            )
        return found

    def check_unchanged(self) -> None:
        """Refuse a file that was written to, or replaced, after it was first looked at."""
        self._check(_state(self.path))

    @contextmanager
    def _opened(self) -> Iterator[io.FileIO]:
        with io.FileIO(self.path, opener=_without_waiting) as stream:
            self._check(os.fstat(stream.fileno()))
            yield stream

    def _check(self, state: os.stat_result) -> None:
        if (state.st_size, _identity(state)) != (self.size, self.identity):
            raise CheckpointError(f"{self.path}: changed while it was being read; run again when it is at rest")


def check_memory(size: int, where: str) -> None:
    """Refuse to ask for more than there is: a system that promises too much kills the process when it is used."""
    free = _free_memory()
    if free is not None and size > free:
        raise CheckpointError(f"{where}: {size} bytes are to be read at once, {free} bytes of memory are free")


def _free_memory() -> int | None:
    try:
        said = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # not Linux: its own limits must do
        return None
    kilobytes = said.partition("MemAvailable:")[2].split()
    return int(kilobytes[0]) * 1024 if kilobytes else None


def _without_waiting(path: str, flags: int) -> int:
    """Open what may by now be a pipe, which would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _identity(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_dev, state.st_ino, state.st_mtime_ns


def _state(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no valid path"
        raise CheckpointError(f"{path}: cannot be read ({why})") from error
