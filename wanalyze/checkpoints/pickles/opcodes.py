"""The instructions of a pickle, cut out of its bytes one after the other; nothing is carried out here.

Only those that a state dict takes are known (protocols 2 to 5), and each is held to a limit, so that no number in the
file decides what is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

MOST = 2_000_000  # instructions; a tensor takes about 30
_LONGEST = 2**20  # bytes of a text; names are much shorter, and some trainers keep a config as text
_LONGEST_NAME = 200  # of a module or what is in it
_LONGEST_NUMBER = 32  # bytes; seeds are kept beside weights, and have up to 16

FORGED = "the file is damaged or forged, and nothing in it was run"

Argument: TypeAlias = Any  # what an instruction carries: None, a number, a text, bytes or a (module, name)
Instruction: TypeAlias = tuple[str, Argument]
_Read: TypeAlias = Callable[[bytes, int], tuple[Argument, int]]  # the argument at a position, and where it ends


class Refused(Exception):
    """Why a pickle is not read. Who reads the file adds where it lies and raises CheckpointError."""


def instructions(data: bytes, most: int = MOST) -> Iterator[Instruction]:
    r"""The instructions of one pickle, STOP the last; Refused where one is unknown, cut short or beyond a limit.

    >>> list(instructions(b"\x80\x02K\x07."))
    [('PROTO', 2), ('BININT1', 7), ('STOP', None)]
    """
    position, name = 0, ""
    for _ in range(most):
        if position >= len(data):
            raise Refused("its pickle is cut short; download it again")
        known = _OPCODES.get(data[position])
        if known is None:
            raise Refused(f"its pickle uses instruction {data[position]:#04x}, which no state dict takes; {FORGED}")
        name, read = known
        argument, position = read(data, position + 1)
        yield name, argument
        if name == "STOP":
            break
    if name != "STOP":
        raise Refused(f"its pickle has more than {most} instructions; save it with safetensors")
    if position < len(data):
        raise Refused(f"{len(data) - position} bytes follow its pickle; {FORGED}")


def _nothing(_: bytes, position: int) -> tuple[None, int]:
    return None, position


def _number(layout: str) -> _Read:
    size = struct.calcsize(layout)

    def read(data: bytes, position: int) -> tuple[Argument, int]:
        return struct.unpack(layout, _cut(data, position, size))[0], position + size

    return read


def _sized(layout: str, finish: Callable[[bytes], Argument], longest: int) -> _Read:
    """What is preceded by its length."""
    length_of = _number(layout)

    def read(data: bytes, position: int) -> tuple[Argument, int]:
        length, position = length_of(data, position)
        if length > longest:
            raise Refused(f"its pickle holds a value of {length} bytes, {longest} are allowed; {FORGED}")
        return finish(_cut(data, position, length)), position + length

    return read


def _global(data: bytes, position: int) -> tuple[tuple[str, str], int]:
    """A module and a name in it, on a line each."""
    module, position = _line(data, position)
    name, position = _line(data, position)
    return (module, name), position


def _line(data: bytes, position: int) -> tuple[str, int]:
    end = data.find(b"\n", position, position + _LONGEST_NAME)
    if end < 0:
        raise Refused(f"its pickle refers to a name of more than {_LONGEST_NAME} bytes; {FORGED}")
    return _text(data[position:end]), end + 1


def _cut(data: bytes, position: int, size: int) -> bytes:
    if position + size > len(data):
        raise Refused("its pickle is cut short; download it again")
    return data[position : position + size]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")  # strictly: a lone surrogate can be printed nowhere
    except UnicodeDecodeError:
        raise Refused(f"its pickle holds text that is not UTF-8; {FORGED}") from None


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


_OPCODES: dict[int, tuple[str, _Read]] = {
    code[0]: (name, read)
    for code, name, read in (
        (b"\x80", "PROTO", _number("<B")),
        (b"\x95", "FRAME", _number("<Q")),
        (b".", "STOP", _nothing),
        (b"N", "NONE", _nothing),
        (b"\x88", "NEWTRUE", _nothing),
        (b"\x89", "NEWFALSE", _nothing),
        (b"K", "BININT1", _number("<B")),
        (b"M", "BININT2", _number("<H")),
        (b"J", "BININT", _number("<i")),
        (b"\x8a", "LONG1", _sized("<B", _integer, _LONGEST_NUMBER)),
        (b"G", "BINFLOAT", _number(">d")),
        (b"X", "BINUNICODE", _sized("<I", _text, _LONGEST)),
        (b"\x8c", "SHORT_BINUNICODE", _sized("<B", _text, _LONGEST)),
        (b"B", "BINBYTES", _sized("<I", bytes, _LONGEST)),
        (b"C", "SHORT_BINBYTES", _sized("<B", bytes, _LONGEST)),
        (b"(", "MARK", _nothing),
        (b")", "EMPTY_TUPLE", _nothing),
        (b"\x85", "TUPLE1", _nothing),
        (b"\x86", "TUPLE2", _nothing),
        (b"\x87", "TUPLE3", _nothing),
        (b"t", "TUPLE", _nothing),
        (b"]", "EMPTY_LIST", _nothing),
        (b"a", "APPEND", _nothing),
        (b"e", "APPENDS", _nothing),
        (b"}", "EMPTY_DICT", _nothing),
        (b"s", "SETITEM", _nothing),
        (b"u", "SETITEMS", _nothing),
        (b"\x8f", "EMPTY_SET", _nothing),
        (b"\x90", "ADDITEMS", _nothing),
        (b"\x94", "MEMOIZE", _nothing),
        (b"q", "BINPUT", _number("<B")),
        (b"r", "LONG_BINPUT", _number("<I")),
        (b"h", "BINGET", _number("<B")),
        (b"j", "LONG_BINGET", _number("<I")),
        (b"c", "GLOBAL", _global),
        (b"\x93", "STACK_GLOBAL", _nothing),
        (b"Q", "BINPERSID", _nothing),
        (b"R", "REDUCE", _nothing),
        (b"\x81", "NEWOBJ", _nothing),
        (b"b", "BUILD", _nothing),
    )
}
