"""Fused weights against split ones; what belongs to queries, keys and values is asked of the models' own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import wanalyze
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint
from wanalyze.adapters import Update, parse_adapter
from wanalyze.checkpoints import AdapterFiles, TensorEntry, open_source
from wanalyze.checkpoints.content import Joined, Picked, Raw, Rows, picked, turned
from wanalyze.errors import PairingError
from wanalyze.pairing import Selection, pair_adapter
from wanalyze.result import Result, Status

TEXT: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT |= {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32}
GPT: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 4, "vocab_size": 40, "n_positions": 32}
GPT |= {"bos_token_id": 1, "eos_token_id": 2}
BERT = TEXT | {"cls_token_id": 3, "sep_token_id": 4}
BLOOM: dict[str, Any] = {"hidden_size": 16, "n_layer": 1, "n_head": 4, "vocab_size": 40}
FALCON = TEXT | {"alibi": False, "bias": True, "new_decoder_architecture": False}
ATTENTION = "h.0.self_attention.query_key_value"

# Model, config, its fields, the fused module.
FUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "phi3": ("Phi3Model", "Phi3Config", TEXT | {"num_key_value_heads": 2}, "layers.0.self_attn.qkv_proj"),
    "gpt_neox": ("GPTNeoXModel", "GPTNeoXConfig", TEXT, "layers.0.attention.query_key_value"),
    "gpt2": ("GPT2Model", "GPT2Config", GPT, "h.0.attn.c_attn"),
    "bigcode-mqa": ("GPTBigCodeModel", "GPTBigCodeConfig", GPT | {"multi_query": True}, "h.0.attn.c_attn"),
    "bigcode-mha": ("GPTBigCodeModel", "GPTBigCodeConfig", GPT | {"multi_query": False}, "h.0.attn.c_attn"),
    "persimmon": (
        "PersimmonModel",
        "PersimmonConfig",
        TEXT | {"qk_layernorm": False},
        "layers.0.self_attn.query_key_value",
    ),
    "modernbert": ("ModernBertModel", "ModernBertConfig", BERT, "layers.0.attn.Wqkv"),
    "bloom": ("BloomModel", "BloomConfig", BLOOM, ATTENTION),
    "falcon-old": ("FalconModel", "FalconConfig", FALCON | {"multi_query": False}, ATTENTION),
    "falcon-7b": ("FalconModel", "FalconConfig", FALCON | {"multi_query": True}, ATTENTION),
    "falcon-40b": (
        "FalconModel",
        "FalconConfig",
        FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True},
        ATTENTION,
    ),
}


def spied(seen: list[tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, None]]:
    def attention(module: object, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object):  # type: ignore[no-untyped-def]
        seen.append((query, key, value))
        return torch.zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3]), None

    return attention


def heads_by_the_model(model: Any, path: str, fused: Tensor) -> list[Tensor]:
    """Queries, keys and values that the model takes from the output (in, 1, out) of its fused layer, each (out, in).

    A row of the fused weight's transpose stands for one token of its own sequence: at position 0 no rotation is done.
    """
    parent = model.get_submodule(path.rpartition(".")[0])
    own = getattr(parent, "_split_heads", None) or getattr(parent, "_reshape", None)
    if own is not None:
        found = [part.squeeze(1 if part.shape[1] == 1 else 2) for part in own(fused)]
        # Falcon shows every query its key: heads of keys are those that differ.
        is_grouped = getattr(parent, "new_decoder_architecture", False)
        repeats = parent.num_heads // parent.num_kv_heads if is_grouped else 1
        return [part[:, :: 1 if i == 0 else repeats].flatten(1).T.contiguous() for i, part in enumerate(found)]
    seen: list[tuple[Tensor, ...]] = []
    transformers.AttentionInterface.register("spy", spied(seen))
    model.config._attn_implementation = "spy"
    handle = model.get_submodule(path).register_forward_hook(lambda module, given, out: fused.clone())
    with torch.no_grad():
        model(input_ids=torch.ones(len(fused), 1, dtype=torch.long))
    handle.remove()
    return [part.squeeze(2).flatten(1).T.contiguous() for part in seen[0]]


def twins(case: str, tmp_path: Path) -> tuple[Path, dict[str, Tensor], str]:
    """A saved model, the tensors of its split twin, and the path of the fused module as saved."""
    model_class, config_class, fields, path = FUSED[case]
    torch.manual_seed(1)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**fields)).eval()
    layer = model.get_submodule(path)
    is_conv1d = type(layer).__name__ == "Conv1D"
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    weight = tensors.pop(f"{path}.weight")
    bias = tensors.pop(f"{path}.bias", None)
    parent = path.rpartition(".")[0]
    for part, found in zip(
        "qkv", heads_by_the_model(model, path, (weight if is_conv1d else weight.T)[:, None]), strict=True
    ):
        tensors[f"{parent}.{part}_proj.weight"] = found.T.contiguous() if is_conv1d else found
    if bias is not None:
        for part, found in zip("qkv", heads_by_the_model(model, path, bias[None, None].expand(2, 1, -1)), strict=True):
            tensors[f"{parent}.{part}_proj.bias"] = found[:, 0].contiguous()
    model.config._attn_implementation = "eager"
    model.save_pretrained(tmp_path / "fused")
    return tmp_path / "fused", tensors, path


def statuses(result: Result) -> dict[str, Status]:
    return {item.name: item.status for item in (*result.modules, *result.vectors)}


@pytest.mark.parametrize("case", FUSED)
def test_a_fused_model_is_its_split_twin(case: str, tmp_path: Path) -> None:
    fused, tensors, path = twins(case, tmp_path)
    split = save_checkpoint(tmp_path / "split", tensors)
    (split / "config.json").write_text((fused / "config.json").read_text())
    for base, tuned in ((fused, split), (split, fused)):
        result = wanalyze.compare(base, tuned, cache=False)
        assert not [item for item in result.skipped if "mask" not in item.name]
        assert set(statuses(result).values()) == {Status.unchanged}
    parent = path.rpartition(".")[0]
    assert {f"{parent}.{part}_proj" for part in "qkv"} <= statuses(result).keys()
    result = wanalyze.compare(fused, split, cache=False)
    assert {f"{path}[{part}]" for part in "qkv"} <= statuses(result).keys()


@pytest.mark.parametrize("case", ["phi3", "gpt_neox", "falcon-40b", "gpt2"])
def test_a_change_of_one_head_is_found_in_its_part_only(case: str, tmp_path: Path) -> None:
    fused, tensors, path = twins(case, tmp_path)
    key = tensors[f"{path.rpartition('.')[0]}.k_proj.weight"]
    key[:4, 5] += 1 / 2  # of a Conv1D, inputs and an output
    result = wanalyze.compare(fused, save_checkpoint(tmp_path / "split", tensors))
    assert [name for name, status in statuses(result).items() if status is not Status.unchanged] == [f"{path}[k]"]
    module = result[f"{path}[k]"][0]
    assert module.shape == (list(key.shape) if case != "gpt2" else list(key.T.shape))
    assert module.metric("delta_norm") == pytest.approx(1, rel=1e-5)
    assert module.kind == f"{path.rpartition('.')[2]}[k]"
    rows = (key if case != "gpt2" else key.T).clone()
    moved = torch.zeros_like(rows)
    (moved if case != "gpt2" else moved.T)[:4, 5] += 1 / 2
    expected = (rows.double().norm(dim=1) - (rows - moved).double().norm(dim=1)).abs().mean().item()
    assert module.metric("magnitude_change") == pytest.approx(expected, rel=1e-4)


def saved(folder: Path, tensors: dict[str, Tensor], **config: object) -> Path:
    save_checkpoint(folder, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


SPLIT = {f"l.0.attn.{part}_proj.weight": normal(rows, 3, seed=rows) for part, rows in (("q", 8), ("k", 4), ("v", 4))}
GATES = {f"l.0.mlp.{part}_proj.weight": normal(5, 3, seed=len(part)) for part in ("gate", "up")}
HEADS: dict[str, object] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}


@pytest.mark.parametrize(
    ("fused", "config"),
    [
        ("qkv_proj", {"model_type": "phi3", **HEADS}),
        ("qkv_proj", {"model_type": "llama", **HEADS}),
        ("qkv_proj", {"model_type": "llava", "text_config": {"model_type": "llama", **HEADS}}),
        ("Wqkv", {"model_type": "dbrx", "n_heads": 4, "d_model": 8, "attn_config": {"kv_n_heads": 2}}),
        (
            "query_key_value",
            {"model_type": "chatglm", "num_attention_heads": 4, "kv_channels": 2}
            | {"multi_query_attention": True, "multi_query_group_num": 2},
        ),
    ],
)
def test_queries_then_keys_then_values(tmp_path: Path, fused: str, config: dict[str, object]) -> None:
    base = {f"l.0.attn.{fused}.weight": torch.cat([*SPLIT.values()])}
    result = wanalyze.compare(saved(tmp_path / "b", base, **config), save_checkpoint(tmp_path / "t", SPLIT))
    assert statuses(result) == {f"l.0.attn.{fused}[{part}]": Status.unchanged for part in "kqv"}
    assert not result.skipped


def test_internlm2_has_its_queries_beside_their_keys_and_other_names(tmp_path: Path) -> None:
    q, k, v = (part.view(2, -1, 3) for part in SPLIT.values())
    wqkv = torch.cat([part[group] for group in range(2) for part in (q, k, v)])
    base = {"model.layers.0.attention.wqkv.weight": wqkv, "model.layers.0.feed_forward.w1.weight": normal(5, 3)}
    tuned = {name.replace("l.0.attn", "model.layers.0.self_attn"): tensor for name, tensor in SPLIT.items()}
    tuned["model.layers.0.mlp.gate_proj.weight"] = normal(5, 3)
    config = {"model_type": "internlm2", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
    result = wanalyze.compare(saved(tmp_path / "b", base, **config), save_checkpoint(tmp_path / "t", tuned))
    assert set(statuses(result).values()) == {Status.unchanged}
    assert not result.skipped


def test_gate_and_up_in_one_tensor(tmp_path: Path) -> None:
    fused = {"l.0.mlp.gate_up_proj.weight": torch.cat([*GATES.values()])}
    for base, tuned in ((fused, GATES), (GATES, fused)):
        result = wanalyze.compare(
            saved(tmp_path / "b", base, model_type="glm4"), saved(tmp_path / "t", tuned, model_type="glm4")
        )
        assert set(statuses(result).values()) == {Status.unchanged}
        assert len(result.modules) == 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "its layout is not known (no model_type); give --map"),
        ({"model_type": "strange"}, "its layout is not known (model_type 'strange'); give --map"),
        ({"model_type": "phi3"}, "its layout is not known (model_type 'phi3')"),
        ({"model_type": "phi3", **HEADS, "head_dim": 3}, "it has 16 rows where config.json makes it 24"),
        ({"model_type": "phi3", **HEADS, "num_key_value_heads": "2"}, "its layout is not known"),
        ({"model_type": "phi3", **HEADS, "num_attention_heads": True}, "its layout is not known"),
        ({"model_type": "phi3", **HEADS, "num_attention_heads": -4}, "its layout is not known"),
        ({"model_type": "phi3", **HEADS, "num_attention_heads": 10**30}, "its layout is not known"),
    ],
)
def test_a_layout_is_never_guessed(tmp_path: Path, config: dict[str, object], said: str) -> None:
    other = {"x.weight": normal(4, 3)}
    base = saved(tmp_path / "b", {"l.0.attn.qkv_proj.weight": torch.cat([*SPLIT.values()]), **other}, **config)
    tuned = save_checkpoint(tmp_path / "t", SPLIT | other)
    for result, whose in ((wanalyze.compare(base, tuned), "base"), (wanalyze.compare(tuned, base), "tuned")):
        assert list(statuses(result)) == ["x"]
        assert len(result.skipped) == 4
        assert all(said in item.reason and f"fused in the {whose}" in item.reason for item in result.skipped)


def test_sizes_that_add_up_to_other_parts_are_seen(tmp_path: Path) -> None:
    base = {"l.0.attn.qkv_proj.weight": normal(16, 3), "x.weight": normal(4, 3)}
    config = HEADS | {"model_type": "phi3"}
    tuned = SPLIT | {"l.0.attn.q_proj.weight": normal(10, 3), "x.weight": normal(4, 3)}
    result = wanalyze.compare(saved(tmp_path / "b", base, **config), save_checkpoint(tmp_path / "t", tuned))
    reasons = {item.name: item.reason for item in result.skipped}
    assert reasons == {"l.0.attn.qkv_proj[q]": "other shape: [8, 3] in the base, [10, 3] in the tuned"}


def test_the_way_out_of_an_unknown_layout_is_a_map(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "b", {"l.0.attn.qkv_proj.weight": torch.cat([*SPLIT.values()])})
    (tmp_path / "map").write_text(
        "l.0.attn.q_proj l.0.attn.qkv_proj[0:8]\nl.0.attn.k_proj l.0.attn.qkv_proj[8:12]\n"
        "l.0.attn.v_proj l.0.attn.qkv_proj[12:16]\n"
    )
    result = wanalyze.compare(base, save_checkpoint(tmp_path / "t", SPLIT), name_map=tmp_path / "map")
    assert set(statuses(result).values()) == {Status.unchanged}
    assert not result.skipped


def updates(base: Path, adapter: Path) -> dict[str, Tensor]:
    """ΔW of every pair that an adapter changes, rows as outputs."""
    source = open_source(adapter)
    assert isinstance(source, AdapterFiles)
    opened = wanalyze.open_checkpoint(base)
    found = pair_adapter(opened, parse_adapter(source, opened), Selection(), allow_unmatched=False)
    assert not found.skipped
    assert all(pair.shape == pair.tuned.shape for pair in found.matrices if isinstance(pair.tuned, Update))
    return {pair.name: pair.tuned.read().dense().double() for pair in found.matrices if isinstance(pair.tuned, Update)}


def product(module: str, out: int, inp: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """The factors of a module, and their product by the scale of `save_adapter`."""
    factors = lora_factors(module, out, inp, seed=seed)
    a, b = (tensor.double() for tensor in factors.values())
    return factors, 2 * b @ a


@pytest.mark.parametrize(
    ("fused", "shape", "config"),
    [
        ("qkv_proj", (16, 3), {"model_type": "phi3", **HEADS}),
        ("c_attn", (4, 12), {"model_type": "gpt2"}),
    ],
)
def test_an_adapter_on_a_part_of_a_fused_weight_is_held_against_that_part(
    tmp_path: Path, fused: str, shape: tuple[int, int], config: dict[str, object]
) -> None:
    base = saved(tmp_path / "b", {f"l.0.attn.{fused}.weight": normal(*shape, seed=3)}, **config)
    out, inp = (4, 3) if fused == "qkv_proj" else (4, 4)
    factors, delta = product("l.0.attn.k_proj", out, inp)
    adapter = save_adapter(tmp_path / "a", factors)
    torch.testing.assert_close(updates(base, adapter), {f"l.0.attn.{fused}[k]": delta})
    result = wanalyze.compare(base, adapter)
    assert statuses(result) == {
        f"l.0.attn.{fused}[{part}]": Status.measured if part == "k" else Status.unchanged for part in "kqv"
    }
    weight = normal(*shape, seed=3)[8:12] if fused == "qkv_proj" else normal(*shape, seed=3)[:, 4:8].mT
    change = ((weight + delta).norm(dim=1) - weight.norm(dim=1)).abs().mean().item()
    assert result[f"l.0.attn.{fused}[k]"][0].metric("magnitude_change") == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("fused", ["qkv_proj", "gate_up_proj"])
def test_an_adapter_on_a_fused_weight_is_held_against_what_the_base_has_of_it(tmp_path: Path, fused: str) -> None:
    split = SPLIT if fused == "qkv_proj" else GATES
    factors, delta = product(f"l.0.{'attn' if fused == 'qkv_proj' else 'mlp'}.{fused}", 16 if split is SPLIT else 10, 3)
    base = saved(tmp_path / "b", split, model_type="llama", **HEADS)
    expected = dict(zip(split, delta.split([len(tensor) for tensor in split.values()]), strict=True))
    found = updates(base, save_adapter(tmp_path / "a", factors))
    torch.testing.assert_close(found, {name.removesuffix(".weight"): rows for name, rows in expected.items()})


NO_PART = {
    "an unknown layout": ("l.0.attn.q_proj", (8, 3), {"model_type": "new"}, "its layout is not known"),
    "another shape": ("l.0.attn.q_proj", (4, 3), {"model_type": "phi3", **HEADS}, r"other shape: \(8, 3\)"),
    "no part of it": ("l.0.attn.g_proj", (8, 3), {"model_type": "phi3", **HEADS}, "missing in base"),
}


@pytest.mark.parametrize(("module", "shape", "config", "reason"), NO_PART.values(), ids=NO_PART)
def test_a_part_that_the_fused_weight_does_not_have_is_refused_with_that_reason(
    tmp_path: Path, module: str, shape: tuple[int, int], config: dict[str, object], reason: str
) -> None:
    base = saved(tmp_path / "b", {"l.0.attn.qkv_proj.weight": normal(16, 3)}, **config)
    with pytest.raises(PairingError, match=reason):
        wanalyze.compare(base, save_adapter(tmp_path / "a", lora_factors(module, *shape)))


def test_dora_on_a_fused_weight_is_not_held_against_parts(tmp_path: Path) -> None:
    tensors = lora_factors("l.0.mlp.gate_up_proj", 10, 3)
    tensors["base_model.model.l.0.mlp.gate_up_proj.lora_magnitude_vector"] = normal(10)
    with pytest.raises(PairingError, match="depends on the fused weight as a whole"):
        wanalyze.compare(
            saved(tmp_path / "b", GATES, model_type="llama"), save_adapter(tmp_path / "a", tensors, use_dora=True)
        )


def test_a_fused_weight_is_not_changed_as_a_whole_and_in_parts(tmp_path: Path) -> None:
    base = saved(tmp_path / "b", {"l.0.attn.qkv_proj.weight": normal(16, 3)}, model_type="phi3", **HEADS)
    tensors = lora_factors("l.0.attn.q_proj", 8, 3) | lora_factors("l.0.attn.qkv_proj", 16, 3)
    with pytest.raises(PairingError, match="as a whole and in parts"):
        wanalyze.compare(base, save_adapter(tmp_path / "a", tensors))


def test_what_an_adapter_saves_whole_is_held_against_its_part_of_a_fused_weight(tmp_path: Path) -> None:
    base = {"l.0.attn.qkv_proj.weight": torch.cat([*SPLIT.values()]), "l.0.o.weight": normal(6, 4)}
    tensors = lora_factors("l.0.o", 6, 4) | {"base_model.model.l.0.attn.k_proj.weight": normal(4, 3, seed=9)}
    adapter = save_adapter(tmp_path / "a", tensors, modules_to_save=["k_proj"])
    result = wanalyze.compare(saved(tmp_path / "b", base, model_type="phi3", **HEADS), adapter)
    changed = [name for name, status in statuses(result).items() if status is Status.measured]
    assert changed == ["l.0.attn.qkv_proj[k]", "l.0.o"]
    assert len(result.modules) == 4
    assert not result.skipped


def test_a_gpt2_with_linear_layers_is_the_same_model(tmp_path: Path) -> None:
    conv = {
        "h.0.attn.c_attn.weight": normal(8, 24),
        "h.0.attn.c_proj.weight": normal(8, 8, seed=1),
        "h.0.mlp.c_fc.weight": normal(8, 32),
        "ln_f.weight": normal(8),
    }
    linear = {name: tensor.mT.contiguous() if tensor.ndim == 2 else tensor for name, tensor in conv.items()}
    for base, tuned in ((conv, linear), (linear, conv)):
        result = wanalyze.compare(save_checkpoint(tmp_path / "b", base), save_checkpoint(tmp_path / "t", tuned))
        assert set(statuses(result).values()) == {Status.unchanged}
        assert result["h.0.attn.c_attn"][0].shape == [24, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("axis", [0, 1])
def test_picked_rows_are_those_that_a_reshape_gives(tmp_path: Path, dtype: torch.dtype, axis: int) -> None:
    whole = normal(12, 24).to(dtype)
    entry = wanalyze.open_checkpoint(save_checkpoint(tmp_path, {"w": whole})).entries["w"]
    for groups, start, stop in ((1, 2, 5), (3, 1, 3), (2, 0, 6)):
        found = picked(entry.content, groups, start, stop, axis)
        rows = whole.float().movedim(axis, 0)
        expected = rows.reshape(groups, -1, rows.shape[1])[:, start:stop].flatten(0, 1).movedim(0, axis)
        assert found.shape == tuple(expected.shape) == tuple(found.read().shape)
        assert torch.equal(found.read().float(), expected)
        assert torch.equal(turned(found).read().float(), expected.mT)
        assert turned(turned(found)) is found
        assert isinstance(found, (Raw, Joined) if axis == 0 else Picked)


def test_parts_of_quantised_weights_have_the_steps_of_their_rows() -> None:
    class Coarse:
        dtype, shape, pieces = None, (6, 2), ()

        def read(self) -> Tensor:
            return torch.arange(12.0).reshape(6, 2)

        def steps(self) -> Tensor:
            return self.read() / 8

    content: Any = Coarse()
    for found in (
        Picked(content, 2, 1, 2),
        Joined((Rows(content, 1, 2), Rows(content, 4, 5))),
        turned(turned(Picked(content, 2, 1, 2))),
    ):
        steps = TensorEntry("x", found).content.steps()
        assert steps is not None
        assert torch.equal(steps, torch.tensor([[2.0, 3.0], [8.0, 9.0]]) / 8)
