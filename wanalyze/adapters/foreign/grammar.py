"""The names of an adapter's tensors as kohya's scripts, LyCORIS, diffusers, ai-toolkit and ComfyUI write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from wanalyze.checkpoints import AdapterFiles, TensorEntry
from wanalyze.errors import AdapterError

_DOWN = (
    *(".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora_A"),
    *(".lora.down.weight", "_lora.down.weight", ".lora_linear_layer.down.weight"),
)
_ALONE = (
    *(f"hada_w{i}_{side}" for i in (1, 2) for side in "ab"),
    *(f"lokr_w{i}_{side}" for i in (1, 2) for side in "ab"),
    *("hada_t1", "hada_t2", "lokr_w1", "lokr_w2", "lokr_t2", "oft_blocks", "rescale", "on_input"),
    *("diff", "diff_b", "w_norm", "b_norm", "set_weight", "reshape_weight", "alpha", "dora_scale"),
)
# What a name ends in after its module, and which part of the module that is.
ENDINGS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(_DOWN, "down"),
        **{ending.replace("lora_A", "lora_B").replace("down", "up"): "up" for ending in _DOWN},
        ".lora_mid.weight": "mid",
        ".lora_B.bias": "bias",
        **{f".{part}": part for part in _ALONE},
        **{f".{part}.weight": part for part in ("a1", "a2", "b1", "b2", "bm")},
        **dict.fromkeys((".lora.alpha", "_lora.alpha", ".lora_linear_layer.alpha"), "alpha"),
        **{f".lora_magnitude_vector{end}": "magnitude" for end in ("", ".weight", ".default.weight")},
    }
)
_LONGEST_FIRST = sorted(ENDINGS, key=len, reverse=True)
_TEXTUAL_INVERSION = re.compile(r"(?:bundle_)?emb\.|.*\.string_to_param\.")
# diffusers' attention processors had LoRA layers of their own, beside the module whose update they are.
_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out|add_[qkv]_proj|to_add_out)$")
_IN_TEXT_ENCODER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}

Modules = dict[str, dict[str, TensorEntry]]


def sorted_modules(files: AdapterFiles) -> tuple[Modules, tuple[str, ...]]:
    """The parts of every module, and notes on what is left out; AdapterError for a tensor that is not known."""
    found: Modules = {}
    tokens = 0
    switches = {name.removesuffix(".on_input") for name in files.weights.entries if name.endswith(".on_input")}
    for name, entry in files.weights.entries.items():
        if _TEXTUAL_INVERSION.match(name):
            tokens += 1
            continue
        module, part = _split(name, switches, files.name)
        parts = found.setdefault(module, {})
        if part in parts:
            raise AdapterError(
                f"{files.name}: {parts[part].name[:80]!r} and {name[:80]!r} are the same part of a module"
            )
        if 0 in entry.shape:
            raise AdapterError(f"{files.name}: tensor {name[:80]!r} is empty; save the adapter again")
        parts[part] = entry
    notes = (f"{tokens} embeddings of new tokens beside the updates are not compared",) if tokens else ()
    return found, notes


def _split(name: str, switches: Iterable[str], where: str) -> tuple[str, str]:
    """A tensor's module and part. IA3 calls its vector `weight`, and only on_input beside it tells."""
    if name.removesuffix(".weight") in switches and name.endswith(".weight"):
        return name.removesuffix(".weight"), "weight"
    for ending in _LONGEST_FIRST:
        if name.endswith(ending) and len(name) > len(ending):
            return _module(name.removesuffix(ending), ending), ENDINGS[ending]
    raise AdapterError(
        f"{where}: tensor {name[:80]!r} is no part of an update that is known, so what it does would be left out; "
        "merge the adapter with the tool that made it and compare the merged model"
    )


def _module(name: str, ending: str) -> str:
    """The module that is meant, where the name is that of a layer beside it."""
    if not ending.startswith("_lora."):
        return name.removeprefix("base_model.model.")
    if name.startswith("text_encoder"):
        path, dot, last = name.rpartition(".")
        return f"{path}{dot}{_IN_TEXT_ENCODER.get(last, last)}"
    plain = _PROCESSOR.sub(r".\1", name)
    return f"{plain}.0" if plain.endswith(".to_out") else plain
