"""Adapters with one fault each, and sound ones; a row makes its folder and names the rule that must find the fault."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import lora_factors, normal, save_checkpoint, tiny_base

LAYERS = 2
SIDES = {"self_attn.q_proj": (12, 16), "mlp.up_proj": (20, 16), "mlp.down_proj": (16, 20)}
UP = "model.layers.0.mlp.up_proj"
CARD = "---\nlicense: apache-2.0\nbase_model: org/base\n---\n# An adapter\n"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Planted:
    """`make` writes the adapter into a folder; the audit must name `code`, with the `options` of `wanalyze.audit`.

    With `with_base` the base of `tests.conftest.tiny_base` is given; `policy` is the text of a policy file.
    """

    code: str
    make: Callable[[Path], object]
    with_base: bool = False
    policy: str = ""
    says: str = ""


def factors(rank: int = 2, *, seed: int = 0, scale: float = 0.05) -> Tensors:
    """A LoRA of every matrix of the tiny base, as training leaves it: small numbers, none of them zero."""
    found: Tensors = {}
    for layer in range(LAYERS):
        for i, (name, (out, inp)) in enumerate(SIDES.items()):
            found |= lora_factors(f"model.layers.{layer}.{name}", out, inp, rank=rank, seed=seed + 10 * layer + 3 * i)
    return {name: scale * tensor for name, tensor in found.items()}


def write(
    folder: Path,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    card: str = CARD,
    config: object = None,
    **fields: object,
) -> Path:
    """An adapter as peft 0.21.2 writes one; a field given as None is left out, `config` replaces all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "up_proj", "down_proj"],
        "modules_to_save": None,
        "inference_mode": True,
        "megatron_core": "megatron.core",
        "init_lora_weights": True,
        **fields,
    }
    known = {key: value for key, value in given.items() if value is not None} if config is None else config
    (folder / "adapter_config.json").write_text(json.dumps(known))
    kept = {name: tensor.contiguous() for name, tensor in (factors() if tensors is None else tensors).items()}
    save_file(kept, folder / "adapter_model.safetensors")
    (folder / "README.md").write_text(card)
    return folder


