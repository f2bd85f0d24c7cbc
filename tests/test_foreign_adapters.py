"""Adapters of other tools than peft: their names, layouts and scales, by formulas written out in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import wanalyze
from tests.conftest import normal, save_checkpoint
from tests.foreign_files import BASE, DOWN, LINEAR, UP, Tensors, deltas, number, of, parsed, written
from wanalyze.errors import AdapterError

# What tools of diffusion models call the two factors of `down.0.proj_in`, and what we call the result.
STYLES = {
    "kohya": ("lora_unet_down_0_proj_in.lora_{}.weight", "up", "down", "LoRA r=2 (kohya)"),
    "LyCORIS": ("lycoris_down_0_proj_in.lora_{}.weight", "up", "down", "LoRA r=2 (LyCORIS)"),
    "diffusers": ("unet.down.0.proj_in.lora_{}.weight", "B", "A", "LoRA r=2 (diffusers)"),
    "diffusers of a transformer": ("transformer.down.0.proj_in.lora_{}.weight", "B", "A", "LoRA r=2 (diffusers)"),
    "diffusers before peft": ("unet.down.0.proj_in.lora.{}.weight", "up", "down", "LoRA r=2 (diffusers)"),
    "layers of diffusers": ("unet.down.0.proj_in.lora_linear_layer.{}.weight", "up", "down", "LoRA r=2 (diffusers)"),
    "ComfyUI": ("diffusion_model.down.0.proj_in.lora_{}.weight", "B", "A", "LoRA r=2 (ComfyUI)"),
    "musubi": ("diffusion_model.down.0.proj_in.lora_{}.weight", "up", "down", "LoRA r=2 (ComfyUI)"),
    "mochi": ("diffusion_model.down.0.proj_in.lora_{}", "B", "A", "LoRA r=2 (ComfyUI)"),
}


@pytest.mark.parametrize(("style", "up", "down", "method"), STYLES.values(), ids=STYLES)
def test_a_module_is_found_by_its_name_in_every_style(
    tmp_path: Path, style: str, up: str, down: str, method: str
) -> None:
    base = save_checkpoint(tmp_path / "unet", BASE)
    adapter = parsed(written(tmp_path / "x.safetensors", {style.format(up): UP, style.format(down): DOWN}), base)
    torch.testing.assert_close(deltas(adapter, BASE), {"down.0.proj_in.weight": UP.double() @ DOWN.double()})
    assert adapter.method == method
    assert adapter.facts["scales"] == {1.0: 1}


PROCESSORS = {
    "unet.mid.attn1.processor.to_q_lora": "mid.attn1.to_q",
    "unet.mid.attn1.processor.to_out_lora": "mid.attn1.to_out.0",
    "unet.mid.attn1.processor.add_k_proj_lora": "mid.attn1.add_k_proj",
    "text_encoder.layers.0.self_attn.to_v_lora": "layers.0.self_attn.v_proj",
    "text_encoder.layers.0.self_attn.to_out_lora": "layers.0.self_attn.out_proj",
}


@pytest.mark.parametrize(("name", "target"), PROCESSORS.items())
def test_a_processor_of_old_diffusers_means_the_module_beside_it(tmp_path: Path, name: str, target: str) -> None:
    base = save_checkpoint(tmp_path / "model", {f"{target}.weight": normal(6, 4), "x.weight": normal(3)})
    adapter = parsed(written(tmp_path / "x.safetensors", {f"{name}.up.weight": UP, f"{name}.down.weight": DOWN}), base)
    assert [update.module for update in adapter.updates] == [target]


CONFIG = {"unet.r": 2, "unet.lora_alpha": 5}
METADATA = {
    "alpha": (CONFIG, 5 / 2),
    "rsLoRA": ({**CONFIG, "unet.use_rslora": True}, 5 / 2**0.5),
    "a pattern": (
        {**CONFIG, "unet.r": 9, "unet.rank_pattern": {"proj_in": 2}, "unet.alpha_pattern": {"proj_in": 1}},
        1 / 2,
    ),
    "of another component": ({"text_encoder.r": 7, "text_encoder.lora_alpha": 5}, 1),
}  # fmt: skip


@pytest.mark.parametrize(("said", "scale"), METADATA.values(), ids=METADATA)
def test_the_metadata_of_diffusers_gives_the_scale(tmp_path: Path, said: dict[str, object], scale: float) -> None:
    tensors = {"unet.down.0.proj_in.lora_A.weight": DOWN, "unet.down.0.proj_in.lora_B.weight": UP}
    path = written(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": json.dumps(said)})
    found = deltas(parsed(path, save_checkpoint(tmp_path / "unet", BASE)), BASE)
    torch.testing.assert_close(found, {"down.0.proj_in.weight": scale * UP.double() @ DOWN.double()})


def test_what_a_file_says_of_its_maker_is_a_fact(tmp_path: Path) -> None:
    tensors = of(LINEAR, up=UP, down=DOWN)
    said = {"ss_network_module": "lycoris.kohya", "ss_sd_model_name": "model.ckpt"}
    adapter = parsed(written(tmp_path / "x.safetensors", tensors, said))
    assert adapter.facts["tool"] == "LyCORIS"
    assert adapter.facts["base_model"] == "model.ckpt"
    toolkit = written(tmp_path / "y.safetensors", tensors, {"software": '{"name": "ai-toolkit"}'})
    assert parsed(toolkit).facts["tool"] == "ai-toolkit"
    assert parsed(toolkit).method == "LoRA r=2 (ai-toolkit)"


def test_without_a_base_modules_keep_their_names(tmp_path: Path) -> None:
    tensors = of("lora_te_a_b", up=UP, down=DOWN)
    adapter = wanalyze.open_adapter(written(tmp_path / "x.safetensors", tensors))
    assert [update.module for update in adapter.updates] == ["lora_te_a_b"]


def test_names_of_stability_are_those_of_the_same_modules_of_diffusers(tmp_path: Path) -> None:
    base = {
        "down_blocks.0.resnets.0.conv1.weight": normal(6, 4),
        "down_blocks.0.resnets.1.conv1.weight": normal(6, 4),
        "down_blocks.1.attentions.0.proj_in.weight": normal(6, 4),
        "mid_block.resnets.1.time_emb_proj.weight": normal(6, 4),
        "up_blocks.0.attentions.2.proj_in.weight": normal(6, 4),
        "up_blocks.0.upsamplers.0.conv.weight": normal(6, 4),
    }
    theirs = (
        *("input_blocks_1_0_in_layers_2", "input_blocks_2_0_in_layers_2", "input_blocks_4_1_proj_in"),
        *("middle_block_2_emb_layers_1", "output_blocks_2_1_proj_in", "output_blocks_2_2_conv"),
    )
    tensors: Tensors = {}
    for name in theirs:
        tensors |= of(f"lora_unet_{name}", up=UP, down=DOWN)
    adapter = parsed(written(tmp_path / "x.safetensors", tensors), save_checkpoint(tmp_path / "unet", base))
    assert sorted(update.target for update in adapter.updates) == sorted(base)


def both_encoders(path: Path) -> Path:
    one = of("lora_te1_layers_0_fc1", up=UP, down=DOWN)
    two = of("lora_te2_layers_0_fc1", up=2 * UP, down=DOWN)
    return written(path, one | two)


@pytest.mark.parametrize(("folder", "factor"), [("text_encoder", 1), ("text_encoder_2", 2)])
def test_the_folder_of_a_base_says_which_text_encoder_is_meant(tmp_path: Path, folder: str, factor: int) -> None:
    base = {"layers.0.fc1.weight": normal(6, 4)}
    save_checkpoint(tmp_path / folder, base)
    result = wanalyze.compare(tmp_path / folder, both_encoders(tmp_path / "x.safetensors"), allow_unmatched=True)
    expected = factor * (UP.double() @ DOWN.double()).norm().item()
    assert [m.metric("delta_norm") for m in result.modules] == [pytest.approx(expected, rel=1e-9)]


A_IN, B_OUT = normal(4, 2, seed=21), normal(2, 6, seed=22)  # MLX: lora_a (in, r), lora_b (r, out)
MLX_BASE = {
    "model.layers.0.self_attn.q_proj.weight": normal(6, 4, seed=1),
    "model.embed_tokens.weight": normal(9, 4, seed=2),
    **{f"model.layers.0.mlp.experts.{e}.up_proj.weight": normal(6, 4, seed=e) for e in range(3)},
    **{f"model.layers.1.block_sparse_moe.experts.{e}.w3.weight": normal(6, 4, seed=e) for e in range(3)},
}
EXPERTS = (normal(3, 2, 4, seed=23), normal(3, 6, 2, seed=24))


def mlx(folder: Path, tensors: Tensors, name: str = "adapters.safetensors", **config: object) -> Path:
    written(folder / name, tensors)
    fields = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 2, "scale": 20.0}, **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def of_mlx(module: str, a: Tensor, b: Tensor) -> Tensors:
    return {f"{module}.lora_a": a, f"{module}.lora_b": b}


def test_the_scale_of_mlx_is_taken_as_it_is(tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    adapter = parsed(mlx(tmp_path / "a", of_mlx(module, A_IN, B_OUT)), save_checkpoint(tmp_path / "base", MLX_BASE))
    expected = {f"{module}.weight": 20 * B_OUT.double().mT @ A_IN.double().mT}
    torch.testing.assert_close(deltas(adapter, MLX_BASE), expected)
    assert adapter.method == "LoRA r=2 (MLX)"


def test_an_embedding_of_mlx_is_the_product_as_it_stands(tmp_path: Path) -> None:
    tensors = of_mlx("model.embed_tokens", normal(9, 2, seed=3), normal(2, 4, seed=4))
    adapter = parsed(mlx(tmp_path / "a", tensors), save_checkpoint(tmp_path / "base", MLX_BASE))
    expected = 20 * normal(9, 2, seed=3).double() @ normal(2, 4, seed=4).double()
    torch.testing.assert_close(deltas(adapter, MLX_BASE), {"model.embed_tokens.weight": expected})
    assert parsed(tmp_path / "a").updates[0].shape == (9, 4)


def test_dora_of_mlx_has_the_norm_of_every_output(tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    tensors = of_mlx(module, A_IN, B_OUT) | {f"{module}.m": normal(6, seed=5)}
    adapter = parsed(mlx(tmp_path / "a", tensors, fine_tune_type="dora"), save_checkpoint(tmp_path / "base", MLX_BASE))
    weight = MLX_BASE[f"{module}.weight"].double()
    moved = weight + 20 * B_OUT.double().mT @ A_IN.double().mT
    expected = normal(6, seed=5).double()[:, None] * moved / moved.norm(dim=1, keepdim=True) - weight
    torch.testing.assert_close(deltas(adapter, MLX_BASE), {f"{module}.weight": expected})
    assert adapter.method == "DoRA r=2 (MLX)"


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("model.layers.0.mlp.switch_mlp.up_proj", "model.layers.0.mlp.experts.{}.up_proj.weight"),
        ("model.layers.1.block_sparse_moe.switch_mlp.up_proj", "model.layers.1.block_sparse_moe.experts.{}.w3.weight"),
    ],
)
@pytest.mark.parametrize("is_flat", [False, True])
def test_every_expert_of_mlx_has_an_update(tmp_path: Path, module: str, target: str, is_flat: bool) -> None:
    a, b = EXPERTS
    tensors = of_mlx(module, a.flatten(0, 1) if is_flat else a, b)
    adapter = parsed(mlx(tmp_path / "a", tensors), save_checkpoint(tmp_path / "base", MLX_BASE))
    expected = {target.format(e): 20 * b[e].double() @ a[e].double() for e in range(3)}
    torch.testing.assert_close(deltas(adapter, MLX_BASE), expected)


def test_experts_of_mlx_are_those_of_the_stack_of_an_mlx_base(tmp_path: Path) -> None:
    base = {"model.layers.0.mlp.switch_mlp.up_proj.weight": normal(3, 6, 4, seed=1)}
    adapter = parsed(
        mlx(tmp_path / "a", of_mlx("model.layers.0.mlp.switch_mlp.up_proj", *EXPERTS)),
        save_checkpoint(tmp_path / "base", base),
    )
    found = deltas(adapter, base)["model.layers.0.mlp.switch_mlp.up_proj.weight[2]"]
    torch.testing.assert_close(found, 20 * EXPERTS[1][2].double() @ EXPERTS[0][2].double())


def test_a_full_tune_of_mlx_is_weights_saved_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base", MLX_BASE)
    name = "model.layers.0.self_attn.q_proj.weight"
    mlx(tmp_path / "a", {name: MLX_BASE[name] + 1}, fine_tune_type="full", lora_parameters=None)
    result = wanalyze.compare(tmp_path / "base", tmp_path / "a")
    changed = {m.name: m.metrics["delta_norm"] for m in result.modules if m.metrics.get("delta_norm")}
    assert changed == {name.removesuffix(".weight"): pytest.approx(24**0.5, rel=1e-6)}


def test_a_step_of_a_training_with_mlx_is_opened_by_its_path(tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    mlx(tmp_path, of_mlx(module, A_IN, B_OUT))
    mlx(tmp_path, of_mlx(module, 2 * A_IN, B_OUT), name="0000100_adapters.safetensors")
    whole, step = (parsed(tmp_path / name) for name in (".", "0000100_adapters.safetensors"))
    both = [adapter.updates[0].read().dense().double() for adapter in (whole, step)]
    torch.testing.assert_close(both[1], 2 * both[0])


LLAMA = {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
LLAMA_BASE = {
    "model.layers.0.self_attn.q_proj.weight": normal(8, 5, seed=1),
    "model.layers.0.self_attn.k_proj.weight": normal(4, 5, seed=2),
    "model.layers.0.self_attn.v_proj.weight": normal(4, 5, seed=3),
    "model.layers.0.self_attn.o_proj.weight": normal(5, 8, seed=4),
    "model.layers.0.mlp.gate_proj.weight": normal(7, 5, seed=5),
    "model.embed_tokens.weight": normal(9, 5, seed=6),
}


def llama(folder: Path, **config: object) -> Path:
    save_checkpoint(folder, LLAMA_BASE)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    return folder


def in_pairs(rows: Tensor, heads: int) -> Tensor:
    """Hugging Face's rows in the order of Meta: of a head of d, row i and row i + d/2 beside each other."""
    half = len(rows) // heads // 2
    order = [head * 2 * half + i + j * half for head in range(heads) for i in range(half) for j in range(2)]
    return rows[order]


