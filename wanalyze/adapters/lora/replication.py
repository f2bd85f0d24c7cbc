"""`layer_replication`: a model that runs layers of its base several times, with an update for each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from wanalyze.adapters.adapter import Update
from wanalyze.adapters.lora.names import layer_in
from wanalyze.errors import AdapterError

_MOST_LAYERS = 10_000


def sources_of(ranges: Iterable[tuple[int, int]], *, where: str) -> list[int]:
    """For each layer of the new stack, the layer of the base that it repeats.

    >>> sources_of([(0, 4), (2, 5)], where="")
    [0, 1, 2, 3, 2, 3, 4]
    """
    found: list[int] = []
    for start, stop in ranges:
        if not start < stop <= start + _MOST_LAYERS - len(found):
            raise AdapterError(
                f"{where}: layer_replication in adapter_config.json has the range [{start}, {stop}]; layers rise from "
                f"the first to before the last, {_MOST_LAYERS} in all"
            )
        found += range(start, stop)
    return found


def at_source(updates: Iterable[Update], sources: Sequence[int], *, where: str) -> list[Update]:
    """The updates by the names of the base's layers, each knowing which run of a layer it is for.

    Layers that run once are plain. The weight is shared between runs: merging adds all their updates into it, which
    is another model.
    """
    counts = Counter(sources)
    return [_at_source(update, sources, counts, where) for update in updates]


def _at_source(update: Update, sources: Sequence[int], counts: Mapping[int, int], where: str) -> Update:
    cut = layer_in(update.module)
    if cut is None:
        return update
    source = _source(cut[1], sources, update.module, where)
    module = f"{cut[0]}{source}{cut[2]}"
    if counts[source] == 1:
        return replace(update, module=module)
    return replace(update, module=module, replica=cut[1], note=f"as layer {cut[1]} of the replicated stack")


def name_at_source(name: str, sources: Sequence[int], *, where: str) -> str:
    """The name in the base of a tensor that is not an update; AdapterError where several runs would share it."""
    cut = layer_in(name)
    if cut is None:
        return name
    source = _source(cut[1], sources, name, where)
    if sources.count(source) > 1:
        raise AdapterError(
            f"{where}: {name[:80]!r} is saved for one of the runs of layer {source} (layer_replication), which the "
            "base stores once; only the LoRA of such layers can be compared"
        )
    return f"{cut[0]}{source}{cut[2]}"


def _source(layer: int, sources: Sequence[int], name: str, where: str) -> int:
    if layer >= len(sources):
        raise AdapterError(
            f"{where}: {name[:80]!r} is in layer {layer}, but layer_replication makes {len(sources)} layers; "
            "one of the two must be mended"
        )
    return sources[layer]
