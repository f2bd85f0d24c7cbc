"""The zip archive that torch.save writes: its directory read and checked, its storages left where they lie."""

from __future__ import annotations

import os
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

from wanalyze.checkpoints.files import Range, WeightFile
from wanalyze.errors import CheckpointError

PICKLE, _BYTE_ORDER = "data.pkl", "byteorder"
_TAIL = 2**16  # bytes; the directory of most archives fits, and one read is one request at the Hub
_DIRECTORY_LIMIT = 16 * 2**20  # bytes; an entry has about 100
_PICKLE_LIMIT = 64 * 2**20  # bytes
_HEADER = struct.Struct("<4s5H3I2H")  # of an entry: magic, version, flags, method, time, date, crc, 2 sizes, 2 lengths
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_FULL = 2**32 - 1  # a size or position that stands elsewhere, in 64 bits
_ALIGNMENT = 64  # of what torch stores


@dataclass(frozen=True)
class Entry:
    """A file in an archive: its local header at byte `header`, its content before byte `limit`."""

    name: str
    header: int
    size: int
    limit: int

    @cached_property
    def address(self) -> int:
        """The byte after its name, the first that its content can have: no two entries share an address."""
        return self.header + _HEADER.size + len(self.name.encode())

    @cached_property
    def likely_start(self) -> int:
        """Where its content lies if torch wrote the archive: aligned by a field that pads the local header."""
        longs = 2 * (self.size >= _FULL) + (self.header >= _FULL)
        end = self.address + 4 + (4 + 8 * longs if longs else 0)
        return min(-(-end // _ALIGNMENT) * _ALIGNMENT, self.limit)


@dataclass(frozen=True)
class Archive:
    """An archive as a file of weights, whose addresses are those of its directory (`Entry.address`).

    Where content really begins its local header says. That is read and checked along with the content, so that listing
    takes the directory alone and not one request for every tensor.
    """

    file: WeightFile
    entries: Mapping[str, Entry]
    _starts: dict[str, int] = field(default_factory=dict, repr=False, compare=False)  # known from local headers

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def where(self) -> str:
        return self.file.where

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def is_whole(self) -> bool:
        return self.file.is_whole

    def sha256(self) -> str | None:
        return self.file.sha256()

    def expect(self, ranges: Iterable[Range]) -> None:
        self.file.expect(self._with_headers(ranges))

    def read(self, start: int, size: int) -> bytearray:
        if size == 0:
            return bytearray()
        entry = self._at(start)
        if not entry.address <= start <= start + size <= entry.address + entry.size:
            raise CheckpointError(f"{self.where}: bytes {start} to {start + size} lie in no one entry of the archive")
        return self.file.read(self._content(entry) + start - entry.address, size)

    def read_entry(self, name: str) -> bytes:
        entry = self.entries[name]
        return bytes(self.read(entry.address, entry.size))

    def _with_headers(self, ranges: Iterable[Range]) -> Iterator[Range]:
        told = set(self._starts)
        for start, size in ranges:
            if size == 0:
                continue
            entry = self._at(start)
            if entry.name not in told:
                told.add(entry.name)
                yield entry.header, entry.likely_start - entry.header
            yield self._starts.get(entry.name, entry.likely_start) + start - entry.address, size

    def _at(self, position: int) -> Entry:
        index = bisect_right(self._in_order, position, key=lambda entry: entry.address) - 1
        return self._in_order[max(index, 0)]

    @cached_property
    def _in_order(self) -> list[Entry]:
        return sorted((entry for entry in self.entries.values() if entry.size), key=lambda entry: entry.address)

    def _content(self, entry: Entry) -> int:
        """Where the content of an entry begins; its local header must agree with the directory."""
        if (known := self._starts.get(entry.name)) is not None:
            return known
        header = bytes(self.file.read(entry.header, entry.likely_start - entry.header))
        magic, _, flags, method, _, _, _, *sizes, name_length, extra_length = _HEADER.unpack(header[: _HEADER.size])
        start: int = entry.header + _HEADER.size + name_length + extra_length
        name = header[_HEADER.size : _HEADER.size + name_length]
        # Sizes may be left to a descriptor after the content, or stand in 64 bits elsewhere.
        agrees = magic == b"PK\3\4" and name == entry.name.encode() and set(sizes) <= {0, entry.size, _FULL}
        if not agrees or method != zipfile.ZIP_STORED or flags & _ENCRYPTED or start + entry.size > entry.limit:
            _refuse(self.file, entry.name, "has a header that does not agree with the archive's directory")
        self._starts[entry.name] = start
        return start


def open_archive(file: WeightFile) -> Archive:
    """The archive in a file that begins as a zip; its directory is read and checked, nothing else.

    Entries are called as they are within the one folder that torch puts them in: `data.pkl`, `data/0`.
    """
    try:
        with zipfile.ZipFile(_Stream(file)) as archive:
            found, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise CheckpointError(f"{file.where}: not a whole zip archive ({error}); download it again") from None
    top = _top(file, [info.orig_filename for info in found])
    for info in found:
        _check(file, info)
    entries = _placed(file, found, end)
    return _checked(Archive(file, {entry.name.removeprefix(top): entry for entry in entries}))


def _check(file: WeightFile, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        _refuse(file, name, "would lie outside the archive")
    if info.flag_bits & _ENCRYPTED:
        _refuse(file, name, "is encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        _refuse(file, name, "is compressed, which torch never does; unpack and save it again")


def _placed(file: WeightFile, found: list[zipfile.ZipInfo], end: int) -> list[Entry]:
    """The entries in the order of their places, of which none may reach into the next."""
    if len({info.orig_filename for info in found}) < len(found):
        raise CheckpointError(f"{file.where}: holds two entries of one name; the file is damaged or forged")
    found = sorted(found, key=lambda info: info.header_offset)
    limits = [*(info.header_offset for info in found[1:]), end]
    entries = [
        Entry(info.orig_filename, info.header_offset, info.file_size, limit)
        for info, limit in zip(found, limits, strict=True)
    ]
    for entry in entries:
        if entry.header < 0 or entry.header + _HEADER.size + len(entry.name.encode()) + entry.size > entry.limit:
            _refuse(file, entry.name, "overlaps what follows it")
    return entries


def _top(file: WeightFile, names: list[str]) -> str:
    """The folder that torch puts everything in."""
    pickles = [name for name in names if f"/{name}".endswith(f"/{PICKLE}")]
    if not pickles:
        raise CheckpointError(f"{file.where}: a zip archive without {PICKLE}, so not written by torch.save")
    if len(pickles) > 1:
        raise CheckpointError(f"{file.where}: holds {len(pickles)} files {PICKLE}; the file is damaged or forged")
    top = pickles[0].removesuffix(PICKLE)
    if f"{top}constants.pkl" in names or any(name.startswith(f"{top}code/") for name in names):
        raise CheckpointError(
            f"{file.where}: a TorchScript archive, a program and not a state dict; where you trust it, "
            "`torch.save(torch.jit.load(path).state_dict(), new_path)`"
        )
    outside = next((name for name in names if not name.startswith(top)), None)
    if outside is not None:
        _refuse(file, outside, f"lies outside {top[:80]!r}, where torch puts everything")
    return top


def _checked(archive: Archive) -> Archive:
    size = archive.entries[PICKLE].size
    if size > _PICKLE_LIMIT:
        raise CheckpointError(f"{archive.where}: {PICKLE} has {size} bytes, {_PICKLE_LIMIT} are allowed")
    order = archive.entries.get(_BYTE_ORDER)
    if order is not None and (order.size > 16 or archive.read_entry(_BYTE_ORDER) != b"little"):
        raise CheckpointError(f"{archive.where}: written on a big-endian machine; save it again on a little-endian one")
    return archive


def _refuse(file: WeightFile, name: str, why: str) -> NoReturn:
    raise CheckpointError(f"{file.where}: entry {name[:80]!r} {why}; the file is damaged or forged")


class _Stream:
    """A file of weights as zipfile wants it; its end, where the directory lies, is read once."""

    def __init__(self, file: WeightFile) -> None:
        self._file, self._at = file, 0
        self._tail_at = max(file.size - _TAIL, 0)
        self._tail = file.read(self._tail_at, file.size - self._tail_at)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        if position < 0:
            raise OSError("a position before its beginning")
        self._at = position
        return position

    def read(self, size: int = -1) -> bytes:
        rest = max(self._file.size - self._at, 0)
        size = rest if size < 0 else min(size, rest)
        if size > _DIRECTORY_LIMIT:
            raise CheckpointError(f"{self._file.where}: a directory of {size} bytes, {_DIRECTORY_LIMIT} are allowed")
        start, self._at = self._at, self._at + size
        if start >= self._tail_at:
            return bytes(self._tail[start - self._tail_at :][:size])
        return bytes(self._file.read(start, size))
