"""What is in a checkpoint or an adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from pydantic import JsonValue

from wanalyze import numerals
from wanalyze.printable import elided, printable
from wanalyze.result import AdapterInventory, Change, Inventory, Status
from wanalyze.terminal.tables import facts_table, table

_FEW = 4  # names that are listed of each sort
_SHOWN_ELSEWHERE = {"modules", "ranks", "scales", "saved_whole"}
_METRICS = (
    ("delta_norm", "‖ΔW‖"),
    ("delta_spectral_norm", "σ₁"),
    ("effective_rank", "eff. rank"),
    ("stable_rank", "stable"),
)
_HEADER = ("kind", "modules", "shape", "dtype", "r", "scale", *(title for _, title in _METRICS))


def inventory(found: Inventory) -> str:
    """Facts, and a table: of an adapter's updates by kind, of a checkpoint's tensors by name."""
    facts: list[tuple[str, object]] = [("files", _files(found)), ("tensors", f"{len(found.tensors):,}")]
    facts += [("revision", found.revision)] if found.revision else []
    if found.adapter is None:
        rows = [(entry.name, entry.dtype, _shape(entry.shape)) for entry in found.tensors]
        listed = table(("tensor", "dtype", "shape"), [tuple(map(printable, row)) for row in rows])
    else:
        facts += _facts(found.adapter)
        listed = _changes(found.adapter)
    facts += [("note", note) for note in found.notes]
    return facts_table(facts) + "\n" + "\n".join(listed) + "\n"


def _files(found: Inventory) -> str:
    names = [f"{file.name} ({file.size:,} bytes)" for file in found.files]
    return _few(names)


def _facts(adapter: AdapterInventory) -> list[tuple[str, object]]:
    said = [(key.replace("_", " "), _plain(value)) for key, value in adapter.facts.items()]
    measured = [change for change in adapter.changes if change.status in (Status.measured, Status.unchanged)]
    idle = [change.name for change in measured if change.status is Status.unchanged]
    return [
        ("method", adapter.method),
        ("parameters", f"{adapter.parameters:,}"),
        *((key, value) for key, value in said if key.replace(" ", "_") not in _SHOWN_ELSEWHERE),
        *([("vectors", _few(adapter.vectors))] if adapter.vectors else []),
        ("saved whole", _few([f"{entry.name} {_shape(entry.shape)}" for entry in adapter.saved_whole])),
        ("does nothing", _few(idle) if measured or not adapter.changes else numerals.NOT_MEASURED),
        *(("not measured", line) for line in _reasons(adapter.changes)),
    ]


def _reasons(changes: Iterable[Change]) -> list[str]:
    """Why changes were not measured, the commonest first."""
    lost = [change for change in changes if change.status in (Status.skipped, Status.failed)]
    counts = Counter(change.reason or "" for change in lost)
    return [f"{count:,} × {reason}" for reason, count in counts.most_common(_FEW)]


def _changes(adapter: AdapterInventory) -> list[str]:
    """A row for each kind of module: what its modules have in common, and medians of what was measured."""
    kinds: dict[str, list[Change]] = {}
    for change in adapter.changes:
        kinds.setdefault(change.kind, []).append(change)
    if not kinds:
        return []
    lines = table(_HEADER, [_row(kind, changes) for kind, changes in kinds.items()], left=1)
    return [*lines, "", "medians over modules; each module: --format csv or json"]


def _row(kind: str, changes: Sequence[Change]) -> tuple[str, ...]:
    return (
        elided(kind, 32),
        f"{len(changes):,}",
        _alike(_shape(change.shape) for change in changes),
        _alike(change.dtype for change in changes),
        _spread([change.rank for change in changes]),
        _spread([change.scale for change in changes]),
        *(numerals.number(_median(changes, key)) for key, _ in _METRICS),
    )


def _median(changes: Iterable[Change], key: str) -> float | None:
    values = [value for change in changes if (value := change.metrics.get(key)) is not None]
    return float(median(values)) if values else None


def _alike(texts: Iterable[str]) -> str:
    found = [*dict.fromkeys(texts)]
    return found[0] if len(found) == 1 else f"{len(found)} sorts"


def _spread(values: Sequence[float | None]) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return numerals.NOT_MEASURED
    ends = [numerals.number(value) for value in dict.fromkeys((known[0], known[-1]))]
    return "–".join(ends)


def _shape(shape: Sequence[int] | None) -> str:
    if shape is None:
        return numerals.NOT_MEASURED
    return " × ".join(map(str, shape)) or "scalar"


def _few(names: Sequence[str]) -> str:
    shown = [elided(name, 80) for name in names[:_FEW]]
    more = len(names) - len(shown)
    return ", ".join([*shown, *([f"and {more:,} more"] if more else [])]) or "none"


def _plain(value: JsonValue) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} ({_plain(item)})" for key, item in value.items())
    if isinstance(value, list):
        return _few([_plain(item) for item in value]) if len(value) > 2 * _FEW else ", ".join(map(_plain, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no"}.get(value, "not said") if value is not None else "not said"
    return f"{value:,}" if isinstance(value, int) else f"{value}"
