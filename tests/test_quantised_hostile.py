"""Quantised weights that are damaged, forged or of a kind that is not read: refused in one sentence, in no time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import quantised_files as files
from tests.conftest import normal
from tests.quantised_files import Made
from wanalyze.checkpoints import open_checkpoint
from wanalyze.checkpoints.quantised.refused import REFUSED
from wanalyze.errors import CheckpointError

STATE = "m.weight.quant_state.bitsandbytes__nf4"
Change = Callable[[Made], None]


def read_all(folder: Path) -> None:
    for entry in open_checkpoint(folder).entries.values():
        entry.read()


def without(name: str) -> Change:
    return lambda made: made.tensors.__delitem__(name)


def with_tensor(name: str, tensor: Tensor) -> Change:
    return lambda made: made.tensors.__setitem__(name, tensor)


def with_config(**fields: object) -> Change:
    return lambda made: made.config.update(fields)


def with_state(**fields: object) -> Change:
    """The quant_state with these fields; one that is None is left out."""

    def change(made: Made) -> None:
        state = json.loads(bytes(made.tensors[STATE].tolist())) | fields
        made.tensors[STATE] = files.state_tensor(**{key: value for key, value in state.items() if value is not None})

    return change


def spoiled(name: str, value: float) -> Change:
    """One element of a tensor is another."""

    def change(made: Made) -> None:
        made.tensors[name] = made.tensors[name].clone()
        made.tensors[name].view(-1)[-1] = value

    return change


def text(content: bytes) -> Change:
    return with_tensor(STATE, torch.tensor(list(content), dtype=torch.uint8))


NF4 = {
    "no absmax": (without("m.weight.absmax"), r"absmax.*missing"),
    "no table": (without("m.weight.quant_map"), r"quant_map.*missing"),
    "no state": (without(STATE), r"quant_state.*missing"),
    "no weight": (without("m.weight"), r"'m\.weight'.*missing"),
    "a block of 0": (with_state(blocksize=0), "blocksize 0"),
    "a block of less": (with_state(blocksize=-64), "blocksize -64"),
    "a block that is true": (with_state(blocksize=True), "blocksize True"),
    "a block of no number": (with_state(blocksize="64"), "blocksize 64"),
    "a block beyond all weights": (with_state(blocksize=10**15), r"absmax.*shape \[3\]"),
    "no block": (with_state(blocksize=None), "blocksize None"),
    "another shape": (with_state(shape=[12, 17]), "102"),
    "a shape beyond all memory": (with_state(shape=[2**40, 2**40]), "takes 96 bytes"),
    "a negative shape": (with_state(shape=[-12, -16]), "above 0"),
    "a fractional shape": (with_state(shape=[12.0, 16]), "above 0"),
    "a shape of a hundred sides": (with_state(shape=[1] * 100 + [12, 16]), "at most 8"),
    "an empty shape": (with_state(shape=[]), "above 0"),
    "a shape of text": (with_state(shape="12"), "above 0"),
    "another kind by name": (with_state(quant_type="fp4"), "by name"),
    "a kind that is no text": (with_state(quant_type=["nf4"]), "by name"),
    "a state that is no JSON": (text(b"{oops}"), "JSON"),
    "a state that is a list": (text(b"[1]"), "object"),
    "a state with NaN": (text(b'{"blocksize": NaN}'), "NaN"),
    "a state with a key twice": (text(b'{"shape": [1], "shape": [2]}'), "twice"),
    "a state without end": (text(b"[" * 4000), "nested"),
    "a state of 5000 bytes": (text(b"{" + b" " * 5000 + b"}"), "4096"),
    "a state that is no UTF-8": (text(b"\xff\xfe"), "UTF-8"),
    "another table": (spoiled("m.weight.quant_map", 0.9), "table of nf4"),
    "a table with NaN": (spoiled("m.weight.quant_map", math.nan), "finite"),
    "a scale of NaN": (spoiled("m.weight.absmax", math.nan), r"absmax.*finite"),
    "a scale without end": (spoiled("m.weight.absmax", math.inf), r"absmax.*finite"),
    "a scale too few": (with_tensor("m.weight.absmax", torch.ones(2)), r"\[2\].*\[3\]"),
    "integer scales": (with_tensor("m.weight.absmax", torch.ones(3, dtype=torch.uint8)), "uint8"),
    "nested scales that are not there": (with_state(nested_blocksize=256), r"nested_absmax.*missing"),
    "nested scales without a table": (with_tensor("m.weight.nested_absmax", torch.ones(1)), "nested_"),
    "another kind by config": (with_config(bnb_4bit_quant_type="fp4"), "agree"),
    "another method by config": (with_config(quant_method="gptq"), "agree"),
}
NESTED = {
    "a nested block of 0": (with_state(nested_blocksize=0), "nested_blocksize 0"),
    "an offset that is no number": (with_state(nested_offset="0"), "nested_offset"),
    "an offset without end": (with_state(nested_offset=1e300), "nested_offset"),
    "no nested table": (without("m.weight.nested_quant_map"), r"nested_quant_map.*missing"),
    "a short nested table": (with_tensor("m.weight.nested_quant_map", torch.ones(255)), "256"),
    "a nested scale of NaN": (spoiled("m.weight.nested_absmax", math.nan), "finite"),
    "real scales in place of codes": (with_tensor("m.weight.absmax", torch.ones(30)), "float32"),
}
GPTQ = {
    "no zero points": (without("m.qzeros"), r"qzeros.*missing"),
    "no weight": (without("m.qweight"), r"qweight.*missing"),
    "a group too high": (spoiled("m.g_idx", 3), r"g_idx.*within 0 and 2"),
    "a group below 0": (spoiled("m.g_idx", -1), r"g_idx.*within 0 and 2"),
    "a scale of NaN": (spoiled("m.scales", math.nan), r"scales.*finite"),
    "a short g_idx": (with_tensor("m.g_idx", torch.zeros(88, dtype=torch.int32)), "qweight"),
    "a g_idx of floats": (with_tensor("m.g_idx", torch.zeros(96)), "float32"),
    "other zero points": (with_tensor("m.qzeros", torch.zeros(3, 7, dtype=torch.int32)), "qzeros"),
    "packed in int64": (with_tensor("m.qweight", torch.zeros(12, 64, dtype=torch.int64)), "int64"),
    "neither layout": (with_tensor("m.qweight", torch.zeros(12, 63, dtype=torch.int32)), "neither GPTQ nor AWQ"),
    "other bits by config": (with_config(bits=8), "8 bits"),
    "bits of text": (with_config(bits="4"), "integer"),
    "other groups by config": (with_config(group_size=64), "groups of 64"),
    "groups of 0": (with_config(group_size=0), "groups of 0"),
    "groups beyond all numbers": (with_config(group_size=10**30), "at most"),
    "an unknown packing": (with_config(checkpoint_format="marlin"), "marlin.*gptq_v2"),
    "a packing that is no text": (with_config(checkpoint_format=2), "word"),
    "another method": (with_config(quant_method="awq", bits=4), "agree"),
    "the weight beside it": (with_tensor("m.weight", torch.ones(64, 96)), "which of the two"),
    "a zero point that readers disagree on": (
        with_tensor("m.qzeros", torch.full((3, 8), -1, dtype=torch.int32)),
        "gptq_v2",
    ),
}
AWQ = {
    "another kernel": (with_config(version="gemv_fast"), "gemv_fast"),
    "another kernel's name": (with_config(backend="llm-awq"), "llm-awq"),
    "other bits": (with_config(bits=8), "bits is 8"),
    "other groups": (with_config(group_size=64), "groups of 64"),
    "other zero points": (with_tensor("m.qzeros", torch.zeros(2, 5, dtype=torch.int32)), "qzeros"),
    "a scale without end": (spoiled("m.scales", math.inf), "finite"),
}
FP8 = {
    "no scale": (without("m.weight_scale_inv"), "no scale lies beside"),
    "a scale too many": (with_tensor("m.weight_scale_inv", torch.ones(4, 2)), "128 × 128"),
    "a scale of NaN": (spoiled("m.weight_scale_inv", math.nan), "finite"),
    "integer scales": (with_tensor("m.weight_scale_inv", torch.ones(3, 2, dtype=torch.int32)), "int32"),
    "other blocks": (with_config(weight_block_size=[64, 64]), "64 × 64"),
    "blocks of 0": (with_config(weight_block_size=[0, 128]), "positive"),
    "blocks beyond all numbers": (with_config(weight_block_size=[10**30, 128]), "at most"),
    "one block size": (with_config(weight_block_size=[128]), "positive"),
    "blocks of text": (with_config(weight_block_size="everything"), "positive"),
    "two scales": (with_tensor("m.weight_scale", torch.ones(1)), "which of the two"),
    "an input scaled first": (with_tensor("m.pre_quant_scale", torch.ones(140)), "pre_quant_scale"),
    "codes of 4 bits": (with_tensor("m.weight", torch.zeros(300, 70, dtype=torch.int8)), "int8"),
}


def ct(made: Made, **fields: object) -> Made:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    made.config = {"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": weights}}, **fields}
    return made


def packed() -> Made:
    tensors = {
        "m.weight_packed": files.packed_rows(files.randoms(40, 96, below=16), 4),
        "m.weight_scale": normal(40, 3).abs(),
        "m.weight_shape": torch.tensor([40, 96]),
        "m.weight_zero_point": files.packed_columns(files.randoms(40, 3, below=16), 4),
        "m.weight_g_idx": torch.arange(96, dtype=torch.int32) // 32,
    }
    return ct(Made(tensors))


def groups(**weights: object) -> Change:
    return with_config(config_groups={"0": {"weights": {"num_bits": 4, **weights}}})


PACKED = {
    "no shape": (without("m.weight_shape"), r"weight_shape.*missing"),
    "no scale": (without("m.weight_scale"), r"weight_scale.*missing"),
    "other rows": (with_tensor("m.weight_shape", torch.tensor([41, 96])), "weight_shape"),
    "negative columns": (with_tensor("m.weight_shape", torch.tensor([40, -96])), "weight_shape"),
    "columns beyond all memory": (with_tensor("m.weight_shape", torch.tensor([40, 2**60])), "weight_shape"),
    "columns that fit no bits": (with_tensor("m.weight_shape", torch.tensor([40, 300])), "no packing"),
    "a long shape": (with_tensor("m.weight_shape", torch.ones(600, dtype=torch.int64)), "4096"),
    "a group too high": (spoiled("m.weight_g_idx", 3), r"g_idx.*within"),
    "a group below 0": (spoiled("m.weight_g_idx", -2), r"g_idx.*within"),
    "other zero points": (with_tensor("m.weight_zero_point", torch.zeros(5, 2, dtype=torch.int32)), "zero_point"),
    "a scale of NaN": (spoiled("m.weight_scale", math.nan), "finite"),
    "other bits by config": (groups(num_bits=8, group_size=32), "no packing of 8 bits"),
    "other groups by config": (groups(group_size=48), "groups of 48"),
    "an unknown strategy": (groups(strategy="attn_head"), "attn_head"),
    "bits of text": (groups(num_bits="4"), "integer"),
    "groups that are a list": (with_config(config_groups=[1]), "config_groups"),
    "a thousand groups": (with_config(config_groups={str(i): {} for i in range(1000)}), "1000"),
    "another format": (with_config(format="nvfp4-pack-quantized"), "agree"),
    "an unknown format": (with_config(format="marlin-24"), "marlin-24"),
    "rotated weights": (with_config(transform_config={"config_groups": {}}), "rotated"),
    "sparse weights": (with_config(sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
    "floats": (with_tensor("m.weight_packed", torch.ones(40, 12)), "float32"),
}
ALL = {
    **{f"nf4, {name}": (lambda: files.four_bits("nf4", (12, 16)), *case) for name, case in NF4.items()},
    **{
        f"nested, {name}": (lambda: files.four_bits("nf4", (40, 48), nested=True), *case)
        for name, case in NESTED.items()
    },
    **{f"gptq, {name}": (lambda: files.gptq(4), *case) for name, case in GPTQ.items()},
    **{f"awq, {name}": (files.awq, *case) for name, case in AWQ.items()},
    **{f"fp8, {name}": (files.fp8, *case) for name, case in FP8.items()},
    **{f"packed, {name}": (packed, *case) for name, case in PACKED.items()},
}


@pytest.mark.parametrize(("make", "change", "message"), ALL.values(), ids=ALL)
def test_a_broken_weight_is_refused(make: Callable[[], Made], change: Change, message: str, tmp_path: Path) -> None:
    read_all(make().save(tmp_path / "whole"))
    made = make()
    change(made)
    with pytest.raises(CheckpointError, match=message) as error:
        read_all(made.save(tmp_path / "broken"))
    assert len(str(error.value)) < 800
    assert "\n" not in str(error.value)


def test_nothing_that_a_quant_state_names_is_looked_up(tmp_path: Path) -> None:
    made = files.four_bits("nf4", (12, 16))
    with_state(dtype="load", nested_dtype="__dict__")(made)
    read_all(made.save(tmp_path))


@pytest.mark.parametrize("method", [method for row in REFUSED for method in row.methods])
def test_a_method_that_is_not_read_is_refused_by_name(method: str, tmp_path: Path) -> None:
    made = Made({"m.weight": normal(4, 6)}, {"quant_method": method.upper()})
    title = next(row.title for row in REFUSED if method in row.methods)
    with pytest.raises(CheckpointError, match="16-bit original") as error:
        open_checkpoint(made.save(tmp_path))
    assert title in str(error.value)


@pytest.mark.parametrize("row", [row for row in REFUSED if row.marks], ids=lambda row: row.title)
def test_tensors_of_a_method_that_is_not_read_are_refused_by_name(row: object, tmp_path: Path) -> None:
    made = Made({f"model.m{mark}": torch.zeros(4, 6, dtype=torch.int32) for mark in row.marks})  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="16-bit original") as error:
        open_checkpoint(made.save(tmp_path))
    assert row.title in str(error.value)  # type: ignore[attr-defined]


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    made = Made({"m.weight": normal(4, 6)}, {"quant_method": "x" * 500})
    with pytest.raises(CheckpointError, match="not known"):
        open_checkpoint(made.save(tmp_path))


def test_mlx_is_known_by_its_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="mlx_lm"):
        open_checkpoint(Made({"m.weight": normal(4, 6)}, {"group_size": 64, "bits": 4}).save(tmp_path))


GPT_OSS = {
    "other scales": (with_tensor("m.up_scales", torch.zeros(2, 6, 4, dtype=torch.uint8)), "up_scales"),
    "a scale that is no number": (spoiled("m.up_scales", 255), "finite"),
    "other blocks": (with_tensor("m.up_blocks", torch.zeros(2, 6, 3, 8, dtype=torch.uint8)), "experts, out, groups"),
}


@pytest.mark.parametrize(("change", "message"), GPT_OSS.values(), ids=GPT_OSS)
def test_broken_experts_are_refused(change: Change, message: str, tmp_path: Path) -> None:
    blocks = files.randoms(2, 6, 3, 16, below=256).to(torch.uint8)
    made = Made({"m.up_blocks": blocks, "m.up_scales": torch.full((2, 6, 3), 127, dtype=torch.uint8)})
    read_all(made.save(tmp_path / "whole"))
    change(made)
    with pytest.raises(CheckpointError, match=message):
        read_all(made.save(tmp_path / "broken"))
