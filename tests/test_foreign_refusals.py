"""Adapters of other tools: what contradicts itself, lacks its scale, or is not known is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import normal, save_checkpoint
from tests.foreign_files import BASE, DOWN, LINEAR, UP, Tensors, deltas, number, of, parsed, written
from tests.test_foreign_adapters import G_A, G_B, LLAMA, Q_A, Q_B, gguf_adapter, litgpt, llama, mlx, of_mlx
from wanalyze.checkpoints.recognise import BESIDE, SIGNS, recognise
from wanalyze.errors import AdapterError, CheckpointError, NumericsError

PAIR = {"up": UP, "down": DOWN}
HADA = {f"hada_w{i}_{side}": normal(*((6, 2) if side == "a" else (2, 4))) for i in (1, 2) for side in "ab"}
IA3 = {"weight": normal(6), "on_input": torch.tensor(0)}
OF_DIFFUSION: dict[str, tuple[Tensors, str]] = {
    "alpha 0": (of(LINEAR, **PAIR, alpha=number(0)), "alpha 0, which some programs read as no update"),
    "alpha NaN": (of(LINEAR, **PAIR, alpha=number(float("nan"))), "is nan, no number that could scale"),
    "alpha infinite": (of(LINEAR, **PAIR, alpha=number(float("inf"))), "is inf, no number"),
    "alpha of two": (of(LINEAR, **PAIR, alpha=normal(2)), "is not one number"),
    "alpha complex": (of(LINEAR, **PAIR, alpha=torch.tensor(1j)), "is not one number"),
    "up alone": (of(LINEAR, up=UP), "no down"),
    "another rank": (of(LINEAR, up=UP, down=normal(3, 4)), "the rank as 2 and 3"),
    "a scalar": (of(LINEAR, up=number(1), down=DOWN), "has up of shape"),
    "up of a kernel": (of(LINEAR, up=normal(6, 2, 3, 3), down=normal(2, 4, 3, 3)), "a kernel of 1 is expected"),
    "down of a kernel": (
        of(LINEAR, up=normal(6, 2, 1, 1), down=normal(2, 4, 3, 3), mid=normal(2, 2, 3, 3)),
        "beside mid",
    ),
    "an unknown part": (of(LINEAR, **PAIR, scalar=number(2)), "no part of an update that is known"),
    "padding": (of(LINEAR, **PAIR, reshape_weight=torch.tensor([8, 4])), "another shape"),
    "two algorithms": (of(LINEAR, **PAIR, **HADA), "only one algorithm"),
    "one part twice": (of(LINEAR, **PAIR) | {f"{LINEAR}.lora_A.weight": DOWN}, "the same part of a module"),
    "nothing in it": (of(LINEAR, up=torch.zeros(6, 0), down=torch.zeros(0, 4)), "is empty"),
    "LoHa of three": (of(LINEAR, **{k: t for k, t in HADA.items() if k != "hada_w2_b"}), "no hada_w2_b"),
    "LoHa of two ranks": (of(LINEAR, **{**HADA, "hada_w2_a": normal(6, 3)}), "the rank as"),
    "LoKr twice": (of(LINEAR, lokr_w1=normal(2, 2), lokr_w1_a=normal(2, 1), lokr_w2=normal(3, 2)), "both whole and"),
    "LoKr of two ranks": (
        of(LINEAR, lokr_w1_a=normal(2, 1), lokr_w1_b=normal(1, 2), lokr_w2_a=normal(3, 2), lokr_w2_b=normal(2, 2)),
        "the rank as 1 and 2",
    ),
    "LoKr, half of it": (of(LINEAR, lokr_w1=normal(2, 2)), "no lokr_w2_a"),
    "a magnitude of another size": (of(LINEAR, **PAIR, dora_scale=normal(5, 1)), "a magnitude of shape"),
    "a magnitude alone": (of(LINEAR, dora_scale=normal(6, 1)), "and no update"),
    "a magnitude of IA3": (of(LINEAR, **IA3, dora_scale=normal(6, 1)), "no tool decomposes"),
    "two magnitudes": (
        of(LINEAR, **PAIR, dora_scale=normal(6, 1), lora_magnitude_vector=normal(6)),
        "only one magnitude",
    ),
    "IA3 both ways": (of(LINEAR, weight=normal(6), on_input=torch.tensor([0, 1])), "on_input of several values"),
    "OFT of no square": (of(LINEAR, oft_blocks=normal(2, 3, 2)), "the side of a block"),
    "OFT, bounded below 0": (of(LINEAR, oft_blocks=normal(2, 3, 3), alpha=number(-1)), "no norm is below 0"),
    "BOFT of odd sides": (of(LINEAR, oft_blocks=normal(2, 2, 3, 3)), "no butterfly connects"),
    "a bias of two dimensions": (of(LINEAR, diff_b=normal(6, 1)), "a vector is expected"),
    "names of peft": (
        {"base_model.model.x.lora_A.weight": DOWN, "base_model.model.x.lora_B.weight": UP},
        "no peft_type in an adapter_config.json",
    ),
    "a language model without its config": (
        {"model.layers.0.q_proj.lora_A.weight": DOWN, "model.layers.0.q_proj.lora_B.weight": UP},
        "nothing says its scale",
    ),
    "numbers for names": ({"w_a_000": DOWN, "w_b_000": UP}, "which module each belongs to"),
}


@pytest.mark.parametrize(("tensors", "rule"), OF_DIFFUSION.values(), ids=OF_DIFFUSION)
def test_a_file_of_a_diffusion_tool_that_contradicts_itself_is_refused(
    tmp_path: Path, tensors: Tensors, rule: str
) -> None:
    with pytest.raises(AdapterError, match=rule):
        parsed(written(tmp_path / "x.safetensors", tensors))


OTHER_BASES: dict[str, tuple[Tensors, str]] = {
    "OFT": (of(LINEAR, oft_blocks=normal(3, 3, 3)), "3 blocks of 3 for 6 outputs"),
    "IA3": (of(LINEAR, weight=normal(5), on_input=torch.tensor(0)), "5 factors for 6 outputs"),
    "GLoRA": (
        of(LINEAR, a1=normal(5, 2), a2=normal(2, 5), b1=UP, b2=normal(2, 5)),
        r"an update of \(6, 5\) for a base of \(6, 4\)",
    ),
    "DoRA": (of(LINEAR, up=normal(5, 2), down=DOWN, dora_scale=normal(5, 1)), r"update of \(5, 4\) for a base of"),
}


@pytest.mark.parametrize(("tensors", "rule"), OTHER_BASES.values(), ids=OTHER_BASES)
def test_an_update_of_another_base_is_refused(tmp_path: Path, tensors: Tensors, rule: str) -> None:
    adapter = parsed(written(tmp_path / "x.safetensors", tensors), save_checkpoint(tmp_path / "base", BASE))
    with pytest.raises(AdapterError, match=rule):
        deltas(adapter, BASE)


def test_a_direction_without_a_length_is_one_module_lost(tmp_path: Path) -> None:
    base = {"down.0.proj_in.weight": torch.zeros(6, 4)}
    tensors = of(LINEAR, up=torch.zeros(6, 2), down=DOWN) | {f"{LINEAR}.lora_magnitude_vector": normal(6)}
    adapter = parsed(written(tmp_path / "x.safetensors", tensors), save_checkpoint(tmp_path / "base", base))
    with pytest.raises(NumericsError, match="not finite"):
        deltas(adapter, base)


def test_a_vector_of_another_length_is_refused(tmp_path: Path) -> None:
    adapter = parsed(written(tmp_path / "x.safetensors", of("lora_unet_norm", w_norm=normal(5))))
    with pytest.raises(AdapterError, match="5 numbers for a vector of shape"):
        adapter.shifts[0].read(BASE["norm.weight"])


SAID: dict[str, tuple[object, str]] = {
    "another rank": ({"unet.r": 3, "unet.lora_alpha": 5}, "has rank 2, lora_adapter_metadata gives it 3"),
    "no alpha": ({"unet.r": 2}, "lora_alpha: field required"),
    "alpha beyond numbers": ({"unet.r": 2, "unet.lora_alpha": 10**400}, "lora_alpha"),
    "another start": ({"unet.r": 2, "unet.lora_alpha": 5, "unet.init_lora_weights": "pissa"}, "changes the base"),
    "a runaway pattern": ({"unet.r": 2, "unet.lora_alpha": 5, "unet.alpha_pattern": {"(a+)+": 1}}, "without end"),
    "a list": ([1], "an object is needed"),
}


@pytest.mark.parametrize(("said", "rule"), SAID.values(), ids=SAID)
def test_metadata_of_diffusers_that_contradicts_the_tensors_is_refused(tmp_path: Path, said: object, rule: str) -> None:
    tensors = {"unet.down.0.proj_in.lora_A.weight": DOWN, "unet.down.0.proj_in.lora_B.weight": UP}
    with pytest.raises((AdapterError, CheckpointError), match=rule):
        parsed(written(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": json.dumps(said)}))


def test_an_alpha_of_the_file_and_another_of_its_metadata_are_refused(tmp_path: Path) -> None:
    tensors = {"unet.a.lora_A.weight": DOWN, "unet.a.lora_B.weight": UP, "unet.a.alpha": number(4)}
    said = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 5})}
    with pytest.raises(AdapterError, match="has alpha 4, lora_adapter_metadata gives it 5"):
        parsed(written(tmp_path / "x.safetensors", tensors, said))


def test_a_name_that_may_mean_two_modules_is_refused(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", {"a.b_c.weight": normal(6, 4), "a_b.c.weight": normal(6, 4)})
    with pytest.raises(AdapterError, match=r"may mean 'a\.b_c' or 'a_b\.c'"):
        parsed(written(tmp_path / "x.safetensors", of("lora_unet_a_b_c", **PAIR)), base)


def test_two_modules_that_mean_one_are_refused(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", {"a.weight": normal(6, 4), "b.weight": normal(6, 4)})
    tensors = of("lora_te1_a", **PAIR) | of("lora_te2_a", **PAIR)
    with pytest.raises(AdapterError, match="both mean 'a' of the base"):
        parsed(written(tmp_path / "x.safetensors", tensors), base)


OF_MLX: dict[str, tuple[Tensors, dict[str, object], str]] = {
    "no scale": ({}, {"lora_parameters": None}, "no lora_parameters.scale"),
    "scale as text": ({}, {"lora_parameters": {"rank": 2, "scale": "20"}}, "scale is '20'"),
    "alpha beside": ({}, {"lora_parameters": {"rank": 2, "scale": 20.0, "alpha": 16}}, "alpha 16"),
    "another rank": ({}, {"lora_parameters": {"rank": 3, "scale": 20.0}}, "gives it 3"),
    "DoRA without magnitudes": ({}, {"fine_tune_type": "dora"}, "fine_tune_type is dora"),
    "magnitudes without DoRA": ({"x.m": normal(6)}, {}, "fine_tune_type is lora"),
    "experts of nothing": (
        {"y.lora_a": normal(3, 2, 4), "y.lora_b": normal(3, 6, 2)},
        {},
        "no switch_mlp of experts",
    ),
}


@pytest.mark.parametrize(("more", "config", "rule"), OF_MLX.values(), ids=OF_MLX)
def test_what_mlx_did_not_mean_is_refused(tmp_path: Path, more: Tensors, config: dict[str, object], rule: str) -> None:
    said = {"lora_parameters": {"rank": 2, "scale": 20.0}, **config}
    with pytest.raises(AdapterError, match=rule):
        parsed(mlx(tmp_path / "a", of_mlx("x", DOWN.mT, UP.mT) | more, **said))


Q = {"layers.0.attn.q_proj.lora_a.weight": Q_A, "layers.0.attn.q_proj.lora_b.weight": Q_B}
OF_TORCHTUNE: dict[str, tuple[Tensors, dict[str, object], dict[str, object], str]] = {
    "no alpha": (Q, {"r": 2}, LLAMA, "does not store alpha"),
    "another rank": (Q, {"r": 3, "lora_alpha": 6}, LLAMA, "has rank 2, adapter_config.json gives it 3"),
    "more than updates": (Q | {"norm.scale": normal(5)}, {"lora_alpha": 6}, LLAMA, "no part of an update of torchtune"),
    "a model of unknown order": (Q, {"lora_alpha": 6}, {**LLAMA, "model_type": "new"}, "not for 'new'"),
    "unknown heads": (Q, {"lora_alpha": 6}, {"model_type": "llama"}, "num_attention_heads"),
    "other heads": (Q, {"lora_alpha": 6}, {**LLAMA, "num_attention_heads": 3}, "does not split into 3 heads"),
}


@pytest.mark.parametrize(("tensors", "said", "base", "rule"), OF_TORCHTUNE.values(), ids=OF_TORCHTUNE)
def test_torchtune_without_what_its_rows_or_scale_follow_from_is_refused(
    tmp_path: Path, tensors: Tensors, said: dict[str, object], base: dict[str, object], rule: str
) -> None:
    written(tmp_path / "a" / "adapter_model.safetensors", tensors)
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(said))
    folder = llama(tmp_path / "base")
    (folder / "config.json").write_text(json.dumps(base))
    with pytest.raises(AdapterError, match=rule):
        parsed(tmp_path / "a", folder)


FC = {"transformer.h.0.mlp.fc_1.lora_A": G_A, "transformer.h.0.mlp.fc_1.lora_B": G_B}
QKV = {"transformer.h.0.attn.qkv.lora_A": Q_A, "transformer.h.0.attn.qkv.lora_B": Q_B}
OLD = {name.replace("qkv", "attn"): tensor for name, tensor in QKV.items()}
OF_LITGPT: dict[str, tuple[Tensors, str, str]] = {
    "no alpha": (FC, "lora_r: 2\n", "lora_alpha: field required"),
    "alpha as text": (FC, "lora_r: 2\nlora_alpha: lots\n", "lora_alpha is 'lots'"),
    "alpha infinite": (FC, "lora_r: 2\nlora_alpha: .inf\n", "lora_alpha"),
    "alpha twice": (FC, "lora_r: 2\nlora_alpha: 6\nlora_alpha: 7\n", "appears twice"),
    "another rank": (FC, "lora_r: 3\nlora_alpha: 6\n", "hyperparameters.yaml says r 3"),
    "interleaved": (OLD, "lora_r: 2\nlora_alpha: 6\n", "old litgpt"),
    "parts untrained": (QKV, "lora_r: 2\nlora_alpha: 6\n", "ranks of the parts trained"),
    "more than updates": (FC | {"x.bias": normal(2)}, "lora_r: 2\nlora_alpha: 6\n", "no part of an update of litgpt"),
}


@pytest.mark.parametrize(("tensors", "settings", "rule"), OF_LITGPT.values(), ids=OF_LITGPT)
def test_litgpt_that_contradicts_its_settings_is_refused(
    tmp_path: Path, tensors: Tensors, settings: str, rule: str
) -> None:
    with pytest.raises((AdapterError, CheckpointError), match=rule):
        parsed(litgpt(tmp_path / "a", tensors, settings=settings), llama(tmp_path / "base"))


OF_LORALIB: dict[str, tuple[Tensors, dict[str, object] | None, str]] = {
    "no config": ({"x.lora_A": G_A, "x.lora_B": G_B}, None, "stores no alpha"),
    "r beyond numbers": ({"x.lora_A": G_A, "x.lora_B": G_B}, {"r": 10**400, "lora_alpha": 6}, "r is '1000"),
    "another rank": ({"x.lora_A": G_A, "x.lora_B": G_B}, {"r": 3, "lora_alpha": 6}, "gives it rank 3"),
    "parts unnamed": ({"x.lora_A": normal(4, 5), "x.lora_B": normal(8, 2)}, {"r": 2, "lora_alpha": 6}, "enable_lora"),
    "a kernel": ({"x.lora_A": normal(6, 15), "x.lora_B": normal(12, 6)}, {"r": 2, "lora_alpha": 6}, "rank 2"),
}


@pytest.mark.parametrize(("tensors", "config", "rule"), OF_LORALIB.values(), ids=OF_LORALIB)
def test_loralib_without_what_its_scale_follows_from_is_refused(
    tmp_path: Path, tensors: Tensors, config: dict[str, object] | None, rule: str
) -> None:
    path = written(tmp_path / "x.safetensors", tensors)
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=rule):
        parsed(path)


def test_adapters_of_llama_cpp_that_are_no_lora_or_have_no_scale_are_refused(tmp_path: Path) -> None:
    tensors = {"blk.0.ffn_gate.weight.lora_a": G_A, "blk.0.ffn_gate.weight.lora_b": G_B}
    with pytest.raises(AdapterError, match=r"adapter\.type is 'control'"):
        parsed(gguf_adapter(tmp_path / "a.gguf", tensors, kind="control"))
    for alpha in (float("nan"), float("inf")):
        with pytest.raises((AdapterError, CheckpointError), match=r"adapter\.lora\.alpha"):
            parsed(gguf_adapter(tmp_path / "b.gguf", tensors, alpha=alpha))


RECOGNISED = {
    "peft": ["base_model.model.x.lora_A.weight", "base_model.model.x.lora_B.weight"],
    "torchtune": ["layers.0.attn.q_proj.lora_a.weight", "layers.0.attn.q_proj.lora_b.weight"],
    "MLX": ["model.layers.0.self_attn.q_proj.lora_a", "model.layers.0.self_attn.q_proj.lora_b"],
    "litgpt": ["transformer.h.0.attn.qkv.lora_A", "transformer.h.0.attn.qkv.lora_B"],
    "ComfyUI": ["diffusion_model.x.lora_A.weight", "diffusion_model.x.lora_B.weight"],
    "loralib": ["h.0.attn.c_attn.lora_A", "h.0.attn.c_attn.lora_B"],
    "home-made": ["w_a_000", "w_b_000"],
    "LyCORIS": ["lora_unet_x.lokr_w1", "lora_unet_x.lokr_w2", "lora_unet_x.alpha"],
    "kohya": ["lora_unet_x.lora_up.weight", "lora_unet_x.lora_down.weight", "lora_unet_x.alpha"],
    "diffusers": ["unet.x.attn1.processor.to_q_lora.down.weight", "unet.x.attn1.processor.to_q_lora.up.weight"],
}


def test_every_tool_is_told_by_its_names() -> None:
    assert RECOGNISED.keys() == {sign.tool for sign in SIGNS} >= BESIDE.keys()
    assert {tool: recognise(names, {}) for tool, names in RECOGNISED.items()} == {tool: tool for tool in RECOGNISED}
    assert recognise([], {"general.type": "adapter"}) == "GGUF"


@pytest.mark.parametrize(
    "names",
    [
        ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.alpha"],
        ["x.base_layer.weight", "x.lora_A.default.weight", "x.lora_B.default.weight"],
        [],
    ],
    ids=["a parameter called alpha", "a model with its adapter", "nothing"],
)
def test_whole_weights_are_no_adapter(names: list[str]) -> None:
    assert recognise(names, {}) is None
