"""Output heads that are the embedding: one matrix that is trained once and must be counted once."""

from __future__ import annotations

from dataclasses import dataclass

from wanalyze.checkpoints import TensorEntry
from wanalyze.naming import module_name
from wanalyze.pairing.pair import Pair
from wanalyze.pairing.side import Side

# Canonical names of the head, and of what it may be tied to.
_TIES = (
    ("lm_head", ("embed_tokens", "wte", "embed_in", "word_embeddings", "shared", "embeddings")),
    ("proj_out", ("decoder.embed_tokens",)),
)
_LAST = {part.rpartition(".")[2] for head, tables in _TIES for part in (head, *tables)} | {"embed_out"}


@dataclass(frozen=True)
class Ends:
    """The embedding of a side and its head; None where it has none, or several."""

    embedding: TensorEntry | None = None
    head: TensorEntry | None = None


def ends_of(side: Side) -> Ends:
    """The two ends of a language model that may be one matrix."""
    named = [
        (side.module(name), entry)
        for name, entry in side.entries.items()
        if len(entry.shape) == 2 and module_name(name).rpartition(".")[2] in _LAST
    ]
    for head, tables in _TIES:
        heads = [entry for module, entry in named if module == head]
        embeddings = [entry for module, entry in named if module in tables]
        if (heads or embeddings) and len(heads) <= 1 and len(embeddings) <= 1:
            return Ends(embeddings[0] if embeddings else None, heads[0] if heads else None)
    return Ends()


@dataclass(frozen=True)
class Tied:
    """A head that one side stores and the other is tied by; `head` is the name of its tensor."""

    pair: Pair
    head: str
    in_tuned: bool


def embedding_for(side: Side, target: str) -> TensorEntry | None:
    """The embedding under the name of a head that is meant and not stored, because it is the embedding."""
    if side.module(target) not in {head for head, _ in _TIES} or side.architecture.is_tied is False:
        return None
    ends = ends_of(side)
    return None if ends.head is not None or ends.embedding is None else TensorEntry(target, ends.embedding.content)


def tied_to(side: Side, head: TensorEntry) -> str | None:
    """What a reader must know of such a stand-in; None for a tensor that the side stores by its own name."""
    if head.name in side.entries or (embedding := ends_of(side).embedding) is None:
        return None
    return f"tied to {module_name(embedding.name)} in the {side.whose}"


def counted_there(base: Side, tuned: Side, before: Ends, after: Ends) -> str | None:
    """Why the heads of two models that end so are left out: they are their embeddings, stored again or not.

    Both must say so. A base may say it by having no head; a tuned only by its config.json, because leaving out a
    head that was trained apart would hide it, and to compare one twice hides nothing.
    """
    is_tied = base.architecture.is_tied or (base.architecture.is_tied is None and before.head is None)
    if not is_tied or not tuned.architecture.is_tied or before.embedding is None or after.embedding is None:
        return None
    return f"tied to {module_name(before.embedding.name)}, counted there"


def tied_pair(base: Side, tuned: Side, before: Ends, after: Ends) -> Tied | None:
    """A head that one side stores, against the embedding that is the head of the other.

    A base is tied if it has no head at all and its config does not deny it; a tuned only if its config says so,
    since what was saved of it may be a bare model.
    """
    if before.head is None and after.head is not None and before.embedding is not None:
        if base.architecture.is_tied is False:
            return None
        note = f"tied to {module_name(before.embedding.name)} in the base"
        stand_in = TensorEntry(after.head.name, before.embedding.content)
        return Tied(Pair(stand_in, after.head, note=note), after.head.name, in_tuned=True)
    if before.head is not None and after.head is None and after.embedding is not None and tuned.architecture.is_tied:
        note = f"tied to {module_name(after.embedding.name)} in the tuned"
        return Tied(Pair(before.head, after.embedding, note=note), before.head.name, in_tuned=False)
    return None