def factors(out: int, inp: int, seed: int) -> tuple[Tensor, Tensor]:
    return normal(2, inp, seed=seed), normal(out, 2, seed=seed + 50)


Q_A, Q_B = factors(8, 5, 1)
K_A, K_B = factors(4, 5, 2)
G_A, G_B = factors(7, 5, 3)


@pytest.mark.parametrize(("kind", "is_reordered"), [("llama", True), ("qwen2", False)])
def test_torchtune_has_the_rows_of_queries_and_keys_in_metas_order(
    tmp_path: Path, kind: str, is_reordered: bool
) -> None:
    def order(rows: Tensor, heads: int) -> Tensor:
        return in_pairs(rows, heads) if is_reordered else rows

    tensors = {
        "layers.0.attn.q_proj.lora_a.weight": Q_A,
        "layers.0.attn.q_proj.lora_b.weight": order(Q_B, 2),
        "layers.0.attn.q_proj.magnitude": order(normal(8, seed=9), 2),
        "layers.0.attn.k_proj.lora_a.weight": K_A,
        "layers.0.attn.k_proj.lora_b.weight": order(K_B, 1),
        "layers.0.mlp.w1.lora_a.weight": G_A,
        "layers.0.mlp.w1.lora_b.weight": G_B,
    }
    written(tmp_path / "a" / "adapter_model.safetensors", tensors)
    said = {"r": 2, "lora_alpha": 6, "peft_type": "LORA", "target_modules": ["q_proj"]}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(said))
    found = deltas(parsed(tmp_path / "a", llama(tmp_path / "base", model_type=kind)), LLAMA_BASE)
    q = LLAMA_BASE["model.layers.0.self_attn.q_proj.weight"].double()
    moved = q + 3 * Q_B.double() @ Q_A.double()
    expected = {
        "model.layers.0.self_attn.q_proj.weight": normal(8, seed=9).double()[:, None]
        * moved / moved.norm(dim=1, keepdim=True) - q,
        "model.layers.0.self_attn.k_proj.weight": 3 * K_B.double() @ K_A.double(),
        "model.layers.0.mlp.gate_proj.weight": 3 * G_B.double() @ G_A.double(),
    }  # fmt: skip
    torch.testing.assert_close(found, expected)


