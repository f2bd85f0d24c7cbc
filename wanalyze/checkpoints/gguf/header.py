"""The header of a GGUF file, parsed strictly and without reading any tensor.

The `gguf` package's own reader takes arrays of any length, nested to any depth, and tensors that overlap.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.gguf.cursor import Cursor
from wanalyze.checkpoints.gguf.storage import REMOVED, STORAGES, Storage
from wanalyze.errors import CheckpointError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS = 2**12
_MOST_TENSORS = 2**16
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_EXTENT = 2**48  # as of safetensors
_LONGEST_NAME = 2**10  # bytes; ggml itself allows 63 for a tensor
_KEPT_TEXT, _KEPT_ITEMS = 2**12, 2**10  # longer values, templates and vocabularies, say nothing of the weights
_LEAST_KEY, _LEAST_TENSOR = 13, 24  # bytes that each takes in the header
_ALIGNMENT, _USUAL_ALIGNMENT = "general.alignment", 32

_BOOL, _STRING, _ARRAY = 7, 8, 9
# The types of numbers, as `struct` calls them.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}

Value: TypeAlias = "int | float | bool | str | tuple[int | float | bool, ...] | None"  # None: too long to be kept


@dataclass(frozen=True)
class TensorInfo:
    """`start` counts from the beginning of the file; `shape` has its longest-lying dimension last, as torch's."""

    name: str
    storage: Storage
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) // self.storage.weights * self.storage.size


@dataclass(frozen=True)
class Header:
    """What a file says of its model, and its tensors in the order of the file."""

    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]


def read_header(file: WeightFile) -> Header:
    """The metadata and the tensors of a GGUF file, versions 2 and 3, little-endian.

    Enforces the format's rules: no key and no name twice, every tensor aligned, inside the file and apart from others.
    """
    cursor = Cursor(file)
    _check_start(file, cursor)
    tensors, keys = cursor.u64(), cursor.u64()
    _check_count(cursor, tensors, "tensors", _MOST_TENSORS, _LEAST_TENSOR)
    _check_count(cursor, keys, "keys", _MOST_KEYS, _LEAST_KEY)
    metadata = _metadata(cursor, keys)
    alignment = _alignment(cursor, metadata)
    found = _tensors(cursor, tensors)
    data_start = -(-cursor.position // alignment) * alignment
    placed = [TensorInfo(name, storage, shape, data_start + offset) for name, storage, shape, offset in found]
    _check_places(file, cursor, placed, alignment)
    return Header(metadata, tuple(placed))


def _check_start(file: WeightFile, cursor: Cursor) -> None:
    start = bytes(file.read(0, min(24, file.size)))
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file.where}: is a Git LFS pointer, not the weights; run `git lfs pull`")
    if not start.startswith(_MAGIC):
        raise CheckpointError(
            f"{file.where}: does not begin with {_MAGIC.decode()}; not a GGUF file, download it again"
        )
    cursor.skip(len(_MAGIC))
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:  # as llama.cpp tells it
        raise CheckpointError(f"{file.where}: a big-endian GGUF file, which is not read; convert the model again")
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{file.where}: GGUF version {version}; versions {_VERSIONS[0]} and {_VERSIONS[1]} are read, "
            "convert the model again"
        )


def _check_count(cursor: Cursor, count: int, what: str, most: int, least: int) -> None:
    if count > most or count * least > cursor.left:
        cursor.refuse(f"says it has {count} {what}; its size allows {cursor.left // least} and {most} are read")


def _metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(count):
        key = _name(cursor, "key")
        if key in found:
            cursor.refuse(f"key {key[:80]!r} appears twice")
        found[key] = _value(cursor, key)
    return found


def _name(cursor: Cursor, what: str) -> str:
    length = cursor.u64()
    if length > _LONGEST_NAME:
        cursor.refuse(f"a {what} of {length} bytes, {_LONGEST_NAME} are allowed")
    return _text(cursor, length, f"a {what}")


def _text(cursor: Cursor, length: int, what: str) -> str:
    try:
        return cursor.take(length).decode("utf-8")
    except UnicodeDecodeError:
        cursor.refuse(f"{what} is not valid UTF-8 text")


def _value(cursor: Cursor, key: str) -> Value:
    kind = cursor.u32()
    if kind == _ARRAY:
        return _array(cursor, key)
    if kind == _STRING:
        length = cursor.u64()
        if length > _KEPT_TEXT:
            cursor.skip(length)
            return None
        return _text(cursor, length, f"the value of {key[:80]!r}")
    if kind not in _NUMBERS:
        cursor.refuse(f"key {key[:80]!r} has a value of type {kind}, which GGUF does not have")
    return _numbers(cursor, kind, 1, key)[0]


