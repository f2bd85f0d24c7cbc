"""From adapters that somebody trusts to a bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wanalyze.auditing.bank import Bank, BankAdapter, make_bank, recipe_of, statistics_of
from wanalyze.auditing.places import Place, expanded
from wanalyze.checkpoints import AdapterFiles, Checkpoint, Location, Reference, open_checkpoint, open_source, public
from wanalyze.errors import AdapterError, UsageError
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
    opened = [(place, _opened(place.location, offline=offline)) for place in places]
    _check_each_once(opened)
    adapters = [_entry(place, source, under, progress) for place, source in opened]
    return make_bank(adapters, Tool(version=VERSION))


def _opened(location: Location, *, offline: bool) -> AdapterFiles:
    source = open_source(location, offline=offline)
    if isinstance(source, Checkpoint):
        raise AdapterError(f"{location}: is a checkpoint, not an adapter; a bank holds adapters")
    return source


def _check_each_once(opened: Sequence[tuple[Place, AdapterFiles]]) -> None:
    """Said before anything is measured."""
    seen: dict[str, Place] = {}
    for place, source in opened:
        for digest in {file.sha256() for file in source.weights.files} - {None}:
            if (other := seen.setdefault(str(digest), place)) is not place:
                raise UsageError(
                    f"{place.location}: is the same file as {other.location}, and would count twice; "
                    "name each adapter once"
                )


def _entry(
    place: Place, source: AdapterFiles, base: Checkpoint | None, progress: Callable[[Step], None]
) -> BankAdapter:
    from wanalyze.adapters import parse_adapter
    from wanalyze.inspection.updates import changes
    from wanalyze.measure import measure_statistics

    adapter = parse_adapter(source, base)
    found = changes(adapter, base, progress, headers=False, more=lambda update, _: measure_statistics(update))
    for change in found:
        if change.status in (Status.failed, Status.skipped):
            raise AdapterError(
                f"{place.location}: {change.name} was not measured: {change.reason}; leave this adapter out"
            )
    statistics = statistics_of(found)
    if not statistics:
        raise AdapterError(f"{place.location}: changes no matrix, so a bank can learn nothing from it; leave it out")
    return BankAdapter(
        ref=public(place.location),
        revision=source.weights.revision,
        files=[File(name=file.name, size=file.size, sha256=file.sha256()) for file in source.weights.files],
        recipe=recipe_of(adapter, found),
        statistics=statistics,
    )