def test_torchtune_beside_weights_of_meta_keeps_its_rows(tmp_path: Path) -> None:
    base = {"layers.0.attention.wq.weight": normal(8, 5), "norm.weight": normal(5)}
    tensors = {"layers.0.attn.q_proj.lora_a.weight": Q_A, "layers.0.attn.q_proj.lora_b.weight": Q_B}
    written(tmp_path / "a" / "adapter_model.safetensors", tensors)
    (tmp_path / "a" / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 6}')
    found = deltas(parsed(tmp_path / "a", save_checkpoint(tmp_path / "base", base)), base)
    torch.testing.assert_close(found, {"layers.0.attention.wq.weight": 3 * Q_B.double() @ Q_A.double()})


def litgpt(folder: Path, tensors: Tensors, *, settings: str = "lora_r: 2\nlora_alpha: 6\nlora_key: false\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tensors}, folder / "lit_model.pth.lora")
    (folder / "hyperparameters.yaml").write_text(f"checkpoint_dir: x\n{settings}train:\n  lora_alpha: 99\n")
    return folder


V_A, V_B = factors(4, 5, 7)
QV = {
    "transformer.h.0.attn.qkv.lora_A": torch.cat([Q_A, V_A]),
    "transformer.h.0.attn.qkv.lora_B": torch.cat([Q_B, V_B]),
    "transformer.h.0.mlp.fc_1.lora_A": G_A,
    "transformer.h.0.mlp.fc_1.lora_B": G_B,
}


def test_litgpt_beside_split_weights_is_an_update_for_each_that_was_trained(tmp_path: Path) -> None:
    adapter = parsed(litgpt(tmp_path / "a", QV), llama(tmp_path / "base"))
    expected = {
        "model.layers.0.self_attn.q_proj.weight": 3 * Q_B.double() @ Q_A.double(),
        "model.layers.0.self_attn.v_proj.weight": 3 * V_B.double() @ V_A.double(),
        "model.layers.0.mlp.gate_proj.weight": 3 * G_B.double() @ G_A.double(),
    }
    torch.testing.assert_close(deltas(adapter, LLAMA_BASE), expected)
    assert adapter.method == "LoRA r=2 (litgpt)"


def test_litgpt_beside_its_own_fused_weight_leaves_the_keys_alone(tmp_path: Path) -> None:
    base = {"transformer.h.0.attn.qkv.weight": normal(16, 5), "transformer.h.0.mlp.fc_1.weight": normal(7, 5)}
    save_checkpoint(tmp_path / "base", base)
    (tmp_path / "base" / "config.json").write_text(json.dumps(LLAMA))
    found = deltas(parsed(litgpt(tmp_path / "a", QV), tmp_path / "base"), base)["transformer.h.0.attn.qkv.weight"]
    parts = [3 * Q_B.double() @ Q_A.double(), torch.zeros(4, 5), 3 * V_B.double() @ V_A.double()]
    torch.testing.assert_close(found, torch.cat(parts).double())


def test_litgpt_without_a_base_does_not_guess_which_rows_are_queries(tmp_path: Path) -> None:
    """Of grouped queries, halves of B would mix the rows of queries with the ranks of values."""
    qkv = parsed(litgpt(tmp_path / "a", QV)).updates[0]
    assert (qkv.needs_base, qkv.shape) == (True, None)
    with pytest.raises(AdapterError, match="depends on the base's weight"):
        qkv.read()
    with pytest.raises(AdapterError, match="queries, keys and values is not in the file"):
        qkv.read(normal(16, 5))


def loralib(folder: Path, tensors: Tensors, **config: object) -> Path:
    written(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6, **config}))
    return folder


