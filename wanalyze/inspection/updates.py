"""Each update of an adapter on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from torch import Tensor

from wanalyze import measure
from wanalyze.adapters import Adapter, Update
from wanalyze.checkpoints import Checkpoint
from wanalyze.checkpoints.content import expect
from wanalyze.engine import Step
from wanalyze.engine.bases import oriented
from wanalyze.engine.plan import natural
from wanalyze.engine.record import tidy
from wanalyze.errors import NumericsError
from wanalyze.inspection.pool import READING, pool
from wanalyze.measure import Alone
from wanalyze.naming import Place, module_name, places
from wanalyze.operators import Operator
from wanalyze.pairing import Pair, Selection, pair_adapter
from wanalyze.result import Change, Status

Measure: TypeAlias = Callable[[Operator, Tensor | None], Alone]

_ONLY_HEADERS = "only headers were read"
_NEEDS_BASE = "depends on the base's weight: name the base to measure it"


@dataclass(frozen=True)
class _Item:
    """An update under the name of what it changes; `pair` where the base is at hand, `lost` where that lacks it."""

    name: str
    update: Update
    pair: Pair | None = None
    lost: str | None = None


def changes(
    adapter: Adapter,
    base: Checkpoint | None,
    progress: Callable[[Step], None],
    *,
    headers: bool,
    more: Measure | None = None,
) -> list[Change]:
    """What each update does, in the order of their names; with `headers`, without reading any.

    `more` takes the place of `measure_update`, given ΔW and, where the base is at hand, W0.
    """
    items = _items(adapter, base)
    found = places(item.name for item in items)
    if not headers:
        expect(item.pair.base.content for item in items if item.pair and (more or item.update.needs_base))
    with pool() as workers:
        work = partial(_change, more=more, headers=headers)
        results = workers.map(work, items, [found[item.name] for item in items])
        return [change for change, _ in zip(results, _counted(items, progress), strict=True)]


def _counted(items: Sequence[_Item], progress: Callable[[Step], None]) -> Iterator[None]:
    for done, item in enumerate(items, 1):
        progress(Step(item.name, done, len(items)))
        yield


def _items(adapter: Adapter, base: Checkpoint | None) -> list[_Item]:
    if base is None:
        items = [_Item(name_of(update), update) for update in adapter.updates]
    else:
        pairing = pair_adapter(base, adapter, Selection(), allow_unmatched=True)
        items = [_Item(pair.name, pair.tuned, pair) for pair in pairing.matrices if isinstance(pair.tuned, Update)]
        found = {_key(item.update) for item in items}
        lost = {skipped.name: skipped.reason for skipped in pairing.skipped}
        items += [
            _Item(name_of(update), update, lost=lost.get(update.module, "missing in base"))
            for update in adapter.updates
            if _key(update) not in found
        ]
    return sorted(items, key=lambda item: natural(item.name))


def _key(update: Update) -> tuple[str, int | None, int | None]:
    """The same for an update and for its pieces, where the base has several matrices in the place of one."""
    return update.target, update.index, update.replica


def name_of(update: Update) -> str:
    """What an update changes, by its own names: a module, the expert of a stack, the run of a layer."""
    indices = [index for index in (update.index, update.replica) if index is not None]
    return module_name(update.target) + "".join(f"[{index}]" for index in indices)


def _change(item: _Item, place: Place, *, more: Measure | None, headers: bool) -> Change:
    update = item.update
    found = _outcome(item, more, headers=headers)
    return Change(
        name=item.name,
        layer=place.layer,
        kind=place.kind,
        shape=None if found.shape is None else list(found.shape),
        dtype=update.dtype,
        bytes=update.size,
        rank=update.rank,
        scale=update.scale,
        status=found.status,
        reason=found.reason or update.note,
        metrics=tidy(found.alone.metrics),
        missing=dict(found.alone.missing),
    )


class _Outcome(NamedTuple):
    status: Status
    reason: str | None
    shape: tuple[int, ...] | None
    alone: Alone = Alone({})


def _outcome(item: _Item, more: Measure | None, *, headers: bool) -> _Outcome:
    update = item.update
    if reason := _why_not(item, headers=headers):
        return _Outcome(Status.skipped, reason, update.shape)
    try:
        with READING:
            weight = _weight(item) if more or update.needs_base else None
            operator = update.read(weight if update.needs_base else None)
        alone = measure.measure_update(operator) if more is None else more(operator, weight)
    except NumericsError as error:
        return _Outcome(Status.failed, str(error), update.shape)
    return _Outcome(Status.unchanged if alone.is_zero else Status.measured, None, operator.shape, alone)


def _why_not(item: _Item, *, headers: bool) -> str | None:
    if item.lost is not None or headers:
        return item.lost or _ONLY_HEADERS
    return _NEEDS_BASE if item.update.needs_base and item.pair is None else None


def _weight(item: _Item) -> Tensor | None:
    """W0 as the update takes it, where it is at hand."""
    return None if item.pair is None else oriented(item.pair.base.read(), item.pair)
