"""Updates that are a product of two factors, in the layouts of several tools."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Parts, Update
from wanalyze.adapters.dora import directed
from wanalyze.adapters.foreign.module import Module
from wanalyze.checkpoints import TensorEntry
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_EMBEDDINGS = {"embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "embeddings", "shared"}


def straight(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    """The product s · up @ down, of up (out, r) and down (r, inp)."""
    return LowRank(parts["up"], parts["down"], scale)


def turned(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    """The product s · upᵀ @ downᵀ, of down (inp, r) and up (r, out)."""
    return LowRank(parts["up"].mT, parts["down"].mT, scale)


def product_of(module: Module, scale: float, *, index: int | None = None) -> Update:
    """The update of up (out, r) and down (r, inp), with DoRA's magnitudes if the module has them."""
    up, down = (module.shape(part, dimensions=(2,)) for part in ("up", "down"))
    rank = module.agree(up[1], down[0], what="the rank")
    found = Update(
        module.name, module.parts, partial(straight, scale=scale), (up[0], down[1]), rank, scale, index=index
    )
    return with_magnitude(module, found)


def with_magnitude(module: Module, update: Update) -> Update:
    """DoRA around an update, whose norm is that of every row."""
    entry: TensorEntry | None = module.parts.get("magnitude")
    if entry is None:
        return update
    assert update.shape is not None, "of a product"
    if entry.shape not in ((update.shape[0],), (update.shape[0], 1)):
        module.refuse(f"has {entry.shape} magnitudes for {update.shape[0]} rows; one must be mended")
    build = partial(directed, inner=update.build, magnitude="magnitude", norm_of="outputs", module=module.name)
    return Update(
        update.module, update.parts, build, update.shape, None, update.scale, needs_base=True, index=update.index
    )


def by_tokens(module: Module, scale: float) -> Update:
    """The update of an embedding, rows as tokens, of down (r, tokens) and up (width, r)."""
    up, down = (module.shape(part, dimensions=(2,)) for part in ("up", "down"))
    rank = module.agree(up[1], down[0], what="the rank")
    parts = {"up": module.parts["up"], "down": module.parts["down"]}
    return Update(module.name, parts, partial(turned, scale=scale), (down[1], up[0]), rank, scale)


def is_embedding(module: str) -> bool:
    """Whether a module is one by its name."""
    return module.rpartition(".")[2] in _EMBEDDINGS


def kind_of(parts: Mapping[str, TensorEntry]) -> str:
    """What users call it."""
    return "DoRA" if "magnitude" in parts else "LoRA"