def with_file(name: str, content: bytes = b"x") -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        path = write(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return make


def with_fields(**fields: object) -> Callable[[Path], object]:
    return lambda folder: write(folder, **fields)


def with_tensors(change: Callable[[Tensors], object], **fields: object) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        tensors = factors()
        change(tensors)
        write(folder, tensors, **fields)

    return make


def named(name: str) -> str:
    return f"base_model.model.{name}"


A, B = named(f"{UP}.lora_A.weight"), named(f"{UP}.lora_B.weight")


def put(name: str, value: Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.__setitem__(name, value)


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.__delitem__(name)


def element(name: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].__setitem__((1, 1), value)


def zeroed(tensors: Tensors) -> None:
    for name in tensors:
        if ".lora_B." in name:
            tensors[name] = torch.zeros_like(tensors[name])


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.txt"
    outside.write_text("secret")
    (write(folder) / "notes.txt").symlink_to(outside)


def dangling(folder: Path) -> None:
    (write(folder) / "notes.txt").symlink_to(folder / "nothing")


def pipe(folder: Path) -> None:
    os.mkfifo(write(folder) / "pipe")


def pickled(folder: Path) -> None:
    write(folder)
    (folder / "adapter_model.safetensors").unlink()
    torch.save(factors(), folder / "adapter_model.bin")


def both(folder: Path) -> None:
    write(folder)
    torch.save(factors(seed=5), folder / "adapter_model.bin")


FILES = [
    Planted("code-file", with_file("modeling_x.py")),
    Planted("code-file", with_file("lib/kernel.so")),
    Planted("code-file", with_file("setup.SH")),
    Planted("code-file", with_file("libkernel.so.1")),
    Planted("code-file", with_file("run.py.")),
    Planted("code-file", with_file(".git/hooks.pyw")),
    Planted("pickle-file", with_file("training_args.bin")),
    Planted("pickle-file", with_file("checkpoint-9/optimizer.pt")),
    Planted("pickled-weights", pickled),
    Planted("unopenable-file", link_out),
    Planted("unopenable-file", dangling),
    Planted("unopenable-file", pipe),
    Planted("two-weights", both),
    Planted("two-weights", with_file("adapters.safetensors")),
    Planted("odd-name", with_file("a\x1b[2Jb.txt")),
    Planted("odd-name", with_file("<img src=x onerror=alert(1)>.txt")),
    Planted("odd-name", with_tensors(put("a\u202eb.weight", normal(3, 3)), modules_to_save=["a\u202eb"])),
    Planted("name-twins", with_file("ADAPTER_CONFIG.json")),
    Planted("tokenizer-shipped", with_file("tokenizer.json")),
    Planted("tokenizer-shipped", with_file("tokenizer_config.json", b"{}"), says="can hold a chat template"),
    Planted("chat-template-shipped", with_file("CHAT_TEMPLATE.Jinja")),
    Planted("chat-template-shipped", with_file("chat_template.jinja", b"{{ cycler.__init__ }}")),
    Planted("license-missing", lambda folder: write(folder, card="# nothing")),
    Planted("license", lambda folder: write(folder), policy='licenses = ["mit"]', says="apache-2.0"),
    Planted("license", lambda folder: write(folder, card=""), policy='licenses = ["mit"]', says="no license"),
]

CONFIG = [
    Planted("bad-field", with_fields(r=0)),
    Planted("bad-field", with_fields(r=-1)),
    Planted("bad-field", with_fields(r="8; rm -rf /")),
    Planted("bad-field", with_fields(r=True)),
    Planted("bad-field", with_fields(r=10**9 * 10)),
    Planted("bad-field", with_fields(r=None), says="missing"),
    Planted("bad-field", with_fields(lora_alpha="NaN")),
    Planted("bad-field", with_fields(use_rslora="yes")),
    Planted("bad-field", with_fields(rank_pattern={"q_proj": 0})),
    Planted("bad-field", with_fields(target_modules=[["q_proj"]])),
    Planted("scale-extreme", with_fields(lora_alpha=1e30)),
    Planted("scale-extreme", with_fields(lora_alpha=-4)),
    Planted("config-code", with_fields(auto_map={"AutoModel": "evil.Model"})),
    Planted("config-code", with_fields(auto_mapping={"base_model_class": "system", "parent_library": "os"})),
    Planted("config-code", with_fields(megatron_core="evil.core")),
    Planted("config-code", with_fields(loftq_config={"tokenizer_kwargs": {"trust_remote_code": True}})),
    Planted("config-code", with_fields(_attn_implementation_internal="evil/kernel")),
    Planted("hanging-pattern", with_fields(target_modules="(([a-z])+.)+[A-Z]([a-z])+$")),
    Planted("hanging-pattern", with_fields(rank_pattern={"(a|a)*b": 2})),
    Planted("hanging-pattern", with_fields(alpha_pattern={".*.*.*.*.*.*x": 2})),
    Planted("changed-base", with_fields(init_lora_weights="pissa")),
    Planted("changed-base", with_fields(init_lora_weights="loftq")),
    Planted(
        "changed-base", with_fields(base_model_name_or_path="org/base-pissa-residual", card="---\nlicense: mit\n---\n")
    ),
    Planted("misspelt-field", with_fields(use_rslroa=True)),
    Planted("unknown-field", with_fields(written_by="a tool of the future")),
    Planted("variant", with_fields(use_rslora=True)),
    Planted("base-unnamed", with_fields(base_model_name_or_path=None)),
    Planted("base-local", with_fields(base_model_name_or_path="/home/someone/model")),
    Planted("base-local", with_fields(base_model_name_or_path="https://example.org/model")),
    Planted("card-base-differs", with_fields(base_model_name_or_path="org/other")),
]

TENSORS = [
    Planted("lone-factor", with_tensors(drop(A)), says="lora_B and no lora_A"),
    Planted("lone-factor", with_tensors(drop(B)), says="lora_A and no lora_B"),
    Planted("rank-mismatch", with_tensors(put(A, normal(3, 16))), says="cannot be multiplied"),
    Planted("rank-mismatch", with_fields(r=4), says="the config says 4"),
    Planted("rank-mismatch", with_fields(rank_pattern={"up_proj": 1}), says="the config says 1"),
    Planted("bad-shape", with_tensors(put(A, normal(16)))),
    Planted("empty-tensor", with_tensors(put(A, torch.empty(0, 16)))),
    Planted("odd-dtype", with_tensors(put(A, torch.ones(2, 16, dtype=torch.int8)))),
    Planted("not-understood", with_tensors(put(named(f"{UP}.lora_C.weight"), normal(2, 2)))),
    Planted("not-understood", with_fields(peft_type="PROMPT_TUNING")),
    Planted("not-understood", with_fields(peft_type="TOMORROW")),
    Planted("not-understood", with_tensors(put(named(f"{UP}.lora_magnitude_vector"), normal(20))), says="use_dora"),
    Planted(
        "whole-tensor",
        with_tensors(put(named("model.embed_tokens.weight"), normal(30, 16)), modules_to_save=["embed_tokens"]),
    ),
    Planted("whole-tensor", with_tensors(put(named("lm_head.weight"), normal(30, 16)), modules_to_save=["lm_head"])),
    Planted(
        "whole-tensor",
        with_tensors(put(named("model.layers.1.norm.weight"), normal(16)), modules_to_save=["norm"]),
    ),
    Planted(
        "whole-tensor",
        with_tensors(put(named("model.layers.0.mlp.gate.weight"), normal(4, 16)), modules_to_save=["gate"]),
    ),
    Planted("undeclared-tensor", with_tensors(put(named("lm_head.weight"), normal(30, 16))), says="modules_to_save"),
    Planted("undeclared-tensor", with_fields(target_modules=["q_proj"]), says="target_modules"),
    Planted("undeclared-tensor", with_fields(target_modules=r".*\.(q|up)_proj"), says="down_proj"),
    Planted("missing-target", with_fields(target_modules=["q_proj", "up_proj", "down_proj", "v_proj"]), says="v_proj"),
]

VALUES = [
    Planted("not-finite", with_tensors(element(A, float("nan"))), says="[1, 1]"),
    Planted("not-finite", with_tensors(element(B, float("-inf")))),
    Planted(
        "not-finite", with_tensors(put(named("score.weight"), normal(2, 16) * torch.inf), modules_to_save=["score"])
    ),
    Planted("not-measurable", with_tensors(element(A, 1e30), lora_alpha=1e300)),
    Planted("overflow-float16", with_tensors(element(A, 7e4))),
    Planted("overflow-float16", with_fields(lora_alpha=1e8), says="stretches"),
    Planted(
        "spike", with_tensors(put(B, torch.cat([torch.full((79, 1), 1e-4), torch.full((1, 1), 3e3)]).reshape(40, 2)))
    ),
    Planted("idle-module", with_tensors(put(B, torch.zeros(20, 2)))),
    Planted("idle-adapter", with_tensors(zeroed)),
    Planted("idle-adapter", with_fields(lora_alpha=0)),
]

BASES = [
    Planted(
        "base-misfit", lambda folder: write(folder, lora_factors("other.w", 4, 4), target_modules=["w"]), with_base=True
    ),
    Planted(
        "module-not-in-base",
        with_tensors(lambda tensors: tensors.update(lora_factors("model.layers.7.mlp.up_proj", 20, 16))),
        with_base=True,
    ),
    Planted(
        "shape-not-of-base",
        with_tensors(lambda tensors: tensors.update(lora_factors(UP, 20, 18))),
        with_base=True,
    ),
    Planted(
        "vocabulary-resized",
        with_tensors(put(named("model.embed_tokens.weight"), normal(33, 16)), modules_to_save=["embed_tokens"]),
        with_base=True,
        says="33 rows",
    ),
    Planted("base-differs", with_fields(base_model_name_or_path="org/other"), with_base=True),
    Planted("base-hash", lambda folder: write(folder), with_base=True, policy=f'base_sha256 = ["{"0" * 64}"]'),
    Planted(
        "base-hash", lambda folder: write(folder), policy=f'base_sha256 = ["{"0" * 64}"]', says="no base was given"
    ),
]

DORA = named(f"{UP}.lora_magnitude_vector")
_HEAD = put(named("lm_head.weight"), normal(30, 16))
_BASE_LAYER = put(named("model.embed_tokens.base_layer.weight"), normal(30, 16))
_ALL_MAGNITUDES = {
    named(f"model.layers.{layer}.{name}.lora_magnitude_vector"): normal(out).abs()
    for layer in range(LAYERS)
    for name, (out, _) in SIDES.items()
}


def wide(rank: int, **fields: object) -> Callable[[Path], object]:
    return lambda folder: write(folder, factors(rank), r=rank, lora_alpha=rank, **fields)


SERVERS = [
    Planted("vllm-rank", wide(17), says="17"),
    Planted("vllm-kind", with_fields(peft_type="LOHA")),
    Planted("vllm-variant", with_tensors(lambda tensors: tensors.update(_ALL_MAGNITUDES), use_dora=True)),
    Planted("vllm-initialisation", with_fields(init_lora_weights="olora")),
    Planted("vllm-saved-module", with_tensors(_HEAD, modules_to_save=["lm_head"])),
    Planted("vllm-config", with_fields(target_modules=None)),
    Planted("vllm-name", with_tensors(_HEAD, modules_to_save=["lm_head"])),
    Planted("vllm-dropped", with_tensors(_BASE_LAYER)),
    Planted("sglang-kind", with_fields(peft_type="LOHA")),
    Planted("sglang-variant", with_tensors(lambda tensors: tensors.update(_ALL_MAGNITUDES), use_dora=True)),
    Planted("sglang-target", with_fields(target_modules=r".*\.(q|up|down)_proj"), says="pattern"),
    Planted("sglang-scale", with_fields(use_rslora=True), says="0.707"),
    Planted("sglang-scale", with_fields(alpha_pattern={"q_proj": 8})),
    Planted("sglang-skipped", with_tensors(_HEAD, modules_to_save=["lm_head"])),
    Planted("tgi-kind", with_fields(peft_type="LOHA")),
    Planted("tgi-format", pickled),
    Planted("tgi-ignored", with_tensors(_HEAD, modules_to_save=["lm_head"])),
    Planted("lorax-kind", with_fields(peft_type="LOHA")),
    Planted("lorax-ignored", with_fields(rank_pattern={"nothing": 3})),
    Planted("llama-cpp-name", with_tensors(_HEAD, modules_to_save=["lm_head"])),
    Planted("llama-cpp-scale", with_fields(use_rslora=True)),
]

PLANTED = [*FILES, *CONFIG, *TENSORS, *VALUES, *BASES, *SERVERS]


# --- sound ones ---


def ia3(folder: Path) -> Path:
    vectors = {
        named(f"model.layers.{layer}.mlp.down_proj.ia3_l"): 1 + 0.1 * normal(1, 20, seed=layer)
        for layer in range(LAYERS)
    }
    fields = {"feedforward_modules": ["down_proj"], "target_modules": ["down_proj"], "r": None, "lora_alpha": None}
    return write(folder, vectors, peft_type="IA3", init_lora_weights=None, megatron_core=None, **fields)


def kohya(folder: Path) -> Path:
    folder.mkdir()
    stem = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {f"{stem}.lora_up.weight": 0.1 * normal(8, 2), f"{stem}.lora_down.weight": 0.1 * normal(2, 6, seed=1)}
    save_file({**tensors, f"{stem}.alpha": torch.tensor(2.0)}, folder / "style.safetensors")
    return folder


def patterned(folder: Path) -> Path:
    tensors = factors()
    for name, tensor in factors(4, seed=40).items():
        if "q_proj" in name:
            tensors[name] = tensor
    return write(folder, tensors, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 8})


def classifier(folder: Path) -> Path:
    tensors = {**factors(), named("score.weight"): 0.1 * normal(3, 16)}
    return write(folder, tensors, modules_to_save=["score"], task_type="SEQ_CLS")


def dora(folder: Path) -> Path:
    base = tiny_base()
    norms = {
        name: base[name.removeprefix("base_model.model.").replace("lora_magnitude_vector", "weight")].norm(dim=1)
        for name in _ALL_MAGNITUDES
    }
    return write(folder, {**factors(), **norms}, use_dora=True)


CLEAN: dict[str, Callable[[Path], Path]] = {
    "LoRA": write,
    "rsLoRA": lambda folder: write(folder, use_rslora=True),
    "DoRA": dora,
    "patterns": patterned,
    "a classifier": classifier,
    "IA3": ia3,
    "kohya": kohya,
    "a pattern of targets": lambda folder: write(
        folder, target_modules=r"^(?!.*visual).*\.(?:q_proj|up_proj|down_proj)$"
    ),
    "unsloth's": lambda folder: write(
        folder,
        auto_mapping={
            "base_model_class": "LlamaForCausalLM",
            "parent_library": "transformers.models.llama.modeling_llama",
            "unsloth_fixed": True,
        },
    ),
}


def base(folder: Path) -> Path:
    return save_checkpoint(folder / "base", tiny_base())
