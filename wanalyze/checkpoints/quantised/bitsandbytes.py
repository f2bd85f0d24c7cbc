"""bitsandbytes: NF4 and FP4 in blocks over the flattened weight, and 8-bit integers with a scale for every row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanalyze.checkpoints.quantised.blocks import PER_ROW, spread
from wanalyze.checkpoints.quantised.codes import FP4, NF4, Alphabet
from wanalyze.checkpoints.quantised.dequantised import Coded, Dequantised, floats, integers
from wanalyze.checkpoints.quantised.group import Group
from wanalyze.checkpoints.strict_json import parse_object

if TYPE_CHECKING:
    from torch import Tensor

STATE = {".quant_state.bitsandbytes__nf4": "nf4", ".quant_state.bitsandbytes__fp4": "fp4"}
_ALPHABETS = {"nf4": NF4, "fp4": FP4}
_DTYPES = {"nf4": integers("nf4", 4), "fp4": floats("fp4", 4, 1)}
_INT8 = integers("int8 (bitsandbytes)", 8)
_MOST_DIMENSIONS = 8
_LARGEST = 2.0**127  # a mean of weights in float32
_CODE_TOLERANCE = 1e-3  # tables have been stored in float16; the nearest two codes, of FP4, are 5e-3 apart
_ROW_FORMAT = 0  # of bitsandbytes.utils.LINEAR_8BIT_WEIGHTS_FORMAT_MAPPING; the others are orders of one GPU each


@dataclass(frozen=True)
class _State:
    """The quant_state that lies beside a weight: `offset` and `nested` only where the scales are quantised too."""

    kind: str
    shape: tuple[int, ...]
    block: int
    nested: int | None
    offset: float

    @property
    def blocks(self) -> int:
        return -(-math.prod(self.shape) // self.block)


def four_bits(group: Group) -> Dequantised:
    """A weight in NF4 or FP4: codes, high half of a byte first, times the absolute maximum of their block."""
    state = _state(group)
    said = group.settings.text("bnb_4bit_quant_type")
    if said and said != state.kind:
        group.refuse(f"is {state.kind}, but config.json says {said}; the two must agree")
    count = math.prod(state.shape)
    if group.size("") != -(-count // 2):
        group.refuse(f"takes {group.size('')} bytes, 4-bit codes of {list(state.shape)} take {-(-count // 2)}")
    _check_scales(group, state)

    def decode(group: Group) -> Coded:
        packed = group.read_bytes("").reshape(-1)
        codes = _halves(packed)[:count].reshape(state.shape)
        scale = _repeated(_absmax(group, state), state.block, count).reshape(state.shape)
        return Coded(codes, scale, _code(group, state.kind))

    return Dequantised(_DTYPES[state.kind], state.shape, group, decode, f"{state.kind} (blocks of {state.block})")


def eight_bits(group: Group) -> Dequantised:
    """A weight of LLM.int8(): integers of which 127 is the absolute maximum of their row, `SCB`."""
    group.expect_matrix(".weight")
    group.expect_dtype(".weight", "int8")
    shape = group.shape(".weight")
    group.expect_shape(".SCB", shape[:1])
    if ".weight_format" in group and group.count(".weight_format") != 1:
        group.refuse("has no single element", ".weight_format")

    def decode(group: Group) -> Coded:
        if ".weight_format" in group and int(group.read(".weight_format").reshape(())) != _ROW_FORMAT:
            group.refuse("says the rows are in the order of one GPU; only the order 'row' is read", ".weight_format")
        return Coded(group.read(".weight"), spread(group.read_scale(".SCB") / 127, PER_ROW, shape))

    return Dequantised(_INT8, shape, group, decode, "int8 (bitsandbytes, one scale a row)")


def _state(group: Group) -> _State:
    """The quant_state: JSON in a tensor, from which nothing but numbers and the shape are taken."""
    suffix = next(suffix for suffix in STATE if suffix in group)
    fields = parse_object(group.read_small(suffix), where=f"{group.settings.where}: {(group.prefix + suffix)[:160]!r}")
    shape = fields.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(side) is int and side > 0 for side in shape):
        group.refuse(f"has the shape {str(shape)[:80]} in its quant_state, a list of sizes above 0 is needed")
    if len(shape) > _MOST_DIMENSIONS:
        group.refuse(f"has {len(shape)} dimensions in its quant_state, at most {_MOST_DIMENSIONS} are read")
    if fields.get("quant_type") != STATE[suffix]:
        group.refuse(f"is {STATE[suffix]} by name and {str(fields.get('quant_type'))[:80]!r} by its quant_state")
    return _State(STATE[suffix], tuple(shape), _size(group, fields, "blocksize"), *_nested(group, fields))


def _nested(group: Group, fields: dict[str, object]) -> tuple[int | None, float]:
    if ".nested_absmax" not in group:
        if "nested_blocksize" in fields:
            group.refuse(
                "is missing, the quant_state calls for it; pass the whole checkpoint, or download it again",
                ".nested_absmax",
            )
        return None, 0.0
    offset = fields.get("nested_offset")
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not abs(offset) < _LARGEST:
        group.refuse(f"has the nested_offset {str(offset)[:80]} in its quant_state, a number is needed")
    return _size(group, fields, "nested_blocksize"), float(offset)


def _size(group: Group, fields: dict[str, object], key: str) -> int:
    size = fields.get(key)
    if type(size) is not int or size <= 0:
        group.refuse(f"has the {key} {str(size)[:80]} in its quant_state, an integer above 0 is needed")
    return size


def _check_scales(group: Group, state: _State) -> None:
    group.expect_shape(".quant_map", (16,))
    group.expect_shape(".absmax", (state.blocks,))
    if state.nested is None:
        group.expect_dtype(".absmax", "float32", "float16", "bfloat16")
        return
    if ".nested_quant_map" not in group:
        group.refuse(
            "is missing beside nested_absmax; pass the whole checkpoint, or download it again", ".nested_quant_map"
        )
    group.expect_dtype(".absmax", "uint8")
    group.expect_shape(".nested_quant_map", (256,))
    group.expect_shape(".nested_absmax", (-(-state.blocks // state.nested),))


def _absmax(group: Group, state: _State) -> Tensor:
    """The scale of every block, itself dequantised where it was quantised."""
    if state.nested is None:
        return group.read_scale(".absmax")
    table, outer = group.read_scale(".nested_quant_map"), group.read_scale(".nested_absmax")
    inner = table[group.read(".absmax").int()]
    return group.finite(inner * _repeated(outer, state.nested, state.blocks) + state.offset, ".absmax")


def _repeated(scales: Tensor, size: int, count: int) -> Tensor:
    """One scale for each of `count` numbers in blocks of `size`, which a file may say to be larger than all of them."""
    return scales.repeat_interleave(min(size, count))[:count]


def _code(group: Group, kind: str) -> Alphabet:
    """The table in the file, which must be the known one but for its rounding."""
    table = group.read_scale(".quant_map").tolist()
    known = _ALPHABETS[kind].values
    if any(abs(found - value) > _CODE_TOLERANCE for found, value in zip(table, known, strict=True)):
        group.refuse(f"is not the table of {kind}; the file is damaged or forged", ".quant_map")
    return Alphabet(tuple(table))


def _halves(packed: Tensor) -> Tensor:
    import torch

    return torch.stack((packed >> 4, packed & 15), dim=-1).flatten()
