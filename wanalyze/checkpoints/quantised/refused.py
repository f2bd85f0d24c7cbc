"""Quantisations that are known and not read: each by its name, its mark, and with the way out."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import NoReturn

from wanalyze.checkpoints.quantised.settings import Settings
from wanalyze.errors import CheckpointError


@dataclass(frozen=True)
class Refused:
    """`methods` are what config.json calls it; `marks` the endings of tensors that lie beside one another in it."""

    title: str
    tool: str
    methods: tuple[str, ...]
    marks: tuple[str, ...] = ()


REFUSED = (
    Refused("HQQ", "hqq (HQQLinear.dequantize)", ("hqq",), (".W_q",)),
    Refused("torchao", "torchao (dequantize() of its tensors)", ("torchao",), ("._weight_qdata",)),
    Refused("quanto", "optimum-quanto (dequantize() of its tensors)", ("quanto",), (".weight._data", ".weight._scale")),
    Refused("EETQ", "EETQ", ("eetq",), (".weight_scales",)),
    Refused("AQLM", "aqlm", ("aqlm",), (".codebooks", ".codes")),
    Refused("VPTQ", "vptq", ("vptq",), (".centroids.weight", ".indices")),
    Refused("HIGGS", "transformers (model.dequantize())", ("higgs",), (".tables2",)),
    Refused("SpQR", "spqr_quant", ("spqr",), (".dense_weights",)),
    Refused("QuIP#", "the QuIP# code", ("quip", "quip#", "quip_sharp"), (".Qidxs",)),
    Refused("BitNet", "the model's own code", ("bitnet",)),
    Refused("Quark", "AMD Quark", ("quark",)),
    Refused("FP-Quant", "fp_quant", ("fp_quant", "fpquant")),
    Refused("FourOverSix", "fouroversix", ("fouroversix",)),
    Refused("SINQ", "sinq", ("sinq",)),
    Refused("AutoRound's own layout", "auto-round (exported as auto_gptq or auto_awq it is read)", ("auto-round",)),
    Refused("MLX", "mlx_lm (`mlx_lm.convert --dequantize`)", ("mlx", "metal"), (".biases", ".scales", ".weight")),
    Refused("QQQ", "GPTQModel", ("qqq",)),
    Refused("EXL2 or EXL3", "exllamav2 or exllamav3", ("exl2", "exl3"), (".q_scale_max",)),
    Refused("ParoQuant", "GPTQModel", ("paroquant",)),
    Refused("transformers' own NVFP4", "transformers", ("nvfp4",), (".weight_sf_rowmajor",)),
    Refused("Gemma's own layout", "transformers", ("gemma",)),
)
MARKS = tuple(row.marks[0] for row in REFUSED if row.marks)


def check_method(settings: Settings) -> None:
    """Refuse what config.json names, where it is known and not read."""
    for row in REFUSED:
        if settings.method in row.methods:
            settings.refuse(f"the weights are quantised with {row.title}, which is not read; {_way_out(row)}")


def check_names(marked: Iterable[str], names: Container[str], where: str) -> None:
    """Refuse what the names of tensors give away; `marked` are those that end in one of MARKS."""
    for name in marked:
        for row in REFUSED:
            if row.marks and name.endswith(row.marks[0]):
                module = name.removesuffix(row.marks[0])
                if all(module + mark in names for mark in row.marks):
                    _refuse(name, row, where)


def _refuse(name: str, row: Refused, where: str) -> NoReturn:
    raise CheckpointError(
        f"{where}: {name[:160]!r}: a weight quantised with {row.title}, which is not read; {_way_out(row)}"
    )


def _way_out(row: Refused) -> str:
    return f"pass the 16-bit original, or save 16-bit weights with {row.tool}"
