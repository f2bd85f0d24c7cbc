"""LoRA adapters that llama.cpp converted: its names of tensors, and its order of the rows of queries and keys."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.foreign.assembly import assembled
from wanalyze.adapters.foreign.endings import by_endings
from wanalyze.adapters.foreign.heads import heads_of, in_halves
from wanalyze.adapters.foreign.module import Changes, Module
from wanalyze.adapters.foreign.products import product_of
from wanalyze.checkpoints import AdapterFiles, Checkpoint
from wanalyze.checkpoints.gguf.names import DIALECTS, Dialect, meaning_of
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_ENDINGS = {".weight.lora_a": "down", ".weight.lora_b": "up"}
_ALPHA, _TYPE, _TOKENS = "adapter.lora.alpha", "adapter.type", "adapter.alora.invocation_tokens"
_EMBEDDING = "token_embd"


def parse_llama_cpp(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a GGUF file whose general.type is adapter."""
    metadata = files.weights.metadata
    if (kind := metadata.get(_TYPE, "lora")) != "lora":
        raise AdapterError(f"{files.name}: {_TYPE} is {kind[:40]!r}, of llama.cpp's adapters only lora is known")
    alpha = _alpha(files)
    dialect = DIALECTS.get(metadata.get("general.architecture", ""))
    modules, rest = by_endings(files, _ENDINGS)
    changes = Changes()
    for name, parts in modules.items():
        update = _update(Module(files.name, name, parts), alpha, dialect, base)
        changes.updates.append(update)
        changes.algorithms.append(("LoRA", update.rank))
    return assembled(
        files,
        changes,
        tool="llama.cpp",
        scale_rule=f"alpha / r, {_ALPHA} of the file; 1 where it is 0",
        facts={"alpha": alpha},
        notes=_notes(files, list(rest), dialect, base),
    )


def _alpha(files: AdapterFiles) -> float:
    text = files.weights.metadata.get(_ALPHA)
    try:
        found = float(text) if text is not None else None
    except ValueError:
        found = None
    if found is None or not abs(found) < float("inf"):
        raise AdapterError(f"{files.name}: {_ALPHA} is {str(text)[:40]}, so the scale is unknown; convert it again")
    return found


def _update(module: Module, alpha: float, dialect: Dialect | None, base: Checkpoint | None) -> Update:
    rank = module.shape("up", dimensions=(2,))[1]
    scale = alpha / rank if alpha else 1.0  # as llama.cpp itself takes it
    meaning = meaning_of(f"{module.name}.weight", dialect) if dialect else None
    if dialect is None or meaning is None:
        return product_of(module, scale)
    parts = dict(module.parts)
    if meaning.part in dialect.permuted and base is not None:
        heads = heads_of(base, where=module.where, why="llama.cpp orders the rows of queries and keys by heads")
        count = heads.queries if meaning.part == "attn_q" else heads.keys
        parts["up"] = in_halves(parts["up"], count, where=module.where)
    named = Module(module.where, meaning.name.removesuffix(".weight"), parts)
    if module.name != _EMBEDDING:
        return product_of(named, scale)
    # lora_a (tokens, r), lora_b (width, r): ΔW = s · A Bᵀ, rows as tokens.
    tokens, width = (named.shape(part, dimensions=(2,)) for part in ("down", "up"))
    named.agree(tokens[1], width[1], what="the rank")
    swapped = {"up": parts["down"], "down": parts["up"]}
    return Update(named.name, swapped, partial(_by_tokens, scale=scale), (tokens[0], width[0]), rank, scale)


def _by_tokens(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    return LowRank(parts["up"], parts["down"].mT, scale)


def _notes(files: AdapterFiles, rest: list[str], dialect: Dialect | None, base: Checkpoint | None) -> list[str]:
    found = []
    if rest:
        found.append(f"llama.cpp leaves {len(rest)} norms of this adapter out ({rest[0][:80]}), and so are they here")
    if _TOKENS in files.weights.metadata:
        found.append("conditional: an aLoRA, active only after its invocation tokens")
    if dialect is None:
        found.append("names are llama.cpp's: the architecture's conversion is not known")
    elif dialect.permuted and base is None:
        found.append("without a base, rows of queries and keys are in llama.cpp's order")
    return found
