"""Files as torch.save writes them, made by hand: pickles put together from their instructions, a zip around them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from wanalyze.checkpoints import Checkpoint

FOUR = struct.pack("<4f", 1, 2, 3, 4)


def raw(tensor: Tensor) -> bytes:
    """The elements row by row: equal to the last bit, NaN and -0 included."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    assert found.entries.keys() == expected.keys()
    for name, tensor in expected.items():
        read = found.read(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape) == (read.dtype, found.entries[name].shape)
        assert raw(read) == raw(tensor.detach()), name


def text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def named(full: str) -> bytes:
    """What a name, module and all, stands for."""
    module, _, name = full.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def several(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def numbers(values: Sequence[int]) -> bytes:
    return several(*map(number, values))


def called(full: str, *arguments: bytes) -> bytes:
    return named(full) + several(*arguments) + pickle.REDUCE


def mapping(items: Mapping[str, bytes]) -> bytes:
    pairs = b"".join(text(name) + value for name, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def record(full: str, fields: Mapping[str, bytes]) -> bytes:
    """An object of a class, with these attributes."""
    return named(full) + pickle.EMPTY_TUPLE + pickle.NEWOBJ + mapping(fields) + pickle.BUILD


def storage(key: str = "0", count: int = 4, kind: str = "torch.FloatStorage") -> bytes:
    return several(text("storage"), named(kind), text(key), text("cpu"), number(count)) + pickle.BINPERSID


def tensor(
    shape: Sequence[int] = (4,),
    strides: Sequence[int] = (1,),
    offset: int = 0,
    *,
    of: bytes | None = None,
    by: str = "torch._utils._rebuild_tensor_v2",
    more: Sequence[bytes] = (),
) -> bytes:
    """A view of a storage, the one of four float32 where `of` names no other."""
    described = (number(offset), numbers(shape), numbers(strides), pickle.NEWFALSE, pickle.NONE)
    return called(by, storage() if of is None else of, *described, *more)


def pickled(value: bytes, protocol: int = 2) -> bytes:
    return pickle.PROTO + bytes([protocol]) + value + pickle.STOP


def archive(path: Path, pickle_: bytes, files: Mapping[str, bytes] | None = None, *, top: str = "archive/") -> Path:
    """A zip with a pickle and the files it refers to: one storage of four float32 where none are given."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{top}data.pkl", pickle_)
        made.writestr(f"{top}byteorder", b"little")
        for name, content in ({"data/0": FOUR} if files is None else files).items():
            made.writestr(f"{top}{name}", content)
    return path


class Trap:
    """Springs when it is made, called or given a state: no pickle may do any of it."""

    sprung: ClassVar[list[str]] = []

    def __new__(cls, *_: object, **__: object) -> Trap:
        cls.sprung.append("made")
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        self.sprung.append("given a state")


_TRAP = f"{Trap.__module__}.{Trap.__qualname__}"
_BY_LINE = Trap.__module__.encode() + b"\n" + Trap.__qualname__.encode() + b"\n"
# Every way in which a pickle can come to call what a module holds.
TRAPS = {
    "GLOBAL, REDUCE": called(_TRAP),
    "STACK_GLOBAL, REDUCE": (
        text(Trap.__module__) + text(Trap.__qualname__) + pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.REDUCE
    ),
    "INST": pickle.MARK + pickle.INST + _BY_LINE,
    "OBJ": pickle.MARK + named(_TRAP) + text("argument") + pickle.OBJ,
    "NEWOBJ": named(_TRAP) + pickle.EMPTY_TUPLE + pickle.NEWOBJ,
    "NEWOBJ_EX": named(_TRAP) + pickle.EMPTY_TUPLE + pickle.EMPTY_DICT + pickle.NEWOBJ_EX,
    "BUILD": named(_TRAP) + pickle.EMPTY_TUPLE + pickle.NEWOBJ + mapping({"x": pickle.NONE}) + pickle.BUILD,
    "in a key": pickle.EMPTY_DICT + called(_TRAP) + pickle.NONE + pickle.SETITEM,
    "in arguments": called("collections.OrderedDict", several(several(text("a"), called(_TRAP)))),
    "beside a tensor": mapping({"b": called(_TRAP), "a": tensor()}),
    "what is left on the stack": called(_TRAP) + mapping({"a": tensor()}),
}
