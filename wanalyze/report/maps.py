"""Layer x kind maps: one strip per model and metric, as data for the template's SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median, quantiles

from wanalyze.naming import kind_order
from wanalyze.numerals import number
from wanalyze.printable import elided
from wanalyze.report.chart import Axis, Line, Panel, spanning
from wanalyze.report.scale import Scale, cosines, counts, logarithmic
from wanalyze.report.sheet import COLUMNS, Column, Row, Sheet

MAPPED = (
    *("effective_rank", "relative_norm", "intruders_left", "intruders_right"),
    *("worst_cosine_left", "worst_cosine_right", "signal_rank", "changed_fraction"),
)
_MOST_KINDS, _MOST_LAYERS, _MOST_MODELS, _MOST_CELLS = 40, 256, 60, 5000
_NARROW, _WIDE = 12, 28  # pixels of a cell
_BROAD, _TALL = 544, 260  # pixels of a strip, where its cells can be neither narrow nor wide
_LABEL = 24  # characters of a kind beside its row


@dataclass(frozen=True)
class Frame:
    """What lies where in every strip."""

    kinds: list[str]
    layers: list[int]
    left: int

    @property
    def pitch(self) -> int:
        """Pixels from cell to cell."""
        fitting = min(_BROAD // max(len(self.layers), 1), _TALL // max(len(self.kinds), 1))
        return max(_NARROW, min(_WIDE, fitting))

    @property
    def width(self) -> int:
        return len(self.layers) * self.pitch

    @property
    def height(self) -> int:
        return len(self.kinds) * self.pitch

    @property
    def labels(self) -> list[str]:
        return [elided(kind, _LABEL) for kind in self.kinds]

    @property
    def numbered(self) -> list[tuple[int, int]]:
        """(column, layer) of the layers that are labelled."""
        every = max(1, round(len(self.layers) / 12))
        return [(column, layer) for column, layer in enumerate(self.layers) if column % every == 0]


@dataclass(frozen=True)
class Strip:
    """One model's map: a path for each step of the ramp, rings for findings, the median of each row."""

    model: int
    paths: list[tuple[int, str]]
    rings: list[tuple[int, int]]
    medians: list[str]


@dataclass(frozen=True)
class MetricMap:
    """All strips of one metric on one scale; `panels` show the layers' quantiles where there are too many cells."""

    column: Column
    scale: Scale
    strips: list[Strip]
    panels: list[Panel]


@dataclass(frozen=True)
class Maps:
    frame: Frame
    chosen: str
    maps: list[MetricMap]
    unmeasured: list[Column]


def maps_of(sheet: Sheet, top_k: int, epsilon: float) -> Maps:
    """A map of each metric of MAPPED that was measured at all; the one that the verdict rests on is chosen."""
    cells = _cells(sheet)
    frame = _frame(sheet)
    known = [COLUMNS[key] for key in MAPPED if any(row.values[key] is not None for row in cells.values())]
    drawn = [
        _metric_map(column, _scale(column, cells.values(), top_k, epsilon), frame, cells, sheet) for column in known
    ]
    hit = [key for key in ("intruders_left", "intruders_right") if any(sheet.values(key))]
    chosen = [*hit, *(column.key for column in known), ""][0]
    return Maps(frame, chosen, drawn, [COLUMNS[key] for key in MAPPED if COLUMNS[key] not in known])


def cut_from_maps(sheet: Sheet) -> list[str]:
    """What the maps leave out for size, in words; empty for all but very large or forged models."""
    inside = [place for place in sheet.places if place.layer is not None]
    kinds, layers = len({place.kind for place in inside}), len({place.layer for place in inside})
    return [
        f"{most} of {count} {what}"
        for count, most, what in (
            (kinds, _MOST_KINDS, "kinds"),
            (layers, _MOST_LAYERS, "layers"),
            (len(sheet.models), _MOST_MODELS, "models"),
        )
        if count > most
    ]


_Cells = dict[tuple[int, str, int], Row]


