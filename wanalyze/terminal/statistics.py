"""The statistics of audited adapters by kind of module, without a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from wanalyze.auditing import Audit, Audited, Standings
from wanalyze.numerals import NOT_MEASURED, number
from wanalyze.printable import elided, printable
from wanalyze.result import Change, Status
from wanalyze.terminal.tables import table, wrapped

_COLUMNS = {
    "norm": "delta_norm",
    "σ1": "delta_spectral_norm",
    "rank": "effective_rank",
    "first": "dominance",
    "kurt.": "kurtosis",
    "row": "row_peak",
    "column": "column_peak",
}
_WITH_BASE = {"to base": "relative_norm", "bf16": "merge_error_bf16"}
_MOST = 24  # kinds of module


def statistics(found: Audit) -> str:
    """Medians over the modules of each kind; with a bank, where they stand in it."""
    lines = [line for adapter in found.adapters for line in _adapter(adapter)]
    return "".join(f"{part}\n" for line in lines for part in wrapped(line))


def _adapter(adapter: Audited) -> Iterator[str]:
    kinds: dict[str, list[Change]] = {}
    for change in adapter.modules:
        if change.status is Status.measured:
            kinds.setdefault(change.kind, []).append(change)
    if not kinds:
        return
    has_base = any(change.metrics.get("relative_norm") is not None for found in kinds.values() for change in found)
    columns = {**_COLUMNS, **(_WITH_BASE if has_base else {})}
    yield f"{printable(adapter.ref)}: medians over the modules of a kind; `wanalyze explain` defines {_keys(columns)}"
    rows = [_row(kind, changes, columns) for kind, changes in [*kinds.items()][:_MOST]]
    yield from table(("kind", "n", *columns), rows, left=1)
    if len(kinds) > _MOST:
        yield f"and {len(kinds) - _MOST} more kinds, in --format json"
    if adapter.bank is not None:
        yield ""
        yield from _bank(adapter.bank)
    yield ""


def _keys(columns: dict[str, str]) -> str:
    return ", ".join(columns.values())


def _row(kind: str, changes: list[Change], columns: dict[str, str]) -> tuple[str, ...]:
    return elided(kind, 16), str(len(changes)), *(number(_median(changes, key)) for key in columns.values())


def _median(changes: list[Change], key: str) -> float | None:
    values = [value for change in changes if (value := change.metrics.get(key)) is not None]
    return median(values) if values else None


def _adapters(count: int) -> str:
    return f"{count} adapter" if count == 1 else f"{count} adapters"


def _bank(found: Standings) -> Iterator[str]:
    recipe = "of the same recipe" if found.matched else "of other recipes"
    yield f"percentiles of these medians among {_adapters(found.adapters)} {recipe} in the bank"
    if found.note:
        yield printable(found.note)
    at = {(one.kind, one.statistic): one for one in found.standings if one.over == "median"}
    rows = []
    for kind in [*dict.fromkeys(kind for kind, _ in at)][:_MOST]:
        cells = (at.get((kind, key)) for key in _COLUMNS.values())
        rows.append((elided(kind, 16), *(f"{one.percentile:.0f}" if one else NOT_MEASURED for one in cells)))
    yield from table(("kind", *_COLUMNS), rows, left=1)
    if at:
        finest = 100 / (found.adapters + 1)
        yield (
            f"none of them is finer than {finest:.0f}; {found.outside} of {len(found.standings)} numbers lie outside "
            f"the bank's range, {found.expected:.0f} would if it had been made as they were; intervals in --format json"
        )
