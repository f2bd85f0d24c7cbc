"""compressed-tensors: integers of 1 to 8 bits as one stream of bits a row, and floats of 4 or 6 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wanalyze.checkpoints.quantised.bits import turned, unpack, words_of
from wanalyze.checkpoints.quantised.blocks import Block, scale_shape, spread, words
from wanalyze.checkpoints.quantised.codes import E2M3
from wanalyze.checkpoints.quantised.dequantised import Coded, Dequantised, floats, integers
from wanalyze.checkpoints.quantised.fp4 import MX_GROUP, mxfp4, nvfp4
from wanalyze.checkpoints.quantised.group import Group

if TYPE_CHECKING:
    from torch import Tensor

SHAPE = ".weight_shape"
_PACKED, _SCALE, _WHOLE = ".weight_packed", ".weight_scale", ".weight_global_scale"
_ZERO, _INDEX = ".weight_zero_point", ".weight_g_idx"
_MXFP6 = floats("mxfp6 e2m3", 6, 3)


def packed(group: Group) -> Dequantised:
    """A weight in `weight_packed`; of what it is packed is seen from dtypes and shapes."""
    kind = _kind(group)
    formats = group.settings.formats
    if formats and kind not in formats:
        said = " or ".join(sorted(formats))
        group.refuse(f"is stored as {kind}, config.json says {said}; the two must agree")
    if kind == "pack-quantized":
        return _integers(group)
    if kind == "nvfp4-pack-quantized":
        return nvfp4(group, _PACKED, _SCALE, _WHOLE, is_divisor=True)
    return mxfp4(group, _PACKED, _SCALE) if kind == "mxfp4-pack-quantized" else _mxfp6(group)


def _kind(group: Group) -> str:
    stored = group.dtype(_PACKED).name
    group.expect_dtype(_PACKED, "int32", "uint8")
    if stored == "int32":
        return "pack-quantized"
    if _WHOLE in group:
        return "nvfp4-pack-quantized"
    if group.dtype(_SCALE).name == "float8_e4m3fn":
        group.refuse("is missing; pass the whole checkpoint, or download it again", _WHOLE)
    columns = group.shape(_SCALE)[-1:] or (0,)
    is_six = group.shape(_PACKED)[-1:] == (columns[0] * MX_GROUP * 6 // 8,)
    return "mxfp6-pack-quantized" if is_six else "mxfp4-pack-quantized"


def _mxfp6(group: Group) -> Dequantised:
    """MXFP6: codes of E2M3 as one stream of bits a row, times 2^(scale − 127)."""
    group.expect_dtype(_SCALE, "uint8", "F8_E8M0")
    shape = (*group.shape(_PACKED)[:-1], group.shape(_PACKED)[-1] * 8 // 6)
    group.expect_shape(_SCALE, scale_shape(shape, (1, MX_GROUP)))

    def decode(group: Group) -> Coded:
        codes = unpack(group.read_bytes(_PACKED), 6, shape[-1])
        return Coded(codes, spread(group.read_scale(_SCALE), (1, MX_GROUP), codes.shape), E2M3)

    return Dequantised(_MXFP6, shape, group, decode, f"mxfp6 (groups of {MX_GROUP})", len(shape) > 2)


def _integers(group: Group) -> Dequantised:
    """(q − 2^(bits − 1) − zero point) · scale."""
    shape = _stored_shape(group)
    schemes = group.settings.schemes
    bits = _bits(group, shape[-1], {scheme.bits for scheme in schemes})
    told = [scheme.block for scheme in schemes if scheme.bits == bits]
    block = group.block(_SCALE, shape, told)
    if _ZERO in group:
        _check_zero(group, bits, shape, block)
    if _INDEX in group:
        group.expect_shape(_INDEX, shape[-1:])
        group.expect_dtype(_INDEX, "int32", "int64")

    def decode(group: Group) -> Coded:
        codes = unpack(group.read_bytes(_PACKED), bits, shape[-1])
        index = _index(group, block, shape)
        scale = _placed(group.read_scale(_SCALE), block, codes.shape, index)
        zero = _placed(_zero(group, bits, block, codes.shape), block, codes.shape, index) if _ZERO in group else 0.0
        return Coded(codes, scale, zero=zero + 2.0 ** (bits - 1))

    label = f"int{bits} (compressed-tensors, {words(block)})"
    return Dequantised(integers(f"int{bits}", bits), shape, group, decode, label)


def _stored_shape(group: Group) -> tuple[int, ...]:
    """The shape of the weight, of which `weight_packed` has all but the last dimension."""
    if SHAPE not in group:
        group.refuse("is missing; pass the whole checkpoint, or download it again", SHAPE)
    group.expect_dtype(SHAPE, "int32", "int64")
    text, width = group.read_small(SHAPE), group.dtype(SHAPE).bits // 8
    sides = [int.from_bytes(text[at : at + width], "little", signed=True) for at in range(0, len(text), width)]
    stored = group.shape(_PACKED)
    if len(sides) < 2 or tuple(sides[:-1]) != stored[:-1] or not 0 < sides[-1] <= stored[-1] * 32:
        group.refuse(f"says {str(sides)[:80]}, which does not fit weight_packed of {list(stored)}", SHAPE)
    return tuple(sides)


def _bits(group: Group, inputs: int, told: set[int]) -> int:
    """The number of bits that gives the rows their length; of the few that fit a short row the one that was told."""
    width = group.shape(_PACKED)[-1]
    fitting = [bits for bits in range(1, 9) if words_of(inputs, bits) == width and (not told or bits in told)]
    if len(fitting) != 1:
        said = f" of {' or '.join(map(str, sorted(told)))} bits" if told else ""
        group.refuse(f"has {width} words a row, which fits no packing{said} of {inputs} weights", _PACKED)
    return fitting[0]


def _check_zero(group: Group, bits: int, shape: tuple[int, ...], block: Block) -> None:
    scales = scale_shape(shape, block)
    if group.dtype(_ZERO).name == "int32":
        group.expect_shape(_ZERO, (*scales[:-2], words_of(scales[-2], bits), scales[-1]))
    else:
        group.expect_dtype(_ZERO, "int8")
        group.expect_shape(_ZERO, group.shape(_SCALE))


def _zero(group: Group, bits: int, block: Block, shape: tuple[int, ...]) -> Tensor:
    """Zero points in the shape of the scales; in 32-bit words they are packed down the rows."""
    if group.dtype(_ZERO).name == "int8":
        return group.read(_ZERO).float()
    found = unpack(turned(group.read_bytes(_ZERO)), bits, scale_shape(shape, block)[-2])
    return found.transpose(-2, -1).float() - 2.0 ** (bits - 1)


def _index(group: Group, block: Block, shape: tuple[int, ...]) -> Tensor | None:
    """The group of every input; None where they are in their order, which it also means to be filled with −1."""
    if _INDEX not in group:
        return None
    index, groups = group.read(_INDEX).long(), scale_shape(shape, block)[-1]
    if (index == -1).all():
        return None
    if (index < 0).any() or (index >= groups).any():
        group.refuse(f"must lie within 0 and {groups - 1}; the file is damaged or forged", _INDEX)
    return index


def _placed(found: Tensor, block: Block, shape: tuple[int, ...], index: Tensor | None) -> Tensor:
    if index is None:
        return spread(found, block, shape)
    rows = spread(found, (block[0], None), (*shape[:-1], 1)) if block[1] is None else found
    return rows.reshape(*shape[:-1], -1).index_select(-1, index)
