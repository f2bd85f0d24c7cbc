"""Four-bit floats in small groups: MXFP4 with powers of two for scales, NVFP4 with 8-bit floats under one more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wanalyze.checkpoints.quantised.bits import unpack
from wanalyze.checkpoints.quantised.blocks import scale_shape, spread
from wanalyze.checkpoints.quantised.codes import E2M1
from wanalyze.checkpoints.quantised.dequantised import Coded, Dequantised, floats
from wanalyze.checkpoints.quantised.group import Group

if TYPE_CHECKING:
    from torch import Tensor

NVFP4, MXFP4 = floats("nvfp4", 4, 1), floats("mxfp4", 4, 1)
NV_GROUP, MX_GROUP = 16, 32  # weights of one scale


def modelopt(group: Group) -> Dequantised:
    """ModelOpt's NVFP4: codes, the low half of a byte first, times weight_scale times weight_scale_2."""
    return nvfp4(group, "", "_scale", "_scale_2", is_divisor=False)


def nvfp4(group: Group, packed: str, scale: str, whole: str, *, is_divisor: bool) -> Dequantised:
    """NVFP4 with the scale of the whole tensor in `whole`, by which compressed-tensors divides (`is_divisor`)."""
    shape = _shape(group, packed)
    group.expect_dtype(scale, "float8_e4m3fn")
    group.expect_shape(scale, scale_shape(shape, (1, NV_GROUP)))
    stack = (*shape[:-2], 1, 1)
    if group.count(whole) != 1:
        group.expect_shape(whole, shape[:-2], stack)

    def decode(group: Group) -> Coded:
        codes = unpack(group.read_bytes(packed), 4, shape[-1])
        one, many = group.read_scale(whole), group.read_scale(scale)
        one = one.reshape(()) if one.numel() == 1 else one.reshape(*codes.shape[:-2], 1, 1)
        scales = group.finite(many / one if is_divisor else many * one, whole)
        return Coded(codes, _spread(scales, NV_GROUP, codes.shape), E2M1)

    is_stack = len(shape) > 2 and group.count(whole) != 1
    return Dequantised(NVFP4, shape, group, decode, f"nvfp4 (groups of {NV_GROUP})", is_stack)


def mxfp4(group: Group, packed: str, scale: str) -> Dequantised:
    """MXFP4 row by row: codes, the low half of a byte first, times 2^(scale − 127)."""
    shape = _shape(group, packed)
    group.expect_dtype(scale, "uint8", "F8_E8M0")
    group.expect_shape(scale, scale_shape(shape, (1, MX_GROUP)))

    def decode(group: Group) -> Coded:
        codes = unpack(group.read_bytes(packed), 4, shape[-1])
        return Coded(codes, _spread(group.read_scale(scale), MX_GROUP, codes.shape), E2M1)

    return Dequantised(MXFP4, shape, group, decode, f"mxfp4 (groups of {MX_GROUP})", len(shape) > 2)


def gpt_oss(group: Group) -> Dequantised:
    """gpt-oss's experts: `_blocks` (E, out, groups, 16) bytes and `_scales` (E, out, groups), as MXFP4.

    Returned as (E, in, out), the layout of the module's parameter in transformers: the transpose of what is stored.
    Gate and up lie interleaved along `out`.
    """
    group.expect_dtype("_blocks", "uint8")
    group.expect_dtype("_scales", "uint8")
    stored = group.shape("_blocks")
    if len(stored) != 4 or stored[3] * 2 != MX_GROUP or 0 in stored:
        group.refuse(f"has the shape {list(stored)}, (experts, out, groups, {MX_GROUP // 2}) is needed", "_blocks")
    group.expect_shape("_scales", stored[:3])
    experts, outputs, groups, _ = stored

    def decode(group: Group) -> Coded:
        codes = unpack(group.read_bytes("_blocks"), 4, MX_GROUP).flatten(-2)
        scale = _spread(group.read_scale("_scales"), MX_GROUP, codes.shape)
        return Coded(codes.transpose(-2, -1).contiguous(), scale.transpose(-2, -1), E2M1)

    shape = (experts, groups * MX_GROUP, outputs)
    return Dequantised(MXFP4, shape, group, decode, f"mxfp4 (groups of {MX_GROUP})", is_stack=True)


def _shape(group: Group, packed: str) -> tuple[int, ...]:
    """The shape of weights that lie two to a byte."""
    group.expect_dtype(packed, "uint8")
    stored = group.shape(packed)
    if len(stored) < 2 or 0 in stored:
        group.refuse(f"has the shape {list(stored)}, a matrix or a stack of matrices is needed", packed)
    return (*stored[:-1], stored[-1] * 2)


def _spread(scale: Tensor, size: int, shape: tuple[int, ...]) -> Tensor:
    return spread(scale, (1, size), tuple(shape))