def _cells(sheet: Sheet) -> _Cells:
    """The row of each (model, kind, layer)."""
    return {
        (model, row.module.kind, row.module.layer): row
        for (model, _), row in reversed(sheet.rows.items())
        if row.module.layer is not None
    }


def _frame(sheet: Sheet) -> Frame:
    inside = [place for place in sheet.places if place.layer is not None]
    kinds = sorted({place.kind for place in inside}, key=kind_order)[:_MOST_KINDS]
    layers = sorted({place.layer for place in inside if place.layer is not None})[:_MOST_LAYERS]
    return Frame(kinds, layers, 7 * min(_LABEL, max(map(len, kinds), default=0)) + 6)


def _scale(column: Column, rows: Iterable[Row], top_k: int, epsilon: float) -> Scale:
    if column.key.startswith("intruders"):
        return counts(top_k, column.unit)
    if column.key.startswith("worst_cosine"):
        return cosines(epsilon, column.unit)
    return logarithmic([row.values[column.key] or 0 for row in rows], column.unit)


def _metric_map(column: Column, scale: Scale, frame: Frame, cells: _Cells, sheet: Sheet) -> MetricMap:
    models = range(min(len(sheet.models), _MOST_MODELS))
    strips = [_strip(model, column.key, scale, frame, cells) for model in models]
    crowded = len(models) * len(frame.kinds) * len(frame.layers) > _MOST_CELLS
    return MetricMap(column, scale, strips, _quantiles(column, frame, cells, sheet) if crowded else [])


def _strip(model: int, key: str, scale: Scale, frame: Frame, cells: _Cells) -> Strip:
    paths: dict[int, list[str]] = defaultdict(list)
    rings, medians = [], []
    for y, kind in enumerate(frame.kinds):
        rows = [cells.get((model, kind, layer)) for layer in frame.layers]
        values = [row.values[key] if row else None for row in rows]
        steps = [None if value is None else scale.step(value) for value in values]
        for step, x, length in _runs(steps):
            paths[step].append(f"M{x} {y}h{length}")
        rings += [(x, y) for x, row in enumerate(rows) if row and row.findings]
        known = [value for value in values if value is not None]
        medians.append((f"{median(known):g}" if scale.whole else number(median(known))) if known else "")
    return Strip(model, [(step, "".join(paths[step])) for step in sorted(paths)], rings, medians)


def _runs(steps: Sequence[int | None]) -> list[tuple[int, int, int]]:
    """(step, first column, length) of each run of equal steps.

    >>> _runs([2, 2, None, 0])
    [(2, 0, 2), (0, 3, 1)]
    """
    runs, x = [], 0
    for step, group in groupby(steps):
        length = len([*group])
        if step is not None:
            runs.append((step, x, length))
        x += length
    return runs


def _quantiles(column: Column, frame: Frame, cells: _Cells, sheet: Sheet) -> list[Panel]:
    """A panel per model: median of each layer's matrices, and the band of their 10 % and 90 % quantiles."""
    log = not column.key.startswith(("intruders", "worst_cosine"))
    y = spanning(sheet.values(column.key), 90, column.unit, log=log)
    x = Axis(frame.layers[0], max(frame.layers[-1], frame.layers[0] + 1), 320, "layer")
    panels = []
    for model, label in enumerate(sheet.models[:_MOST_MODELS]):
        columns = [(layer, _of_layer(model, layer, column.key, frame, cells)) for layer in frame.layers]
        known = [(layer, quantiles(v, n=10, method="inclusive") if len(v) > 1 else v * 9) for layer, v in columns if v]
        outline = [*((layer, q[0]) for layer, q in known), *((layer, q[8]) for layer, q in reversed(known))]
        line = Line(model, [(layer, q[4]) for layer, q in known])
        panels.append(Panel(label, x, y, [line], [Line(model, outline)]))
    return panels


def _of_layer(model: int, layer: int, key: str, frame: Frame, cells: _Cells) -> list[float]:
    rows = [cells.get((model, kind, layer)) for kind in frame.kinds]
    return [value for row in rows if row and (value := row.values[key]) is not None]
