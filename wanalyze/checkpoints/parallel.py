"""A model that a tensor-parallel run of Meta's wrote: every file holds a part of every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.content import Content, Joined
from wanalyze.checkpoints.formats import Listing
from wanalyze.errors import CheckpointError

# Along which axis each kind of weight is cut; None of those that every file has whole.
_AXES: Mapping[str, int | None] = {
    **dict.fromkeys(("wq", "wk", "wv", "w1", "w3", "output"), 0),
    **dict.fromkeys(("wo", "w2"), 1),
    **dict.fromkeys(("norm", "attention_norm", "ffn_norm", "freqs"), None),
}
_EMBEDDING, _NORM, _SQUARE = "tok_embeddings.weight", "norm.weight", ".attention.wq.weight"


def join(listings: Sequence[Listing], *, where: str) -> Listing:
    """One model of its files in their order; CheckpointError where they do not belong to one another.

    The cut is that of Meta's `llama` (ColumnParallelLinear, RowParallelLinear, ParallelEmbedding), and from Llama 3 on
    the embedding is cut along the vocabulary: how long the last norm is says which.
    """
    parts = [{entry.name: entry.content for entry in listing.entries} for listing in listings]
    if any(part.keys() != parts[0].keys() for part in parts):
        _refuse(where, "do not hold the same tensors")
    width = parts[0][_NORM].shape[-1:] if _NORM in parts[0] else ()
    found = {name: _whole(where, name, [part[name] for part in parts], width) for name in parts[0]}
    for name, content in found.items():
        if (name == _EMBEDDING or name.endswith(_SQUARE)) and content.shape[1:] != width:
            _refuse(where, f"make {name[:80]!r} {list(content.shape)}, which does not fit a norm of {list(width)}")
        if name.endswith(_SQUARE) and content.shape[:1] != width:
            _refuse(where, f"make {name[:80]!r} {list(content.shape)}, which is not square: some file is missing")
    note = f"{len(parts)} files of a tensor-parallel run were joined"
    notes = dict.fromkeys(note for listing in listings for note in listing.notes)
    return Listing([TensorEntry(name, content) for name, content in found.items()], (note, *notes))


def _whole(where: str, name: str, parts: Sequence[Content], width: tuple[int, ...]) -> Content:
    kind = name.removesuffix(".weight").rpartition(".")[2]
    if name != _EMBEDDING and kind not in _AXES:
        _refuse(where, f"hold {name[:80]!r}, of which it is not known how it is cut; convert them to one checkpoint")
    axis = (0 if parts[0].shape[1:] == width else 1) if name == _EMBEDDING else _AXES[kind]
    if axis is not None and any(len(part.shape) != 2 for part in parts):
        _refuse(where, f"hold {name[:80]!r} of shape {list(parts[0].shape)}, a matrix is needed")
    uncut = {(part.dtype, part.shape if axis is None else part.shape[1 - axis]) for part in parts}
    if len(uncut) > 1:
        _refuse(where, f"hold parts of {name[:80]!r} that do not fit together")
    return parts[0] if axis is None else Joined(tuple(parts), axis)


def _refuse(where: str, why: str) -> NoReturn:
    raise CheckpointError(f"{where}: its consolidated files {why}")
