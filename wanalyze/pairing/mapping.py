"""--map: which tensor of the tuned is which of the base, said by the user."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wanalyze.checkpoints import TensorEntry
from wanalyze.checkpoints.content import picked
from wanalyze.errors import PairingError
from wanalyze.naming import module_name
from wanalyze.pairing.atom import Atom
from wanalyze.pairing.side import Side, part_of

_MOST_BYTES = 64 * 2**20
_MOST_LINES = 1_000_000
_RANGE = re.compile(r"(?P<name>.+)\[(?P<start>[0-9]{1,15}):(?P<stop>[0-9]{1,15})\]")


@dataclass(frozen=True)
class Line:
    """A line of the file: two names, of a tensor or of its module, each perhaps with a range of rows."""

    number: int
    tuned: str
    base: str


@dataclass(frozen=True)
class NameMap:
    """The lines of the file called `where`."""

    where: str = ""
    lines: tuple[Line, ...] = ()

    def error(self, line: Line, why: str) -> PairingError:
        return PairingError(f"{self.where}, line {line.number}: {why}")


@dataclass(frozen=True)
class Named:
    """What a name of the map means: a tensor, and the rows of it that are meant if not all are."""

    whole: TensorEntry
    rows: tuple[int, int] | None = None

    def atom(self, side: Side) -> Atom:
        transposed = side.is_conv1d(self.whole)
        if self.rows is None:
            return Atom("", self.whole, transposed)
        name = part_of(self.whole.name, f"{self.rows[0]}:{self.rows[1]}")
        return Atom("", TensorEntry(name, picked(self.whole.content, 1, *self.rows, axis=int(transposed))), transposed)


def read_map(path: Path) -> NameMap:
    """Read a file of two columns, the tuned's name and the base's, apart by spaces or tabs; # begins a comment.

    A name may end in a range of rows (outputs), as in `layers.0.qkv_proj.weight[0:4096]`. PairingError, with the
    number of the line, for a line that is no pair and for a name that stands in two.
    """
    lines = [_line(path, number, text) for number, text in _texts(path)]
    _check_once(path, [(line.number, line.tuned) for line in lines], "tuned")
    _check_once(path, [(line.number, line.base) for line in lines], "base")
    return NameMap(str(path), tuple(lines))


def find(side: Side, name: str) -> Named | None:
    """The tensor, or the weight of the module, of that name, with the range of rows that the name gives."""
    if (whole := _entry(side, name)) is not None:
        return Named(whole)
    if not (found := _RANGE.fullmatch(name)) or (whole := _entry(side, found["name"])) is None:
        return None
    start, stop = int(found["start"]), int(found["stop"])
    return Named(whole, (start, stop)) if 0 <= start < stop <= _height(side, whole) else None


def gaps(side: Side, named: list[Named]) -> Iterator[str]:
    """The modules, with their rows, of tensors of which the map names some rows and not these."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for item in named:
        if item.rows is not None:
            ranges.setdefault(item.whole.name, []).append(item.rows)
    for name, taken in ranges.items():
        end = 0
        for start, stop in [*sorted(taken), (_height(side, side.entries[name]),) * 2]:
            if start > end:
                yield module_name(part_of(name, f"{end}:{start}"))
            end = max(end, stop)


def _entry(side: Side, name: str) -> TensorEntry | None:
    return side.entries.get(name) or side.entries.get(f"{name}.weight")


def _height(side: Side, entry: TensorEntry) -> int:
    return entry.shape[int(side.is_conv1d(entry))] if entry.shape else 0


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    for number, text in enumerate(_read(path).split("\n"), 1):
        if number > _MOST_LINES:
            raise PairingError(f"{path}: more than {_MOST_LINES} lines; this cannot be a map of tensors")
        if said := text.partition("#")[0].strip():
            yield number, said


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PairingError(f"{path}: is no file; --map takes a text of two columns")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PairingError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > _MOST_BYTES:
        raise PairingError(f"{path}: larger than {_MOST_BYTES} bytes; this cannot be a map of tensors")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PairingError(f"{path}: is no UTF-8 text (byte {error.start}); --map takes two columns of names") from None


def _line(path: Path, number: int, text: str) -> Line:
    columns = text.split()
    if len(columns) != 2:
        raise PairingError(
            f"{path}, line {number}: {len(columns)} columns, {text[:80]!r}; two are needed, the tuned's name and "
            "the base's"
        )
    return Line(number, *columns)


def _check_once(path: Path, names: list[tuple[int, str]], whose: str) -> None:
    seen: dict[str, int] = {}
    for number, name in names:
        if (first := seen.setdefault(name, number)) != number:
            raise PairingError(
                f"{path}, line {number}: {name[:80]!r} of the {whose} stands in line {first} already; once is allowed"
            )
