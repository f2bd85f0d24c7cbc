"""Stacks of experts: a tensor (experts, out, in), or (experts, in, out), that holds a matrix of each."""

from __future__ import annotations

import re

from wanalyze.checkpoints import TensorEntry
from wanalyze.checkpoints.content import item, picked
from wanalyze.checkpoints.experts import IN_FIRST, MOST_EXPERTS
from wanalyze.pairing.atom import Atom, Composite, Span
from wanalyze.pairing.pair import Pair
from wanalyze.pairing.side import Side, part_of

# `experts` with a number behind it is a list of experts, each with tensors of its own.
_STACK = re.compile(r"(?P<experts>(?:.*\.)?experts)\.(?P<part>(?!\d+(?:\.|$)).+)")
_BIAS = re.compile(r"[._]bias$")
_FUSED = "gate_up_proj"

# Besides IN_FIRST, how transformers 5 lays the stacks of a family out, where the shapes of its two stacks do not tell.
_OUT_FIRST = frozenset(
    {
        *("mixtral", "minimax", "minimax_m2", "phimoe", "kimi_linear", "qwen2_moe", "qwen3_moe", "qwen3_next"),
        *("qwen3_omni_moe", "qwen3_5_moe", "qwen3_5_moe_text", "deepseek_v2", "deepseek_v3", "deepseek_v32"),
        *("deepseek_v4", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "olmoe", "flex_olmo", "dots1"),
        *("ernie4_5_moe", "hunyuan_v1_moe", "jamba", "lfm2_moe", "granitemoe", "granitemoeshared", "nemotron_h"),
        *("granitemoehybrid", "gemma4", "gemma4_text", "exaone_moe", "longcat_flash", "afmoe", "solar_open", "hy_v3"),
    }
)
_KNOWN = IN_FIRST | _OUT_FIRST | {"qwen3_vl_moe", "qwen3_vl_moe_text"}  # gate before up, or by turns
_INTERLEAVED = frozenset({"gpt_oss"})  # gate and up row by row in turns, not one after the other


def is_stack(side: Side, entry: TensorEntry) -> bool:
    """Whether a tensor holds something of every expert of a layer: a matrix, or a bias."""
    if len(entry.shape) not in (2, 3):
        return False
    if len(entry.shape) == 2 and not _BIAS.search(entry.name):
        return False
    return _STACK.fullmatch(side.module(entry.name)) is not None


def expert_pairs(base: Side, tuned: Side, before: TensorEntry, after: TensorEntry | None) -> list[Pair] | str:
    """A pair for every expert of stacks that both sides have; the reason where they cannot be told apart."""
    if reason := _unfit(before):
        return reason
    transposed = is_transposed(base, tuned, before)
    if transposed is None:
        return _unknown(base, before)
    if after is None:
        return [Pair(_item(before, e), None, transposed=transposed) for e in range(before.shape[0])]
    turns = _turns(base, tuned, before, after)
    if turns is None:
        return f"other shape: {list(before.shape)} in the base, {list(after.shape)} in the tuned"
    found = []
    for e in range(before.shape[0]):
        one, other = Atom("", _item(before, e), transposed), Atom("", _item(after, e), transposed != turns)
        found.append(Pair(one.entry, other.stored_as(one), transposed=transposed))
    return found


def _turns(base: Side, tuned: Side, before: TensorEntry, after: TensorEntry) -> bool | None:
    """Whether the tuned stores the other way round; None where the two do not fit at all."""
    if after.shape != before.shape:
        fits = len(before.shape) == 3 and after.shape == (before.shape[0], before.shape[2], before.shape[1])
        return True if fits else None
    if len(before.shape) == 2 or before.shape[1] != before.shape[2]:
        return False
    return is_transposed(tuned, base, after) != is_transposed(base, tuned, before)


def is_transposed(side: Side, other: Side, entry: TensorEntry) -> bool | None:
    """Whether a stack is (experts, in, out); None where neither shapes nor model type tell."""
    found = _STACK.fullmatch(side.module(entry.name))
    assert found is not None
    if len(entry.shape) == 2 or ".switch_mlp." in entry.name:  # MLX stores (experts, out, in)
        return False
    fused, down = (side.stacked.get(f"{found['experts']}.{part}") for part in (_FUSED, "down_proj"))
    if fused is not None and down is not None:
        (_, a, b), (_, c, d) = fused.shape, down.shape
        if (a == 2 * d and b == c) or (b == 2 * c and a == d):
            return b == 2 * c
    types = side.architecture.types or other.architecture.types
    in_first, out_first = bool(types & IN_FIRST), bool(types & _OUT_FIRST)
    return None if in_first == out_first else in_first


