"""The adapter that a tool's file was read as: what its updates do, and facts that let a reader check the scale."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from wanalyze.adapters.adapter import Adapter
from wanalyze.adapters.foreign.module import Changes
from wanalyze.adapters.peft import spread
from wanalyze.checkpoints import AdapterFiles
from wanalyze.errors import AdapterError


def assembled(
    files: AdapterFiles,
    changes: Changes,
    *,
    tool: str,
    scale_rule: str,
    base_model: str | None = None,
    facts: Mapping[str, object] | None = None,
    notes: Iterable[str] = (),
) -> Adapter:
    """Put an adapter together; AdapterError if it changes nothing."""
    updates = tuple(changes.updates)
    if not (updates or changes.shifts or changes.replaced):
        raise AdapterError(f"{files.name}: holds no update of a weight, so it changes nothing")
    ranks = Counter(update.rank for update in updates if update.rank is not None)
    scales = Counter(update.scale for update in updates if update.scale is not None)
    return Adapter(
        name=files.name,
        method=_method(changes, tool),
        updates=updates,
        shifts=tuple(changes.shifts),
        replaced=changes.replaced,
        facts={
            "tool": tool,
            "kind": ", ".join(dict.fromkeys(name for name, _ in changes.algorithms)) or _without_algorithm(changes),
            **({"ranks": dict(sorted(ranks.items()))} if ranks else {}),
            **({"scales": dict(sorted(scales.items()))} if scales else {}),
            "scale_rule": scale_rule,
            "modules": len({(update.module, update.parameter) for update in updates}),
            "saved_whole": sorted(changes.replaced),
            "base_model": base_model,
            **(facts or {}),
        },
        trained_parameters=sum(math.prod(entry.shape) for entry in files.weights.entries.values()),
        notes=(*files.weights.notes, *notes),
    )


def _method(changes: Changes, tool: str) -> str:
    """As in "LoRA r=4–16 + LoKr (LyCORIS)", the algorithm of most modules first."""
    ranks: dict[str, list[int]] = {}
    for name, rank in changes.algorithms:
        ranks.setdefault(name, []).extend([] if rank is None else [rank])
    order = Counter(name for name, _ in changes.algorithms).most_common()
    said = [f"{name} r={spread(ranks[name])}" if ranks[name] else name for name, _ in order]
    return f"{' + '.join(said) or _without_algorithm(changes)} ({tool})"


def _without_algorithm(changes: Changes) -> str:
    return "whole tensors" if changes.replaced else "vectors"
