"""AWQ as AutoAWQ's GEMM kernel has it: 4-bit integers packed along the outputs, in an order of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wanalyze.checkpoints.content import Content
from wanalyze.checkpoints.quantised.bits import unpack
from wanalyze.checkpoints.quantised.dequantised import Coded, Dequantised, integers
from wanalyze.checkpoints.quantised.group import Group
from wanalyze.checkpoints.quantised.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

_PACK = 8  # outputs in a word
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of outputs 0 to 7 among the eight 4-bit fields of a word, lowest first
_DTYPE = integers("awq 4-bit", 4)


def fits(members: Mapping[str, Content]) -> bool:
    """Whether a group with `qweight` has the shapes of AWQ: eight outputs to a word in the last dimension."""
    packed, scales = members[".qweight"].shape, members[".scales"].shape
    return len(packed) == len(scales) == 2 and packed[1] * _PACK == scales[1]


def awq(group: Group) -> Dequantised:
    """W[o, i] = (q − z) · scale of the group of input i."""
    _check(group.settings)
    group.expect_matrix(".qweight", ".qzeros", ".scales")
    group.expect_dtype(".qweight", "int32")
    group.expect_dtype(".qzeros", "int32")
    inputs, outputs = group.shape(".qweight")[0], group.shape(".scales")[1]
    groups = group.shape(".scales")[0]
    group.expect_shape(".qzeros", (groups, outputs // _PACK))
    told = group.settings.integer("group_size")
    size = inputs // groups if told in (None, -1) else told
    if not size or size * groups != inputs or (told == -1 and groups > 1):
        group.refuse(f"holds {groups} groups, {inputs} inputs in groups of {told} make another number", ".scales")

    def decode(group: Group) -> Coded:
        import torch

        index = torch.arange(inputs) // size
        codes = _unpack(group.read_bytes(".qweight"), outputs).T
        zeros = _unpack(group.read_bytes(".qzeros"), outputs).T.float()
        return Coded(codes.contiguous(), group.read_scale(".scales").T[:, index], zero=zeros[:, index])

    return Dequantised(_DTYPE, (outputs, inputs), group, decode, f"awq 4-bit (groups of {size})")


def _check(settings: Settings) -> None:
    said = settings.text("version") or settings.text("checkpoint_format") or settings.text("format")
    if settings.text("backend") == "llm-awq":
        said = "llm-awq"
    if said not in (None, "gemm"):
        settings.refuse(
            f"version {said!r} of AWQ packs its weights in another order and is not read, only 'gemm'; "
            "save it as gemm with GPTQModel, or pass the 16-bit original"
        )
    bits = settings.integer("bits")
    if bits not in (None, 4):
        settings.refuse(f"bits is {bits}, of AWQ only 4 are read; pass the 16-bit original")


def _unpack(stored: Tensor, outputs: int) -> Tensor:
    import torch

    fields = unpack(stored, 4, outputs).reshape(-1, outputs // _PACK, _PACK)
    return fields.index_select(-1, torch.tensor(_PLACES)).flatten(-2)