def composite(side: Side, other: Side, entry: TensorEntry) -> Composite:
    """A stack as the tensors that a checkpoint with a list of experts has in its place."""
    found = _STACK.fullmatch(side.module(entry.name))
    assert found is not None
    end = ".bias" if _BIAS.search(found["part"]) else ".weight"
    part = _BIAS.sub("", found["part"])
    count = entry.shape[0] if not _unfit(entry) else 0
    parts = _parts(part)
    keys = tuple(f"{found['experts']}.{e}.{one}{end}" for e in range(count) for one in parts)
    return Composite(entry, keys, lambda: _cut(side, other, entry, keys, parts))


def spans_of(side: Side, module: str, expert: int, rows: int | None) -> dict[str, Span | None] | str:
    """The keys of what an expert of a stack of that canonical name and so many rows holds, and its rows."""
    found = _STACK.fullmatch(module)
    if found is None:
        return "no stack of experts by its name"
    keys = [f"{found['experts']}.{expert}.{part}.weight" for part in _parts(found["part"])]
    if len(keys) == 1:
        return {keys[0]: None}
    types = side.architecture.types
    if rows is None or rows % 2 or not types & _KNOWN:
        return (
            "gate and up are fused in the adapter, split in the base, and their layout is not known "
            f"({side.architecture.said}); put the base's config.json beside it"
        )
    return dict(zip(keys, _halves(rows, types), strict=True))


def _parts(part: str) -> tuple[str, ...]:
    return ("gate_proj", "up_proj") if part == _FUSED else (part,)


def _halves(rows: int, types: frozenset[str]) -> tuple[Span, Span]:
    """The rows of gate and of up."""
    groups = rows // 2 if types & _INTERLEAVED else 1
    half = rows // groups // 2
    return Span(groups, 0, half), Span(groups, half, 2 * half)


def _cut(
    side: Side, other: Side, entry: TensorEntry, keys: tuple[str, ...], parts: tuple[str, ...]
) -> list[Atom] | str:
    transposed = is_transposed(side, other, entry)
    if transposed is None:
        return _unknown(side, entry)
    experts = [_item(entry, e) for e in range(entry.shape[0])]
    if len(parts) == 1:
        return [Atom(key, expert, transposed) for key, expert in zip(keys, experts, strict=True)]
    # The same part of a base must be the same matrix whatever it is compared with, so that only its own config counts.
    types = side.architecture.types or (other.architecture.types if side.whose == "tuned" else frozenset())
    if not types & _KNOWN:
        return (
            f"gate and up are fused in the {side.whose}, split in the {other.whose}, and their layout is not known "
            f"({side.architecture.said}); give --map"
        )
    axis = len(experts[0].shape) - 1 if transposed else 0
    rows = experts[0].shape[axis]
    if rows % 2:
        return f"gate and up are fused in the {side.whose}, but its {rows} rows are no two halves"
    halves = [
        TensorEntry(part_of(expert.name, part.removesuffix("_proj")), picked(expert.content, *span, axis=axis))
        for expert in experts
        for part, span in zip(parts, _halves(rows, types), strict=True)
    ]
    return [Atom(key, half, transposed) for key, half in zip(keys, halves, strict=True)]


def _item(entry: TensorEntry, expert: int) -> TensorEntry:
    return TensorEntry(part_of(entry.name, str(expert)), item(entry.content, expert))


def _unfit(entry: TensorEntry) -> str:
    if 0 in entry.shape:
        return f"not a matrix: shape {list(entry.shape)}"
    if entry.shape[0] > MOST_EXPERTS:
        return f"a stack of {entry.shape[0]} experts, more than the {MOST_EXPERTS} that are taken apart"
    return ""


def _unknown(side: Side, entry: TensorEntry) -> str:
    return (
        f"a stack of experts {list(entry.shape)} of which it is not known whether it stores (out, in) or (in, out): "
        f"neither gate_up_proj beside down_proj nor {side.architecture.said} tells in the {side.whose}"
    )
