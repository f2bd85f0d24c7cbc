"""From adapters that somebody trusts to a bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wanalyze.auditing.bank import Bank, BankAdapter, make_bank, recipe_of, statistics_of
from wanalyze.auditing.places import expanded
from wanalyze.checkpoints import Checkpoint, Location, Reference, open_checkpoint, open_source, public
from wanalyze.errors import AdapterError
from wanalyze.result import File, Status, Tool
from wanalyze.version import VERSION

if TYPE_CHECKING:
    from wanalyze.engine import Step


def build_bank(
    references: Sequence[Reference],
    base: Reference | None,
    progress: Callable[[Step], None],
    *,
    offline: bool = False,
) -> Bank:
    """Measure every adapter; one that cannot be measured in full is an error, by name."""
    under = None if base is None else open_checkpoint(base.location, offline=offline)
    places = [place for reference in references for place in expanded(reference.location)]
    adapters = [_entry(place, under, progress, offline=offline) for place in places]
    return make_bank(adapters, Tool(version=VERSION))


def _entry(
    location: Location, base: Checkpoint | None, progress: Callable[[Step], None], *, offline: bool
) -> BankAdapter:
    from wanalyze.adapters import parse_adapter
    from wanalyze.inspection.updates import changes
    from wanalyze.measure import measure_statistics

    source = open_source(location, offline=offline)
    if isinstance(source, Checkpoint):
        raise AdapterError(f"{location}: is a checkpoint, not an adapter; a bank holds adapters")
    adapter = parse_adapter(source, base)
    found = changes(adapter, base, progress, headers=False, more=lambda update, _: measure_statistics(update))
    for change in found:
        if change.status in (Status.failed, Status.skipped):
            raise AdapterError(f"{location}: {change.name} was not measured: {change.reason}; leave this adapter out")
    statistics = statistics_of(found)
    if not statistics:
        raise AdapterError(f"{location}: changes no matrix, so a bank can learn nothing from it; leave it out")
    return BankAdapter(
        ref=public(location),
        revision=source.weights.revision,
        files=[File(name=file.name, size=file.size, sha256=file.sha256()) for file in source.weights.files],
        recipe=recipe_of(adapter, found),
        statistics=statistics,
    )
