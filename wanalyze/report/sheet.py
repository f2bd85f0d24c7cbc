"""What the page shows of each matrix of each model: one grid of rows, experts of a stack folded into one."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter, methodcaller
from statistics import median

from wanalyze.intruders import Enclosure
from wanalyze.metrics import EXPLAINED, METRICS
from wanalyze.printable import elided
from wanalyze.result import Finding, Module, Result, Status

_EXPERT = re.compile(r"\[[0-9]+\]")


@dataclass(frozen=True)
class Column:
    """A number of each matrix; `fold` makes one of the numbers of several experts."""

    key: str
    long: str
    unit: str
    definition: str
    of: Callable[[Module], float | None]
    fold: Callable[[Sequence[float]], float] = median

    @property
    def title(self) -> str:
        """The key in words, short enough for a column."""
        return self.key.replace("_", " ")


def _worst(cosines: Callable[[Module], Sequence[Enclosure]], module: Module) -> float | None:
    return min((high for _, high in cosines(module)), default=None)


def _columns() -> Iterable[Column]:
    for metric in METRICS.values():
        fold = max if metric.key.startswith("intruder") else median
        yield Column(metric.key, metric.title, metric.unit, metric.definition, methodcaller("metric", metric.key), fold)
    for side, place in (("left", "output"), ("right", "input")):
        yield Column(
            f"worst_cosine_{side}",
            f"cosine of the worst vector, {place} side",
            "|cosine|",
            f"The least of the upper ends of max_cosine_{side}. {EXPLAINED[f'max_cosine_{side}'].definition}",
            partial(_worst, attrgetter(f"max_cosine_{side}")),
            min,
        )


COLUMNS = {column.key: column for column in _columns()}


@dataclass(frozen=True)
class Row:
    """One matrix of one model, or the `experts` of a stack; `module` is then the one that moved farthest."""

    module: Module
    experts: int
    values: dict[str, float | None]
    findings: Sequence[Finding] = ()

    @property
    def intruders(self) -> float:
        return (self.values["intruders_left"] or 0) + (self.values["intruders_right"] or 0)

    @property
    def norm(self) -> float:
        return self.values["relative_norm"] or 0.0

    @property
    def says(self) -> str:
        """Its status, with the reason if there is one."""
        module = self.module
        words = [module.status.value, f"{self.experts} experts" if self.experts > 1 else ""]
        words += ["ambiguous vectors" if module.ambiguous else "", elided(module.reason or "")]
        return ", ".join(filter(None, words))


@dataclass(frozen=True)
class Sheet:
    """Rows by (model, matrix), both by their number in `models` and `names`."""

    models: list[str]
    names: list[str]
    places: list[Module]  # any record of each name: where it lies and how large it is
    rows: dict[tuple[int, int], Row]
    dropped: int  # how many matrices are left out for size

    @cached_property
    def _known(self) -> dict[tuple[int, str, str], list[float]]:
        """Sorted values by model, kind and column."""
        found: dict[tuple[int, str, str], list[float]] = defaultdict(list)
        for (model, _), row in self.rows.items():
            for key, value in row.values.items():
                if value is not None:
                    found[model, row.module.kind, key].append(value)
        return {place: sorted(values) for place, values in found.items()}

    def percentile(self, model: int, name: int, key: str) -> int | None:
        """Which percentile the value is among the matrices of its kind in its model; ties lie in their middle."""
        row = self.rows.get((model, name))
        value = row.values[key] if row else None
        if row is None or value is None:
            return None
        known = self._known[model, row.module.kind, key]
        return int(50 * (bisect_left(known, value) + bisect_right(known, value)) / len(known) + 0.5)

    def short(self, place: tuple[int, int], key: str) -> float | int | None:
        """A value with as many digits as are shown."""
        value = self.rows[place].values[key] if place in self.rows else None
        if value is None or isinstance(value, int):
            return value
        short = float(f"{value:.3g}") if abs(value) < 1000 else round(value)
        return int(short) if short == int(short) else short

    def values(self, key: str) -> list[float]:
        return [value for row in self.rows.values() if (value := row.values[key]) is not None]

    def ranked(self, key: str) -> list[tuple[int, int]]:
        """Places by falling value of `key`, then of relative norm; failures first."""
        return sorted(self.rows, key=lambda place: self._rank(place, key))

    def _rank(self, place: tuple[int, int], key: str) -> tuple[bool, bool, float, float, int, int]:
        row = self.rows[place]
        value = row.values[key]
        failed = row.module.status is Status.failed
        return (not failed, value is None, -(value or 0), -row.norm, place[1], place[0])


def sheet(result: Result, most: int) -> Sheet:
    """The rows of `result`, of the `most` most remarkable matrices."""
    labels = {model.label: i for i, model in enumerate(result.models)}
    groups: dict[str, list[list[Module]]] = {}
    for module in result.modules:
        name = _EXPERT.sub("[*]", module.name)
        groups.setdefault(name, [[] for _ in labels])[labels[module.model]].append(module)
    found: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in result.findings:
        found[finding.model, finding.module or ""].append(finding)
    folded = {name: [_row(modules, found) if modules else None for modules in group] for name, group in groups.items()}
    kept = set(sorted(folded, key=lambda name: _remark([row for row in folded[name] if row]))[:most])
    names = [name for name in folded if name in kept]
    return Sheet(
        [elided(label) for label in labels],
        [elided(_shown(name, folded[name])) for name in names],
        [next(row.module for row in folded[name] if row) for name in names],
        {(m, n): row for n, name in enumerate(names) for m, row in enumerate(folded[name]) if row},
        len(folded) - len(names),
    )


def remarkable(sheet: Sheet) -> list[int]:
    """The numbers of all names, the most remarkable first."""
    rows = [
        [sheet.rows[m, n] for m in range(len(sheet.models)) if (m, n) in sheet.rows] for n in range(len(sheet.names))
    ]
    return sorted(range(len(rows)), key=lambda n: (_remark(rows[n]), n))


def _remark(rows: Sequence[Row]) -> tuple[bool, float, float]:
    """Sorts findings first, then by the most intruders in any model, then by how far any moved."""
    return (not any(row.findings for row in rows), -max(row.intruders for row in rows), -max(row.norm for row in rows))


def _row(modules: Sequence[Module], found: Mapping[tuple[str, str], Sequence[Finding]]) -> Row:
    values = {}
    for key, column in COLUMNS.items():
        known = [value for module in modules if (value := column.of(module)) is not None]
        values[key] = (known[0] if len(modules) == 1 else column.fold(known)) if known else None
    findings = [finding for module in modules for finding in found.get((module.model, module.name), ())]
    return Row(max(modules, key=lambda m: m.metric("relative_norm") or 0.0), len(modules), values, findings)


def _shown(name: str, rows: Sequence[Row | None]) -> str:
    """The matrix's own name where nothing was folded."""
    alone = [row.module.name for row in rows if row and row.experts == 1]
    return alone[0] if alone else name
