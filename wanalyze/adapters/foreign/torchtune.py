"""Adapters of torchtune: its own names of modules, and of Llama's queries and keys the order of rows that Meta has."""

from __future__ import annotations

import re

from wanalyze.adapters.adapter import Adapter
from wanalyze.adapters.foreign.assembly import assembled
from wanalyze.adapters.foreign.configs import Fields, Number, fields_of
from wanalyze.adapters.foreign.endings import by_endings, refuse_rest
from wanalyze.adapters.foreign.heads import Heads, fields_of_language, heads_of, in_halves
from wanalyze.adapters.foreign.module import Changes, Module
from wanalyze.adapters.foreign.products import kind_of, product_of
from wanalyze.adapters.peft import Positive
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError

_ENDINGS = {".lora_a.weight": "down", ".lora_b.weight": "up", ".magnitude": "magnitude"}
_LAYER = re.compile(r"layers\.(?P<layer>[0-9]{1,5})\.(?P<part>.+)")
_HUGGING_FACE = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}
_META = {
    "attn.q_proj": "attention.wq",
    "attn.k_proj": "attention.wk",
    "attn.v_proj": "attention.wv",
    "attn.output_proj": "attention.wo",
    **{f"mlp.w{i}": f"feed_forward.w{i}" for i in (1, 2, 3)},
}
_OUTSIDE = {"tok_embeddings": "model.embed_tokens", "output": "lm_head"}
# Whether torchtune reorders the rows of queries and keys when it loads such a model.
_REORDERED = {"llama": True, "mistral": True, "gemma": True, "gemma2": True, "qwen2": False, "qwen3": False}


class _Config(Fields):
    r: Positive | None = None
    lora_alpha: Number


def parse_torchtune(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of torchtune's own file; what it saves for peft beside it is an adapter of peft."""
    if "lora_alpha" not in files.config:
        raise AdapterError(
            f"{files.name}: an adapter of torchtune, which does not store alpha; put adapter_config.json with r and "
            "lora_alpha of the recipe beside it"
        )
    config = fields_of(files.config, _Config, where=f"{files.name}: adapter_config.json")
    modules, rest = by_endings(files, _ENDINGS)
    refuse_rest(rest, tool="torchtune", where=files.name)
    changes = Changes()
    for name, parts in modules.items():
        module = _as_in(base, Module(files.name, name, parts))
        rank = module.shape("down", dimensions=(2,))[0]
        if config.r not in (None, rank):
            module.refuse(f"has rank {rank}, adapter_config.json gives it {config.r}; one must be mended")
        changes.updates.append(product_of(module, config.lora_alpha / rank))
        changes.algorithms.append((kind_of(parts), rank))
    return assembled(files, changes, tool="torchtune", scale_rule="alpha / r, alpha from adapter_config.json")


def _as_in(base: Checkpoint | None, module: Module) -> Module:
    """The module by the name that the base has for it, with its rows in the base's order."""
    found = _LAYER.fullmatch(module.name)
    part = found["part"] if found else ""
    if base is None or f"{module.name}.weight" in base.entries:
        return module
    meta = f"layers.{found['layer']}.{_META[part]}" if found and part in _META else module.name
    if f"{meta}.weight" in base.entries:
        return Module(module.where, meta, module.parts)
    if found and part in _HUGGING_FACE:
        name = f"model.layers.{found['layer']}.{_HUGGING_FACE[part]}"
        return Module(module.where, name, _ordered(module, part, base))
    return Module(module.where, _OUTSIDE.get(module.name, module.name), module.parts)


def _ordered(module: Module, part: str, base: Checkpoint) -> dict[str, TensorEntry]:
    parts = dict(module.parts)
    if part not in ("attn.q_proj", "attn.k_proj") or not _is_reordered(module, base):
        return parts
    heads: Heads = heads_of(base, where=module.where, why="torchtune orders the rows of queries and keys by heads")
    count = heads.queries if part == "attn.q_proj" else heads.keys
    for name in ("up", "magnitude"):
        if name in parts:
            parts[name] = in_halves(parts[name], count, where=module.where)
    return parts


def _is_reordered(module: Module, base: Checkpoint) -> bool:
    kind = fields_of_language(base.config).get("model_type")
    if not isinstance(kind, str) or kind not in _REORDERED:
        raise AdapterError(
            f"{module.where}: whether torchtune reorders the rows of queries and keys is known for model_type "
            f"{', '.join(_REORDERED)}, not for {str(kind)[:40]!r}; save the adapter for peft, or give config.json"
        )
    return _REORDERED[kind]
