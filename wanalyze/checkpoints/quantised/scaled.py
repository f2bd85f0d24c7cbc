"""Weights in 8-bit floats or integers, one to an element, times scales: FP8 of every kind, MXFP8, INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wanalyze.checkpoints.content import Content
from wanalyze.checkpoints.dtypes import DType
from wanalyze.checkpoints.quantised.blocks import PER_TENSOR, Block, spread, words
from wanalyze.checkpoints.quantised.codes import E4M3, E4M3FNUZ, E5M2, E5M2FNUZ, Alphabet
from wanalyze.checkpoints.quantised.dequantised import Coded, Dequantised, floats, integers
from wanalyze.checkpoints.quantised.group import Group
from wanalyze.checkpoints.quantised.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS: Mapping[str, tuple[str, int, Alphabet]] = {
    "float8_e4m3fn": ("e4m3", 3, E4M3),
    "float8_e5m2": ("e5m2", 2, E5M2),
    "F8_E4M3FNUZ": ("e4m3fnuz", 3, E4M3FNUZ),
    "F8_E5M2FNUZ": ("e5m2fnuz", 2, E5M2FNUZ),
}
FLOATS = tuple(_FLOATS)
_CODES = (*_FLOATS, "int8", "uint8")
_FORMATS = {"int-quantized", "float-quantized", "naive-quantized", "mxfp8-quantized"}  # of compressed-tensors
_INVERSE = "_scale_inv"
_USUAL: Sequence[Block] = ((128, 128), PER_TENSOR)  # DeepSeek's, where config.json does not say


def fits(members: Mapping[str, Content]) -> bool:
    """Whether what ends in `_scale` lies beside 8-bit codes, and is not a parameter of that name."""
    return members[""].dtype.name in _CODES and len(members[""].shape) >= 2


def scaled(group: Group) -> Dequantised:
    """(code − zero point) · scale. `_scale_inv` is multiplied too, whatever its name says."""
    suffix = _INVERSE if _INVERSE in group else "_scale"
    if _INVERSE in group and "_scale" in group:
        group.refuse("lies beside _scale_inv and _scale; which of the two is meant?")
    shape, stored = group.shape(""), group.dtype("").name
    if stored == "uint8" or (stored == "int8" and suffix == _INVERSE):
        group.refuse(
            f"packs codes into {stored}, which is not read (BitNet, FP4 of DeepSeek, or another); "
            "pass the 16-bit original"
        )
    block = group.block(suffix, shape, _told(group.settings, suffix))
    if "_zero_point" in group:
        group.expect_shape("_zero_point", group.shape(suffix))
    alphabet = _FLOATS[stored][2] if stored in _FLOATS else None

    def decode(group: Group) -> Coded:
        codes = group.read_bytes("") if alphabet else group.read("")
        scale = spread(group.read_scale(suffix), block, codes.shape)
        return Coded(codes, scale, alphabet, _zero(group, block, codes.shape))

    dtype = _dtype(group, suffix, block)
    is_stack = len(shape) > 2 and group.shape(suffix)[:1] == shape[:1]
    return Dequantised(dtype, shape, group, decode, f"{dtype.name} ({words(block)})", is_stack)


def _told(settings: Settings, suffix: str) -> Sequence[Block]:
    if settings.method == "compressed-tensors":
        if settings.formats and not settings.formats & _FORMATS:
            settings.refuse(f"format is {', '.join(sorted(settings.formats))}, the tensors are 8-bit codes with scales")
        return [scheme.block for scheme in settings.schemes]
    told = settings.sizes("weight_block_size")
    if suffix == _INVERSE:
        return [told] if told else _USUAL
    return [told] if told else []


def _zero(group: Group, block: Block, shape: tuple[int, ...]) -> Tensor | float:
    if "_zero_point" not in group:
        return 0.0
    return spread(group.finite(group.read("_zero_point").float(), "_zero_point"), block, shape)


def _dtype(group: Group, suffix: str, block: Block) -> DType:
    stored = group.dtype("").name
    if stored not in _FLOATS:
        return integers("int8", 8)
    name, mantissa, _ = _FLOATS[stored]
    if block == (1, 32) and group.dtype(suffix).name in ("uint8", "F8_E8M0"):
        return floats(f"mxfp8 {name}", 8, mantissa)
    return floats(f"fp8 {name} block" if block[1] is not None else f"fp8 {name}", 8, mantissa)
