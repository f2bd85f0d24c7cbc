"""The header of a safetensors file, parsed strictly and without reading any tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.content import Raw
from wanalyze.checkpoints.dtypes import DTYPES, DType
from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.impostors import refuse_impostor
from wanalyze.checkpoints.strict_json import parse_object
from wanalyze.errors import CheckpointError

# Bytes. The format allows 100 MB, which take ten seconds and more than a GB to parse; files of 700 GB have 1 MB.
_HEADER_LIMIT = 16 * 2**20
_MAX_DIMENSIONS = 8
_LONGEST_TEXT = 2**20  # characters of a text that is kept; adapters' configs take some thousands
_MAX_EXTENT = 2**48  # elements along one dimension; keeps products far from overflow in every reader


@dataclass(frozen=True)
class Header:
    """The tensors of a file in its order, and what else it says of itself."""

    entries: list[TensorEntry]
    metadata: Mapping[str, str]


def read_header(file: WeightFile) -> Header:
    """The header of a safetensors file.

    Enforces the format's rules: the ranges tile the data from its first byte to the end of the
    file, each as long as its dtype and shape say, and no name appears twice.
    """
    text = _header_text(file)
    fields = parse_object(text, where=f"{file.where}: header")
    metadata = _metadata(file, fields.pop("__metadata__", None))
    data_start = 8 + len(text)
    found = [(key, _content(file, data_start, key, value)) for key, value in fields.items()]
    found.sort(key=lambda item: (item[1].start, item[1].size))
    _check_tiling(file, data_start, found)
    return Header([TensorEntry(name, content) for name, content in found], metadata)


def _metadata(file: WeightFile, value: object) -> dict[str, str]:
    """The texts under `__metadata__`, without those so long that they can only be lists of training data."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{file.where}: __metadata__ must map names to texts; the file is damaged or forged")
    return {name: text for name, text in value.items() if len(text) <= _LONGEST_TEXT}


def _header_text(file: WeightFile) -> bytes:
    start = bytes(file.read(0, min(32, file.size)))
    if start[8:9] != b"{":
        refuse_impostor(file, start)
    if file.size < 8:
        raise CheckpointError(f"{file.where}: {file.size} bytes, too short for a safetensors file; download it again")
    length = int.from_bytes(start[:8], "little")
    if length > min(_HEADER_LIMIT, file.size - 8):
        raise CheckpointError(
            f"{file.where}: says its header is {length} bytes long, but the file has {file.size - 8} after the length "
            f"and {_HEADER_LIMIT} are allowed; not safetensors, or cut short"
        )
    text = bytes(file.read(8, length))
    if not text.startswith(b"{"):
        raise CheckpointError(f"{file.where}: the header does not begin with '{{'; not a safetensors file")
    return text


def _content(file: WeightFile, data_start: int, name: str, value: object) -> Raw:
    def refuse(why: str) -> NoReturn:
        raise CheckpointError(f"{file.where}: tensor {name[:80]!r}: {why[:200]}; the file is damaged or forged")

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
    return Raw(file, data_start + begin, end - begin, DTYPES[dtype], tuple(shape))


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _MAX_EXTENT for n in value)


def _stored_bytes(dtype: DType, shape: list[int]) -> int:
    return -(-math.prod(shape) * dtype.bits // 8)


def _check_tiling(file: WeightFile, data_start: int, found: list[tuple[str, Raw]]) -> None:
    position = data_start
    for name, content in found:
        if content.start != position:
            kind = "overlaps the tensor before it" if content.start < position else "leaves a hole before it"
            raise CheckpointError(f"{file.where}: tensor {name[:80]!r} {kind}; the file is damaged or forged")
        position += content.size
    if position > file.size:
        raise CheckpointError(
            f"{file.where}: {position - file.size} bytes shorter than its header says; download it again"
        )
    if position < file.size:
        raise CheckpointError(
            f"{file.where}: {file.size - position} bytes follow the last tensor; the file is damaged or forged"
        )
