"""Fused weights: queries, keys and values in one tensor, or gate and up; how each family lays them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from wanalyze.checkpoints import TensorEntry
from wanalyze.checkpoints.content import picked
from wanalyze.naming import module_name
from wanalyze.pairing.architecture import Architecture, Heads
from wanalyze.pairing.atom import Atom, Composite, Span
from wanalyze.pairing.side import Side, part_of

Rule: TypeAlias = "Callable[[Architecture, int], list[Span] | None]"


def _spans(groups: int, sizes: Sequence[int]) -> list[Span]:
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [Span(groups, stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


def _in_turn(heads: Heads) -> list[Span]:
    """All queries, all keys, all values."""
    return _spans(1, [count * heads.dimension for count in (heads.queries, heads.keys, heads.keys)])


def _by_head(heads: Heads) -> list[Span]:
    """For every head its query, its key, its value."""
    return _spans(heads.queries, [heads.dimension] * 3)


def _by_key(heads: Heads) -> list[Span] | None:
    """For every head of keys its queries, itself, its value."""
    if heads.queries % heads.keys:
        return None
    return _spans(heads.keys, [heads.queries // heads.keys * heads.dimension, heads.dimension, heads.dimension])


def _chatglm(heads: Heads, of: Architecture) -> list[Span] | None:
    """Keys are in groups if it says so, of as many heads as it says."""
    if not of.flag("multi_query_attention"):
        return _in_turn(heads)
    groups = of.count("multi_query_group_num")
    return None if groups is None else _in_turn(replace(heads, keys=groups))


def _bigcode(heads: Heads, of: Architecture) -> list[Span] | None:
    """One head of keys for all queries, or one for each."""
    shared = of.flag("multi_query")
    if shared is None:
        return None
    return _in_turn(replace(heads, keys=1)) if shared else _by_head(heads)


def _falcon(heads: Heads, of: Architecture) -> list[Span] | None:
    """By heads of keys in the newer ones, otherwise as GPT-BigCode."""
    is_new = of.flag("new_decoder_architecture")
    if is_new is None:
        return None
    return _by_key(heads) if is_new else _bigcode(heads, of)


def _heads(rule: Callable[[Heads, Architecture], list[Span] | None]) -> Rule:
    def spans(of: Architecture, _: int) -> list[Span] | None:
        return None if (heads := of.heads()) is None else rule(heads, of)

    return spans


def _equal(parts: int) -> Rule:
    """So many parts of equal size, one after the other."""
    return lambda of, rows: _spans(1, [rows // parts] * parts)


_IN_TURN = _heads(lambda heads, of: _in_turn(heads))
_BY_HEAD = _heads(lambda heads, of: _by_head(heads))
_BY_KEY = _heads(lambda heads, of: _by_key(heads))


class Layout(NamedTuple):
    """For models of these types: which parts a tensor of this name holds, in which order and where."""

    fused: str
    types: frozenset[str]
    parts: tuple[str, ...]
    rule: Rule


_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")
_PHI3 = {"phi3", "phi3_v", "phi4_multimodal"}
# Split in transformers; whoever stores them fused has them from vLLM or SGLang, which do it in one way only.
_SERVED = {
    *("llama", "mistral", "mistral3", "ministral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma"),
    *("gemma2", "gemma3", "gemma3_text", "olmo2", "olmo3", "granite", "smollm3", "starcoder2", "cohere", "cohere2"),
}
_GLM = {"glm", "glm4", "glm4v", "glm4v_text", "glm_ocr"}

LAYOUTS = (
    Layout("c_attn", frozenset({"gpt2", "imagegpt", "decision_transformer", "openai-gpt", "qwen"}), _QKV, _equal(3)),
    Layout("c_attn", frozenset({"gpt_bigcode"}), _QKV, _heads(_bigcode)),
    Layout("qkv_proj", frozenset(_PHI3 | _SERVED), _QKV, _IN_TURN),
    Layout("qkv_proj", frozenset({"gte"}), _QKV, _equal(3)),
    Layout("query_key_value", frozenset({"chatglm"}), _QKV, _heads(_chatglm)),
    Layout(
        "query_key_value",
        frozenset({"gpt_neox", "gpt_neox_japanese", "bloom", "persimmon"}),
        _QKV,
        _BY_HEAD,
    ),
    Layout("query_key_value", frozenset({"falcon"}), _QKV, _heads(_falcon)),
    Layout("Wqkv", frozenset({"mpt", "dbrx"}), _QKV, _IN_TURN),
    Layout("Wqkv", frozenset({"modernbert", "nomic_bert", "jina_embeddings_v3"}), _QKV, _equal(3)),
    Layout("W_pack", frozenset({"baichuan"}), _QKV, _equal(3)),
    Layout("wqkv", frozenset({"internlm2"}), _QKV, _BY_KEY),
    Layout("qkv", frozenset(), _QKV, lambda of, rows: None),
    Layout("gate_up_proj", frozenset(_PHI3 | _SERVED | _GLM), _GATE_UP, _equal(2)),
    Layout("weights_in", frozenset({"dinov2", "dinov2_with_registers"}), _GATE_UP, _equal(2)),
    Layout("up_gate_proj", frozenset({"gte"}), ("up_proj", "gate_proj"), _equal(2)),
)
_BY_NAME = {name: [row for row in LAYOUTS if row.fused == name] for name in {row.fused for row in LAYOUTS}}
# What the split tensors are called as well.
_ALIASES = {
    **dict.fromkeys(("query", "q", "wq", "to_q"), "q_proj"),
    **dict.fromkeys(("key", "k", "wk", "to_k"), "k_proj"),
    **dict.fromkeys(("value", "v", "wv", "to_v"), "v_proj"),
}


def key_of(canonical: str) -> str:
    """The key of a tensor that is one part of a fused one, or of a stack, by its canonical name.

    >>> key_of("h.0.attn.wq.weight")
    'h.0.attn.q_proj.weight'
    """
    module, end = _split(canonical)
    path, dot, kind = module.rpartition(".")
    return f"{path}{dot}{_ALIASES.get(kind, kind)}{end}"


def composite(side: Side, other: Side, entry: TensorEntry) -> Composite | None:
    """A fused weight, or its bias, as its parts; None for a tensor that is not fused by its name."""
    module, end = _split(side.names.canonical(entry.name))
    path, dot, kind = module.rpartition(".")
    rows = _BY_NAME.get(kind)
    if rows is None or len(entry.shape) not in (1, 2) or 0 in entry.shape:
        return None
    layout = next((row for row in rows if row.types & side.architecture.types), None)
    keys = tuple(f"{path}{dot}{part}{end}" for part in (layout or rows[0]).parts)
    return Composite(entry, keys, lambda: _cut(side, other, entry, keys, layout))


def _cut(side: Side, other: Side, entry: TensorEntry, keys: tuple[str, ...], layout: Layout | None) -> list[Atom] | str:
    transposed = len(entry.shape) == 2 and side.is_conv1d(entry)
    axis = int(transposed)
    rows = entry.shape[axis]
    where = f"fused in the {side.whose}, split in the {other.whose}"
    spans = layout and layout.rule(side.architecture, rows)
    if not layout or not spans:
        return f"{where}, and its layout is not known ({side.architecture.said}); give --map"
    if spans[-1].groups * spans[-1].stop != rows:
        expected = spans[-1].groups * spans[-1].stop
        return f"{where}, but it has {rows} rows where config.json makes it {expected}; give --map"
    names = [part_of(entry.name, part.removesuffix("_proj")) for part in layout.parts]
    return [
        Atom(key, TensorEntry(name, picked(entry.content, *span, axis=axis)), transposed)
        for key, name, span in zip(keys, names, spans, strict=True)
    ]


def _split(tensor: str) -> tuple[str, str]:
    for end in (".weight", ".bias"):
        if tensor.endswith(end):
            return tensor.removesuffix(end), end
    return module_name(tensor), ""


def spans_of(side: Side, module: str, rows: int | None) -> dict[str, Span | None]:
    """The keys of what a module of that canonical name and so many rows holds, and its rows; itself if not known."""
    path, dot, kind = module.rpartition(".")
    layout = next((row for row in _BY_NAME.get(kind, ()) if row.types & side.architecture.types), None)
    spans = layout.rule(side.architecture, rows) if layout and rows is not None else None
    if not layout or not spans or spans[-1].groups * spans[-1].stop != rows:
        return {key_of(f"{module}.weight"): None}
    return {f"{path}{dot}{part}.weight": span for part, span in zip(layout.parts, spans, strict=True)}
