"""Trainable tokens: rows of an embedding that the adapter replaces, saved as what they became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.lora.config import Index, TokenIndices
from wanalyze.adapters.lora.names import stored_shape
from wanalyze.adapters.peft import PeftConfig, adapter_of, config_of, need, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

TOKENS = "trainable_tokens_delta"  # in spite of its name the rows themselves


class _Config(PeftConfig):
    token_indices: list[Index] = Field(default_factory=list)


def parse_trainable_tokens(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT adapter of trainable tokens."""
    config = config_of(files, _Config)
    stems = {TOKENS: TOKENS}
    tensors = sorted_tensors(files, stems, kind="trainable tokens", marker="trainable_tokens")
    tokens = {module: parts for module, parts in sorted(tensors.modules.items())}
    updates = token_updates(files.name, tokens, config.token_indices, base)
    return adapter_of(
        files,
        config,
        updates,
        tensors,
        kind="TRAINABLE_TOKENS",
        method=f"trainable tokens ({len(config.token_indices)})",
        facts={"tokens": len(config.token_indices)},
        notes=notes_on_tokens(updates, base),
    )


def token_updates(
    where: str, modules: Mapping[str, Mapping[str, TensorEntry]], indices: TokenIndices, base: Checkpoint | None
) -> list[Update]:
    """An update for every embedding that has rows to replace."""
    return [_update(where, module, parts, _indices(module, indices), base) for module, parts in modules.items()]


def _indices(module: str, indices: TokenIndices) -> list[int]:
    """Those of one embedding: of a table by module, under the end of its name."""
    if not isinstance(indices, dict):
        return list(indices)
    return next(
        (list(rows) for key, rows in indices.items() if module == key or module.endswith(f".{key}")),
        [],
    )


def _update(
    where: str, module: str, parts: Mapping[str, TensorEntry], rows: list[int], base: Checkpoint | None
) -> Update:
    need(parts, (TOKENS,), module=module, where=where)
    shape = parts[TOKENS].shape
    if len(shape) != 2 or len(rows) != shape[0] or len(set(rows)) != len(rows):
        raise AdapterError(
            f"{where}: {module[:80]!r} has trainable tokens of shape {shape}, but adapter_config.json gives it "
            f"{len(set(rows))} different indices; one of the two must be mended"
        )
    stored = stored_shape(base, f"{module}.weight")
    known = stored if stored is not None and len(stored) == 2 and stored[1] == shape[1] else None
    rank = len(rows) if len(rows) < shape[1] else None
    build = partial(_replaced, rows=rows, module=module)
    return Update(module, {TOKENS: parts[TOKENS]}, build, known, rank, needs_base=True, note="rows replaced")


def _replaced(parts: Parts, base: Tensor | None, *, rows: Sequence[int], module: str) -> Operator:
    assert base is not None, "only for updates that need the base"
    new = widened(parts[TOKENS], torch.float64)
    if new.shape[1] != base.shape[1]:
        raise AdapterError(
            f"{module[:80]!r}: trainable tokens have {new.shape[1]} columns, the embedding of the base has "
            f"{base.shape[1]}; is this its base?"
        )
    known = [i for i, row in enumerate(rows) if row < len(base)]
    places = torch.tensor([rows[i] for i in known], dtype=torch.int64, device=base.device)
    change = new[known] - widened(base[places], torch.float64)
    if len(known) >= min(base.shape):
        return Dense(new.new_zeros(base.shape).index_copy(0, places, change))
    if not known:
        return LowRank(new.new_zeros(len(base), 1), new.new_zeros(1, base.shape[1]))
    left = new.new_zeros(len(base), len(known))
    left[places, torch.arange(len(known), device=base.device)] = 1
    return LowRank(left, change)


def notes_on_tokens(updates: Sequence[Update], base: Checkpoint | None) -> list[str]:
    """Which tokens the base does not have: they are new, and no change of anything."""
    found = []
    for update in updates:
        stored = stored_shape(base, update.target)
        new = sum(row >= stored[0] for row in _rows_of(update)) if stored else 0
        if new:
            found.append(f"{new} of the trainable tokens of {update.module} are beyond the base's vocabulary: new rows")
    return found


def _rows_of(update: Update) -> Sequence[int]:
    assert isinstance(update.build, partial)
    return update.build.keywords["rows"]  # type: ignore[no-any-return]
