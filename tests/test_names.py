"""The names people really have: wrappers, two versions of a library, tied heads, a map by hand."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from torch import Tensor
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import wanalyze
from tests.conftest import Run, lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.checkpoints.content import Raw
from wanalyze.checkpoints.dtypes import DTYPES
from wanalyze.errors import PairingError
from wanalyze.pairing import Selection, pair_checkpoint
from wanalyze.pairing.architecture import architecture_of
from wanalyze.pairing.names import Names, unwrapped
from wanalyze.result import Result, Status

transformers.utils.logging.disable_progress_bar()

TOKENS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": 32, **TOKENS}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
VISION |= {"image_size": 16, "patch_size": 8}
QWEN_VL = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4}
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 1e4}}
STAGES = {"depths": [1, 1], "num_attention_heads": [1, 2], "sr_ratios": [2, 1], "hidden_sizes": [8, 16]}
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "out_features": ["stage2"]}
DETR = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}

# Class of the model, class of its config, fields: families whose names differ on disk and in memory.
FAMILIES: dict[str, tuple[str, str, dict[str, object]]] = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", TEXT | {"num_local_experts": 3}),
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", TEXT | {"num_local_experts": 3}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", TEXT | {"num_experts": 3, "moe_intermediate_size": 12}),
    "granitemoe": ("GraniteMoeForCausalLM", "GraniteMoeConfig", TEXT | {"num_local_experts": 3}),
    "aria": ("AriaTextForCausalLM", "AriaTextConfig", TEXT | {"moe_num_experts": 3}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {k: v for k, v in TEXT.items() if "key_value" not in k}),
    "vit": ("ViTForImageClassification", "ViTConfig", VISION),
    "dinov2": ("Dinov2Model", "Dinov2Config", VISION | {"use_swiglu_ffn": True}),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", STAGES | {"num_encoder_blocks": 2}),
    "swin": ("SwinModel", "SwinConfig", {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}),
    "detr": ("DetrModel", "DetrConfig", DETR | {"use_timm_backbone": False}),
    "nomic_bert": ("NomicBertModel", "NomicBertConfig", TEXT),
    "llava": ("LlavaForConditionalGeneration", "LlavaConfig", {}),
    "gemma3": ("Gemma3ForConditionalGeneration", "Gemma3Config", {"mm_tokens_per_image": 4}),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", "Qwen2VLConfig", {"text_config": TEXT | ROPE}),
}
PARTS: dict[str, Callable[[], dict[str, object]]] = {
    "llava": lambda: {
        "vision_config": transformers.CLIPVisionConfig(**VISION),
        "text_config": transformers.LlamaConfig(**TEXT),
    },
    "gemma3": lambda: {
        "vision_config": transformers.SiglipVisionConfig(**VISION),
        "text_config": transformers.Gemma3TextConfig(**TEXT),
    },
    "qwen2_vl": lambda: {"vision_config": QWEN_VL},
    "detr": lambda: {"backbone_config": transformers.ResNetConfig(**BACKBONE)},
}


def saved_twice(family: str, folder: Path) -> tuple[Path, Path]:
    """A model with random weights, in the names of transformers 4 and in those that it has in memory."""
    model_class, config_class, fields = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**fields, **PARTS.get(family, dict)())
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases begin as ones and zeros, all alike
            parameter.normal_()
    for name, original in (("disk", True), ("memory", False)):
        model.save_pretrained(folder / name, save_original_format=original)
    return folder / "disk", folder / "memory"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_of_both_versions_of_transformers_are_matched(family: str, tmp_path: Path) -> None:
    disk, memory = saved_twice(family, tmp_path)
    assert wanalyze.open_checkpoint(disk).entries.keys() != wanalyze.open_checkpoint(memory).entries.keys()
    for base, tuned in ((disk, memory), (memory, disk)):
        result = wanalyze.compare(base, tuned, cache=False)
        assert {item.status for item in (*result.modules, *result.vectors)} == {Status.unchanged}
        assert not [item for item in result.skipped if "missing" in item.reason]


# Families too large or too new to build here: a name on disk for each row, renamed by transformers' own table.
ON_DISK = [
    ("minimax", "model.layers.0.block_sparse_moe.gate.weight"),
    ("kimi_linear", "model.layers.0.block_sparse_moe.shared_experts.up_proj.weight"),
    ("ernie4_5_moe", "model.layers.0.mlp.moe_statics.e_score_correction_bias"),
    ("exaone_moe", "model.layers.0.mlp.e_score_correction_bias"),
    ("hy_v3", "model.layers.0.mlp.router.gate.weight"),
    ("hy_v3", "model.layers.0.mlp.expert_bias"),
    ("hy_v3", "model.layers.0.mlp.shared_mlp.up_proj.weight"),
    ("laguna", "model.layers.0.mlp.experts.e_score_correction_bias"),
    ("laguna", "model.layers.0.mlp.shared_expert.up_proj.weight"),
    ("mimo_v2_flash", "model.layers.0.self_attn.attention_sink_bias"),
    ("flint", "model.layers.0.self_attn.softmax_offset"),
    ("olmo_hybrid", "model.layers.0.attention_layer_norm.weight"),
    ("olmo_hybrid", "model.layers.0.feedforward_layer_norm.weight"),
    ("jina_embeddings_v3", "encoder.layers.0.mixer.out_proj.weight"),
    ("jina_embeddings_v3", "encoder.layers.0.norm1.weight"),
    ("jina_embeddings_v3", "emb_ln.weight"),
    ("gte", "new.encoder.layer.0.attention.o_proj.weight"),
    ("gte", "new.encoder.layer.0.attn_ln.weight"),
    ("gte", "new.encoder.layer.0.mlp_ln.weight"),
    ("gte", "lm_head.norm.weight"),
    ("emu3", "text_model.lm_head.weight"),
    ("emu3", "text_model.model.layers.0.mlp.up_proj.weight"),
    ("paddleocr_vl", "mlp_AR.linear_1.weight"),
    ("paddleocr_vl", "model.layers.0.mlp.up_proj.weight"),
    ("lw_detr", "encoder.layer.0.attention.attention.query.weight"),
    ("lw_detr", "encoder.layer.0.attention.output.weight"),
    ("conditional_detr", "encoder.layers.0.fc1.weight"),
    ("rt_detr", "decoder.layers.0.self_attn.out_proj.weight"),
    ("maskformer", "model.layers.3.fc2.bias"),
    ("legacy", "bert.embeddings.LayerNorm.gamma"),
    ("legacy", "conv.weight_g"),
]


@pytest.mark.parametrize(("family", "name"), ON_DISK)
def test_renames_are_those_of_transformers(family: str, name: str) -> None:
    table = {"conditional_detr": "ConditionalDetrModel"}.get(family, family)
    renamed = name
    for rule in get_checkpoint_conversion_mapping(table):
        if type(rule).__name__ in ("WeightRenaming", "PrefixChange"):
            for source in rule.source_patterns:
                renamed = re.sub(source, rule.target_patterns[0], renamed)
    names = Names(frozenset({family}))
    assert renamed != name
    assert names.canonical(name) == names.canonical(renamed) == names.canonical(names.canonical(renamed))


def test_every_tensor_is_in_a_pair_or_skipped(tmp_path: Path) -> None:
    base = tiny_base() | {"experts.up_proj": normal(2, 3, 4), "x.c_attn.weight": normal(3, 3), "ids": torch.arange(3)}
    tuned = {f"module.{name}": tensor for name, tensor in tiny_base().items()} | {"x.q_proj.weight": normal(1, 3)}
    tuned |= {f"experts.{e}.{part}.weight": normal(3, 4) for e in (0, 5) for part in ("up_proj", "gate_proj")}
    opened = [wanalyze.open_checkpoint(save_checkpoint(tmp_path / n, t)) for n, t in (("b", base), ("t", tuned))]
    opened[0] = replace(opened[0], config={"model_type": "mixtral"})
    pairing = pair_checkpoint(*opened, Selection())
    pairs = [*pairing.matrices, *pairing.vectors]
    skipped = [item.name for item in pairing.skipped]
    assert len({pair.name for pair in pairs}) == len(pairs)
    for names, found in ((base, [pair.base.name for pair in pairs]), (tuned, [pair.tuned.name for pair in pairs])):  # type: ignore[union-attr]
        whole = {re.sub(r"\[.*?\]", "", name).removesuffix(".weight") for name in (*found, *skipped)}
        assert whole >= {name.removesuffix(".weight") for name in names}


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("module.module.fc.weight", "fc.weight"),
        ("_orig_mod.module.fc.weight", "fc.weight"),
        ("base_model.model.model.q.base_layer.weight", "model.q.weight"),
        ("base_model.model.score.modules_to_save.default.weight", "score.weight"),
        ("score.modules_to_save.weight", "score.weight"),
        ("base_model.model.score.original_module.bias", "score.bias"),
        ("wte.token_adapter.base_layer.weight", "wte.weight"),
        ("wte.default.weight", "wte.weight"),
        ("l._checkpoint_wrapped_module._fsdp_wrapped_module.fc.weight", "l.fc.weight"),
        ("default.weight", "default.weight"),
        ("modules.0.base_layer_norm.weight", "modules.0.base_layer_norm.weight"),
    ],
)
def test_wrappers_are_taken_off(name: str, bare: str) -> None:
    assert unwrapped(name) == bare


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_state_dict_of_a_whole_peft_model_is_its_base_and_what_it_saves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**TEXT))
    base.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(
        base, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"])
    )
    tensors = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    saved = next(name for name in tensors if "modules_to_save" in name)
    assert any(".original_module." in name for name in tensors)
    tensors[saved] += 1
    result = wanalyze.compare(tmp_path / "base", save_checkpoint(tmp_path / "tuned", tensors))
    assert [module.name for module in result.modules if module.status is Status.measured] == ["score"]
    reasons = {item.reason for item in result.skipped}
    assert len(reasons) == 2
    assert "another tensor already stands for score.weight" in reasons
    assert any(reason.startswith("a factor of LoRA that is not merged") for reason in reasons)


def test_a_name_that_is_nothing_but_wrappers_ends() -> None:
    nested = "module." * 50_000 + "_or_orig_mod.ig_mod." * 50_000 + "fc.weight"
    assert unwrapped(nested).endswith("fc.weight")


def test_two_towers_are_never_mixed() -> None:
    names = Names(architecture_of({"model_type": "clip"}).types)
    text, vision = (f"{tower}.encoder.layers.0.mlp.fc1.weight" for tower in ("text_model", "vision_model"))
    assert names.canonical(text) != names.canonical(vision)


@pytest.mark.parametrize(
    "config", [{"model_type": 3}, {"model_type": "a|b("}, {"text_config": [1]}, {"text_config": {"model_type": "("}}]
)
def test_nonsense_in_a_config_is_no_type(config: dict[str, object]) -> None:
    assert architecture_of(config).types == frozenset()
    assert Names(architecture_of(config).types).canonical("model.x.weight") == "x.weight"


def test_of_a_config_of_a_hundred_thousand_models_the_first_few_count() -> None:
    parts = {f"part{i}": {"model_type": f"kind{i}"} for i in range(100_000)}
    types = architecture_of({"model_type": "llama", **parts}).types
    assert "llama" in types
    assert len(types) <= 16  # all are sought in every name


def tied(tmp_path: Path, name: str, tensors: dict[str, Tensor], says: bool | None) -> Path:
    folder = save_checkpoint(tmp_path / name, tensors)
    if says is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": says}))
    return folder


HEADLESS = tiny_base()
TABLE = HEADLESS["model.embed_tokens.weight"]
HEADED = HEADLESS | {"lm_head.weight": TABLE.clone()}
IN_BASE = "tied to model.embed_tokens in the base"
IN_TUNED = "tied to model.embed_tokens in the tuned"
COUNTED = "tied to model.embed_tokens, counted there"


@pytest.mark.parametrize(
    ("base", "base_says", "tuned", "tuned_says", "expected"),
    [
        (HEADLESS, None, HEADED, None, IN_BASE),
        (HEADLESS, True, HEADED, None, IN_BASE),
        (HEADLESS, True, HEADED, False, IN_BASE),
        (HEADLESS, False, HEADED, None, "missing in base"),
        (HEADLESS, True, HEADED, True, COUNTED),
        (HEADED, True, HEADED, True, COUNTED),
        (HEADED, True, HEADLESS, True, COUNTED),
        (HEADED, True, HEADED, None, None),
        (HEADED, None, HEADED, True, None),
        (HEADED, False, HEADLESS, True, IN_TUNED),
        (HEADED, False, HEADLESS, None, "missing in tuned"),
    ],
)
def test_a_tied_head_is_counted_once(tmp_path: Path, base, base_says, tuned, tuned_says, expected) -> None:  # type: ignore[no-untyped-def]
    result = wanalyze.compare(tied(tmp_path, "base", base, base_says), tied(tmp_path, "tuned", tuned, tuned_says))
    said = {item.name: item.reason for item in result.skipped} | {
        module.name: module.reason for module in result.modules if module.name == "lm_head"
    }
    assert said == {"lm_head": expected}
    assert {module.status for module in result.modules} == {Status.unchanged}


def test_an_adapter_that_saves_a_head_of_its_own_is_held_against_the_embedding(tmp_path: Path) -> None:
    factors = lora_factors("model.layers.0.mlp.up_proj", 20, 16) | {"base_model.model.lm_head.weight": TABLE + 0.5}
    adapter = save_adapter(tmp_path / "adapter", factors, modules_to_save=["lm_head"])
    module = wanalyze.compare(tied(tmp_path, "base", HEADLESS, True), adapter)["lm_head"][0]
    assert module.reason == IN_BASE
    assert module.metric("delta_norm") == pytest.approx(0.5 * TABLE.numel() ** 0.5, rel=1e-5)


def mapped(tmp_path: Path, text: str, base: dict[str, Tensor], tuned: dict[str, Tensor]) -> Result:
    path = tmp_path / "names.txt"
    path.write_text(text)
    return wanalyze.compare(
        save_checkpoint(tmp_path / "base", base), save_checkpoint(tmp_path / "tuned", tuned), name_map=path
    )


def test_a_map_wins_over_names(tmp_path: Path) -> None:
    base = {"a.weight": normal(4, 3, seed=1), "b.weight": normal(4, 3, seed=2), "c.weight": normal(2, 3)}
    tuned = {"a.weight": base["b.weight"], "b.weight": base["a.weight"], "c.weight": base["c.weight"]}
    result = mapped(tmp_path, "# swapped\na.weight\tb.weight\n\n  b   a  # without .weight\n", base, tuned)
    assert {module.status for module in result.modules} == {Status.unchanged}
    assert [module.reason for module in result.modules] == ["paired by --map", "paired by --map", None]


def test_a_map_may_cut_a_tensor_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    base = {"x.fused.weight": normal(10, 3), "y.weight": normal(2, 3)}
    tuned = {"x.one.weight": base["x.fused.weight"][2:6] + 1, "y.weight": base["y.weight"]}
    result = mapped(tmp_path, "x.one x.fused[2:6]\n", base, tuned)
    module = result["x.fused[2:6]"][0]
    assert module.shape == [4, 3]
    assert module.metric("delta_norm") == pytest.approx(12**0.5)
    assert [item.name for item in result.skipped] == ["x.fused[0:2]", "x.fused[6:10]"]
    assert {item.reason for item in result.skipped} == {"rows that --map leaves out"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.weight\n", "line 1: 1 columns"),
        ("a b c\n", "line 1: 3 columns"),
        ("\n# x\na q\n", r"line 3: 'q' is no tensor of the base"),
        ("q a\n", "line 1: 'q' is no tensor of the tuned"),
        ("a a\nb a\n", "line 2: 'a' of the base stands in line 1"),
        ("a a\na b\n", "line 2: 'a' of the tuned stands in line 1"),
        ("a a[0:99]\n", "nor rows that it has"),
        ("a a[2:2]\n", "nor rows that it has"),
        (f"{'x' * 500} a\n", "x' is no tensor of the tuned"),
    ],
)
def test_a_bad_map_is_refused_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    tensors = {"a.weight": normal(4, 3), "b.weight": normal(4, 3)}
    with pytest.raises(PairingError, match=said) as raised:
        mapped(tmp_path, text, tensors, tensors)
    assert len(str(raised.value)) < 400


def test_a_map_that_is_no_text_is_refused(tmp_path: Path, cli: Run) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path, said in (("bytes", "no UTF-8"), ("base", "is no file"), ("absent", "cannot be read")):
        done = cli("compare", base, f"t={base}", "--map", tmp_path / path)
        assert done.code == 2
        assert said in done.err


def test_a_map_names_the_modules_of_an_adapter(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    adapter = save_adapter(tmp_path / "adapter", lora_factors("other.name", 20, 16))
    path = tmp_path / "map"
    path.write_text("other.name model.layers.1.mlp.up_proj\n")
    result = wanalyze.compare(base, adapter, name_map=path)
    assert [m.name for m in result.modules if m.status is Status.measured] == ["model.layers.1.mlp.up_proj"]


class NoFile:
    """A file of which nothing is read."""

    where = name = "made up"
    size = 2**40
    is_whole = True


def listed(names: list[str], shape: tuple[int, ...]) -> Checkpoint:
    content = Raw(NoFile(), 0, 2 * 24, DTYPES["BF16"], shape)  # type: ignore[arg-type]
    return Checkpoint("c", (), {name: TensorEntry(name, content) for name in names}, {"model_type": "mixtral"})


def test_a_large_mixture_is_paired_in_time_linear_in_its_tensors() -> None:
    def seconds(experts: int) -> float:
        places = [(layer, e, part) for layer in range(20) for e in range(experts) for part in ("1", "2", "3")]
        base = listed(
            [f"model.layers.{i}.block_sparse_moe.experts.{e}.w{part}.weight" for i, e, part in places], (4, 6)
        )
        parts = {"1": "gate", "2": "down", "3": "up"}
        tuned = listed([f"model.layers.{i}.mlp.experts.{e}.{parts[part]}_proj.weight" for i, e, part in places], (4, 6))
        start = time.process_time()
        pairing = pair_checkpoint(base, tuned, Selection())
        assert len(pairing.matrices) == 60 * experts
        return time.process_time() - start

    few, many = min(seconds(40) for _ in range(3)), seconds(400)
    assert many < 40 * few
