"""GPTQ: integers packed down the inputs, (in, out), with a scale and a zero point for every group and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wanalyze.checkpoints.content import Content
from wanalyze.checkpoints.quantised.bits import turned, unpack, words_of
from wanalyze.checkpoints.quantised.dequantised import Coded, Dequantised, integers
from wanalyze.checkpoints.quantised.group import Group
from wanalyze.checkpoints.quantised.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

_BITS = (2, 3, 4, 8)
_FORMATS = {None: 1, "gptq": 1, "gptq_v2": 0}  # what is added to a stored zero point


def fits(members: Mapping[str, Content]) -> bool:
    """Whether a group with `qweight` has the shapes of GPTQ: all outputs in the last dimension."""
    return members[".qweight"].shape[1:] == members[".scales"].shape[1:]


def gptq(group: Group) -> Dequantised:
    """W[o, i] = (q − z) · scale of the group of input i; AutoGPTQ's `gptq` stores z − 1, `gptq_v2` stores z."""
    added = _added(group.settings)
    group.expect_matrix(".qweight", ".qzeros", ".scales")
    group.expect_dtype(".qweight", "int32")
    group.expect_dtype(".qzeros", "int32")
    groups, outputs = group.shape(".scales")
    bits = _bits(group, outputs, _told(group.settings, "bits"))
    inputs = _inputs(group, bits)
    group.expect_shape(".qweight", (words_of(inputs, bits), outputs))
    group.expect_shape(".qzeros", (groups, words_of(outputs, bits)))
    size = _group_size(group, inputs, groups)

    def decode(group: Group) -> Coded:
        codes = unpack(turned(group.read_bytes(".qweight")), bits, inputs)
        zeros = unpack(group.read_bytes(".qzeros"), bits, outputs).T
        if added and (zeros == 2**bits - 1).any():
            group.refuse(
                f"holds {2**bits - 1}, to which the format `gptq` adds 1: readers disagree on whether that is 0 "
                "or carries into the zero point beside it; save it as gptq_v2",
                ".qzeros",
            )
        index = _index(group, inputs, groups, size)
        scale = group.read_scale(".scales").T[:, index]
        return Coded(codes, scale, zero=(zeros.float() + added)[:, index])

    label = f"gptq {bits}-bit ({f'groups of {size}' if groups > 1 else 'one scale a row'})"
    return Dequantised(integers(f"gptq {bits}-bit", bits), (outputs, inputs), group, decode, label)


def _added(settings: Settings) -> int:
    said = settings.text("checkpoint_format") or settings.text("format")
    if said not in _FORMATS or settings.options.get("is_marlin_format"):
        settings.refuse(
            f"checkpoint_format {said or 'marlin'!r} of GPTQ packs its weights in another order and is not read; "
            "save it as gptq or gptq_v2 with GPTQModel, or pass the 16-bit original"
        )
    return _FORMATS[said]


def _told(settings: Settings, key: str) -> int | None:
    """What config.json says of all weights; nothing where it has exceptions (`dynamic`, of GPTQModel)."""
    return None if settings.options.get("dynamic") else settings.integer(key)


def _bits(group: Group, outputs: int, told: int | None) -> int:
    """The number of bits that gives the zero points their shape."""
    fitting = [bits for bits in _BITS if words_of(outputs, bits) == group.shape(".qzeros")[1] and told in (None, bits)]
    if len(fitting) != 1:
        said = f"of the {told} bits that config.json says" if told else f"of {', '.join(map(str, _BITS))} bits"
        group.refuse(f"has the shape {list(group.shape('.qzeros'))}, which fits no packing {said}", ".qzeros")
    return fitting[0]


def _inputs(group: Group, bits: int) -> int:
    if ".g_idx" not in group:
        return group.shape(".qweight")[0] * 32 // bits
    group.expect_dtype(".g_idx", "int32", "int64")
    return group.count(".g_idx")


def _group_size(group: Group, inputs: int, groups: int) -> int:
    """Inputs that share a scale where no g_idx says otherwise."""
    told = _told(group.settings, "group_size")
    size = -(-inputs // groups) if told is None else inputs if told == -1 else told
    if size <= 0 or -(-inputs // size) != groups:
        group.refuse(f"holds {groups} groups, {inputs} inputs in groups of {size} make another number", ".scales")
    return size


def _index(group: Group, inputs: int, groups: int, size: int) -> Tensor:
    """The group of every input."""
    import torch

    plain = torch.arange(inputs) // size
    if ".g_idx" not in group:
        return plain
    index = group.read(".g_idx").reshape(-1).long()
    if (index < 0).any() or (index >= groups).any():
        group.refuse(f"must lie within 0 and {groups - 1}; the file is damaged or forged", ".g_idx")
    # Before AutoGPTQ it was written but not filled in; no order of groups puts every input into the first.
    return index if groups == 1 or index.any() else plain