def test_loralib_is_scaled_by_the_config_written_for_it(tmp_path: Path) -> None:
    adapter = parsed(loralib(tmp_path / "a", {"x.lora_A": G_A, "x.lora_B": G_B}))
    torch.testing.assert_close(
        deltas(adapter, {"x.weight": normal(7, 5)}), {"x.weight": 3 * G_B.double() @ G_A.double()}
    )


def test_a_merged_linear_of_loralib_has_an_update_for_some_thirds(tmp_path: Path) -> None:
    b = normal(8, 2, seed=71)
    tensors = {"x.lora_A": torch.cat([Q_A, V_A]), "x.lora_B": b}
    adapter = parsed(loralib(tmp_path / "a", tensors, enable_lora=[True, False, True]))
    parts = [3 * b[:4].double() @ Q_A.double(), torch.zeros(4, 5), 3 * b[4:].double() @ V_A.double()]
    torch.testing.assert_close(deltas(adapter, {"x.weight": normal(12, 5)})["x.weight"], torch.cat(parts).double())


def gguf_adapter(path: Path, tensors: Tensors, *, alpha: float = 6.0, kind: str = "lora", arch: str = "llama") -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


T_A, T_B = normal(9, 2, seed=81), normal(5, 2, seed=82)
OF_LLAMA_CPP = {
    "blk.0.attn_q.weight.lora_a": Q_A,
    "blk.0.attn_q.weight.lora_b": in_pairs(Q_B, 2),
    "blk.0.ffn_gate.weight.lora_a": G_A,
    "blk.0.ffn_gate.weight.lora_b": G_B,
    "token_embd.weight.lora_a": T_A,
    "token_embd.weight.lora_b": T_B,
}


