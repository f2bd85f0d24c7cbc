"""ggml's names of tensors, and those that Hugging Face gives to the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_BLOCK = re.compile(r"blk\.(?P<layer>[0-9]{1,5})\.(?P<part>[a-z_]+)\.(?P<end>weight|bias)")
_STACK = re.compile(r"ffn_(?P<matrix>gate|up|down)_exps")
_ROUTER = "ffn_gate_inp"

_OUTSIDE = MappingProxyType(
    {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
)
_INSIDE = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)


@dataclass(frozen=True)
class Experts:
    """Of a mixture of experts: its model type, where router and experts lie, what the matrices of one are called."""

    model_type: str
    module: str
    matrices: Mapping[str, str]


@dataclass(frozen=True)
class Dialect:
    """What llama.cpp makes of an architecture: `permuted` names the parts whose rows it reorders for RoPE.

    `model_type` is Hugging Face's, with `experts` that of the variant which has none.
    """

    model_type: str
    permuted: frozenset[str] = frozenset()
    experts: Experts | None = None


_PERMUTED = frozenset({"attn_q", "attn_k"})
_MIXTRAL = Experts("mixtral", "block_sparse_moe", {"gate": "w1", "down": "w2", "up": "w3"})
_QWEN = Experts("qwen3_moe", "mlp", {"gate": "gate_proj", "down": "down_proj", "up": "up_proj"})

# By `general.architecture`; from llama.cpp's folder conversion/ as of November 2026. Mistral is a llama there, and
# mistral3 the language model of Mistral 3 and Ministral 3. Left out are architectures whose numbers the conversion
# changes (the norms of gemma are stored plus 1), or whose tensors it fuses, splits or reshapes.
DIALECTS: MappingProxyType[str, Dialect] = MappingProxyType(
    {
        "llama": Dialect("llama", _PERMUTED, _MIXTRAL),
        "mistral3": Dialect("ministral3", _PERMUTED),
        "qwen2": Dialect("qwen2"),
        "qwen3": Dialect("qwen3"),
        "qwen3moe": Dialect("qwen3_moe", experts=_QWEN),
    }
)


@dataclass(frozen=True)
class Meaning:
    """What a tensor is to Hugging Face. With `stack`, a matrix for every expert, `{}` standing for its number.

    `part` and `layer` are llama.cpp's, empty and None outside of the layers.
    """

    name: str
    part: str = ""
    layer: int | None = None
    is_stack: bool = False


def meaning_of(name: str, dialect: Dialect) -> Meaning | None:
    """What llama.cpp's name of a tensor means; None for what Hugging Face does not have, or is not known to.

    >>> meaning_of("blk.3.attn_q.weight", DIALECTS["llama"]).name
    'model.layers.3.self_attn.q_proj.weight'
    >>> meaning_of("blk.3.ffn_up_exps.weight", DIALECTS["llama"]).name
    'model.layers.3.block_sparse_moe.experts.{}.w3.weight'
    """
    if name in _OUTSIDE:
        return Meaning(_OUTSIDE[name])
    found = _BLOCK.fullmatch(name)
    if found is None:
        return None
    prefix, part, end = f"model.layers.{found['layer']}", found["part"], found["end"]
    if part in _INSIDE:
        return Meaning(f"{prefix}.{_INSIDE[part]}.{end}", part, int(found["layer"]))
    if (experts := dialect.experts) is None:
        return None
    if part == _ROUTER:
        return Meaning(f"{prefix}.{experts.module}.gate.{end}", part, int(found["layer"]))
    if stack := _STACK.fullmatch(part):
        matrix = experts.matrices[stack["matrix"]]
        return Meaning(
            f"{prefix}.{experts.module}.experts.{{}}.{matrix}.{end}", part, int(found["layer"]), is_stack=True
        )
    return None