def _array(cursor: Cursor, key: str) -> Value:
    """A short array of numbers; other arrays are stepped over."""
    kind, count = cursor.u32(), cursor.u64()
    if kind == _ARRAY:
        cursor.refuse(f"key {key[:80]!r} has an array of arrays, which no model needs")
    if kind != _STRING and kind not in _NUMBERS:
        cursor.refuse(f"key {key[:80]!r} has an array of type {kind}, which GGUF does not have")
    width = 8 if kind == _STRING else struct.calcsize(_NUMBERS[kind])
    if count * width > cursor.left:
        cursor.refuse(f"key {key[:80]!r} has an array of {count} values, more than the file has bytes for")
    if kind == _STRING:
        cursor.skip_strings(count)
        return None
    if count > _KEPT_ITEMS:
        cursor.skip(count * width)
        return None
    return _numbers(cursor, kind, count, key)


def _numbers(cursor: Cursor, kind: int, count: int, key: str) -> tuple[int | float | bool, ...]:
    form = f"<{count}{_NUMBERS[kind]}"
    values = struct.unpack(form, cursor.take(struct.calcsize(form)))
    if kind != _BOOL:
        return values
    if any(value > 1 for value in values):
        cursor.refuse(f"key {key[:80]!r} has the truth value {max(values)}, which is neither 0 nor 1")
    return tuple(map(bool, values))


def _alignment(cursor: Cursor, metadata: Mapping[str, Value]) -> int:
    value = metadata.get(_ALIGNMENT, _USUAL_ALIGNMENT)
    if type(value) is not int or value <= 0 or value & (value - 1):
        cursor.refuse(f"{_ALIGNMENT} is {str(value)[:80]}, a power of two is needed")
    return value


def _tensors(cursor: Cursor, count: int) -> list[tuple[str, Storage, tuple[int, ...], int]]:
    found, seen = [], set[str]()
    for _ in range(count):
        name = _name(cursor, "tensor name")
        if name in seen:
            cursor.refuse(f"tensor {name[:80]!r} appears twice")
        seen.add(name)
        shape = _shape(cursor, name)
        storage = _storage(cursor, name)
        if not storage.is_plain and (not shape or shape[-1] % storage.weights):
            cursor.refuse(
                f"tensor {name[:80]!r} of shape {shape} is stored as {storage.dtype.name}, "
                f"whose rows are of a multiple of {storage.weights}"
            )
        found.append((name, storage, shape, cursor.u64()))
    return found


def _shape(cursor: Cursor, name: str) -> tuple[int, ...]:
    """The dimension whose elements lie together comes first in ggml, last everywhere else."""
    count = cursor.u32()
    if count > _MOST_DIMENSIONS:
        cursor.refuse(f"tensor {name[:80]!r} has {count} dimensions, {_MOST_DIMENSIONS} are allowed")
    shape = tuple(cursor.u64() for _ in range(count))[::-1]
    if any(extent > _MAX_EXTENT for extent in shape):
        cursor.refuse(f"tensor {name[:80]!r} has the shape {shape}, larger than any")
    return shape


def _storage(cursor: Cursor, name: str) -> Storage:
    number = cursor.u32()
    if number in REMOVED:
        cursor.refuse(
            f"tensor {name[:80]!r} is stored as {REMOVED[number]}, which ggml no longer has", "convert the model again"
        )
    if number not in STORAGES:
        cursor.refuse(f"tensor {name[:80]!r} is of ggml type {number}", "none that this version of wanalyze knows")
    return STORAGES[number]


def _check_places(file: WeightFile, cursor: Cursor, tensors: list[TensorInfo], alignment: int) -> None:
    free = cursor.position
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.size)):
        if tensor.start % alignment:
            cursor.refuse(f"tensor {tensor.name[:80]!r} begins at {tensor.start}, no multiple of {alignment}")
        if tensor.start < free and tensor.size:
            cursor.refuse(f"tensor {tensor.name[:80]!r} overlaps the tensor before it")
        free = max(free, tensor.start + tensor.size)
        if free > file.size:
            raise CheckpointError(
                f"{file.where}: tensor {tensor.name[:80]!r} ends at byte {free}, the file has {file.size}; "
                "cut short, download it again"
            )