@pytest.mark.parametrize(("alpha", "scale"), [(6.0, 3.0), (0.0, 1.0)])
def test_an_adapter_of_llama_cpp_has_its_names_and_rows_as_hugging_face(
    tmp_path: Path, alpha: float, scale: float
) -> None:
    path = gguf_adapter(tmp_path / "a.gguf", OF_LLAMA_CPP, alpha=alpha)
    adapter = parsed(path, llama(tmp_path / "base"))
    expected = {
        "model.layers.0.self_attn.q_proj.weight": scale * Q_B.double() @ Q_A.double(),
        "model.layers.0.mlp.gate_proj.weight": scale * G_B.double() @ G_A.double(),
        "model.embed_tokens.weight": scale * T_A.double() @ T_B.double().mT,
    }
    torch.testing.assert_close(deltas(adapter, LLAMA_BASE), expected)
    assert adapter.facts["tool"] == "llama.cpp"
    assert any("order" in note for note in parsed(path).notes)


def kohya_file(folder: Path) -> Path:
    return written(folder / "x.safetensors", of(LINEAR, up=UP, down=DOWN, alpha=number(3)))


def mlx_folder(folder: Path) -> Path:
    return mlx(folder, of_mlx("down.0.proj_in", DOWN.mT, UP.mT), lora_parameters={"rank": 2, "scale": 1.5})


def diffusers_file(folder: Path) -> Path:
    tensors = {"unet.down.0.proj_in.lora_A.weight": DOWN, "unet.down.0.proj_in.lora_B.weight": UP}
    said = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 3})}
    written(folder / "pytorch_lora_weights.safetensors", tensors, said)
    return folder


@pytest.mark.parametrize("make", [kohya_file, mlx_folder, diffusers_file])
def test_a_comparison_measures_the_update(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    base = save_checkpoint(tmp_path / "unet", BASE)
    result = wanalyze.compare(base, f"tuned={make(tmp_path / 'adapter')}")
    delta = 1.5 * UP.double() @ DOWN.double()
    by_name = {module.name: module for module in result.modules}
    assert by_name["down.0.proj_in"].metric("delta_norm") == pytest.approx(delta.norm().item(), rel=1e-9)
    after = BASE["down.0.proj_in.weight"].double() + delta
    change = (after.norm(dim=1) - BASE["down.0.proj_in.weight"].double().norm(dim=1)).abs().mean()
    assert by_name["down.0.proj_in"].metric("magnitude_change") == pytest.approx(change.item(), rel=1e-9)
