"""What is in a checkpoint or an adapter. A checkpoint is listed without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from wanalyze.checkpoints import Checkpoint, Reference, TensorEntry, open_checkpoint, open_source, public
from wanalyze.errors import UsageError
from wanalyze.result import AdapterInventory, Entry, File, Inventory, Tool
from wanalyze.version import VERSION

if TYPE_CHECKING:
    from wanalyze.engine import Step

__all__ = ["inspect"]


def inspect(
    reference: Reference,
    base: Reference | None,
    progress: Callable[[Step], None],
    *,
    headers: bool = False,
    offline: bool = False,
) -> Inventory:
    """List a checkpoint from its headers; of an adapter, measure each update as well, unless `headers`.

    With a `base`, updates go by its names, and those that depend on its weights are measured too.
    """
    source = open_source(reference.location, offline=offline)
    if isinstance(source, Checkpoint):
        if base is not None:
            raise UsageError(f"{reference.location}: is a checkpoint, not an adapter; compare it with its base")
        return _inventory(reference, source, source.notes)
    from wanalyze.adapters import parse_adapter
    from wanalyze.inspection.updates import changes

    under = None if base is None else open_checkpoint(base.location, offline=offline)
    adapter = parse_adapter(source, under)
    found = AdapterInventory(
        method=adapter.method,
        parameters=adapter.trained_parameters,
        facts=json.loads(json.dumps(adapter.facts)),  # JSON's keys are text
        changes=changes(adapter, under, progress, headers=headers),
        vectors=[shift.target for shift in adapter.shifts],
        saved_whole=[_entry(name, entry) for name, entry in adapter.replaced.items()],
    )
    return _inventory(reference, source.weights, adapter.notes, found, hashed=not headers)


def _inventory(
    reference: Reference,
    weights: Checkpoint,
    notes: Iterable[str],
    adapter: AdapterInventory | None = None,
    *,
    hashed: bool = False,
) -> Inventory:
    return Inventory(
        tool=Tool(version=VERSION),
        ref=public(reference.location),
        revision=weights.revision,
        files=[
            File(name=file.name, size=file.size, sha256=file.sha256() if hashed and file.is_whole else None)
            for file in (*weights.files, *weights.beside)
        ],
        notes=list(notes),
        tensors=[_entry(name, entry) for name, entry in weights.entries.items()],
        adapter=adapter,
    )


def _entry(name: str, entry: TensorEntry) -> Entry:
    return Entry(name=name, dtype=entry.dtype.name, shape=list(entry.shape), bytes=entry.size)
