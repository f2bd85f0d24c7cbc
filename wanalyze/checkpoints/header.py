"""The header of a safetensors file, parsed strictly and without reading any tensor."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import BinaryIO, NoReturn

from wanalyze.checkpoints.checkpoint import TensorEntry, WeightFile
from wanalyze.checkpoints.dtypes import DTYPES, DType
from wanalyze.checkpoints.strict_json import parse_object
from wanalyze.errors import CheckpointError

_HEADER_LIMIT = 100_000_000  # bytes; the format's own
_MAX_DIMENSIONS = 8
_MAX_EXTENT = 2**48  # elements along one dimension; keeps products far from overflow in every reader
_IMPOSTORS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights; run `git lfs pull`"),
    (b"PK\x03\x04", "is a zip archive (a torch file?), not safetensors; save it with safetensors"),
    (b"\x80", "is a pickle, not safetensors; save it with safetensors"),
    (b"GGUF", "is a GGUF file, which is not supported yet"),
    (b"<", "is a web page, not safetensors; download the file again"),
)


def read_header(path: Path, *, name: str) -> tuple[WeightFile, list[TensorEntry]]:
    """The tensors of the safetensors file at `path`, in file order.

    Enforces the format's rules: the ranges tile the data from its first byte to the end of the
    file, each as long as its dtype and shape say, and no name appears twice.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        with path.open("rb") as stream:
            text = _header_text(stream, path, state.st_size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    file = WeightFile(path, name, state.st_size, state.st_mtime_ns)
    fields = parse_object(text, where=f"{path}: header")
    fields.pop("__metadata__", None)
    data_start = 8 + len(text)
    entries = [_entry(file, data_start, key, value) for key, value in fields.items()]
    entries.sort(key=lambda entry: (entry.start, entry.size))
    _check_tiling(file, data_start, entries)
    return file, entries


def _header_text(stream: BinaryIO, path: Path, size: int) -> bytes:
    start = stream.read(32)
    for magic, what in _IMPOSTORS:
        if start.startswith(magic) and start[8:9] != b"{":
            raise CheckpointError(f"{path}: {what}")
    if size < 8:
        raise CheckpointError(f"{path}: {size} bytes, too short for a safetensors file; download it again")
    length = int.from_bytes(start[:8], "little")
    if length > min(_HEADER_LIMIT, size - 8):
        raise CheckpointError(
            f"{path}: says its header is {length} bytes long, but the file has {size - 8} after the length "
            f"and {_HEADER_LIMIT} are allowed; not safetensors, or cut short"
        )
    stream.seek(8)
    text = stream.read(length)
    if not text.startswith(b"{"):
        raise CheckpointError(f"{path}: the header does not begin with '{{'; not a safetensors file")
    return text


def _entry(file: WeightFile, data_start: int, name: str, value: object) -> TensorEntry:
    def refuse(why: str) -> NoReturn:
        raise CheckpointError(f"{file.path}: tensor {name[:80]!r}: {why[:200]}; the file is damaged or forged")

    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        refuse("needs dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        refuse(f"unknown dtype {dtype!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        refuse(f"shape {str(shape)[:80]} is no list of at most {_MAX_DIMENSIONS} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        refuse(f"data_offsets {str(offsets)[:80]} are not two positions")
    begin, end = offsets
    expected = _stored_bytes(DTYPES[dtype], shape)
    if end - begin != expected:
        refuse(f"{dtype} of shape {shape} takes {expected} bytes, its range has {end - begin}")
    return TensorEntry(name, DTYPES[dtype], tuple(shape), file, data_start + begin, end - begin)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _MAX_EXTENT for n in value)


def _stored_bytes(dtype: DType, shape: list[int]) -> int:
    return -(-math.prod(shape) * dtype.bits // 8)


def _check_tiling(file: WeightFile, data_start: int, entries: list[TensorEntry]) -> None:
    position = data_start
    for entry in entries:
        if entry.start != position:
            kind = "overlaps the tensor before it" if entry.start < position else "leaves a hole before it"
            raise CheckpointError(f"{file.path}: tensor {entry.name!r} {kind}; the file is damaged or forged")
        position += entry.size
    if position > file.size:
        raise CheckpointError(
            f"{file.path}: {position - file.size} bytes shorter than its header says; download it again"
        )
    if position < file.size:
        raise CheckpointError(
            f"{file.path}: {file.size - position} bytes follow the last tensor; the file is damaged or forged"
        )
