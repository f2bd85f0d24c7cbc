"""Layer x kind maps: one strip per model and metric, drawn as data for the template's SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from wanalyze.metrics import METRICS
from wanalyze.naming import kind_order
from wanalyze.report.scale import Scale, counts, logarithmic
from wanalyze.result import Module, Result
from wanalyze.wording import number

CELL, TOP, _GAP = 18, 16, 1  # pixels; TOP leaves room for the layers' numbers
_MOST_KINDS, _MOST_LAYERS = 40, 256
_LONGEST_LABEL = 40  # characters
_LABEL_WIDTH = 7  # pixels per character
MAPPED = ("effective_rank", "relative_norm", "intruders_left", "intruders_right")


@dataclass(frozen=True)
class Cell:
    x: int
    y: int
    fill: str
    says: str


@dataclass(frozen=True)
class Strip:
    """One model's map: cells in a grid of layers across and kinds down; `complete` if every place has one."""

    model: str
    method: str
    cells: list[Cell]
    rows: list[tuple[int, str]]
    columns: list[tuple[int, str]]
    width: int
    height: int
    left: int
    complete: bool


@dataclass(frozen=True)
class MetricMap:
    """All strips of one metric, on one scale."""

    key: str
    title: str
    scale: Scale
    strips: list[Strip]


def metric_maps(result: Result) -> list[MetricMap]:
    """A map for each metric of MAPPED, over the modules that lie in a layer."""
    return [_metric_map(result, key) for key in MAPPED]


def outside_the_stack(result: Result) -> list[str]:
    """Modules without a layer, which no map can show."""
    return sorted({module.name for module in result.modules if module.layer is None})


def _metric_map(result: Result, key: str) -> MetricMap:
    inside = [module for module in result.modules if module.layer is not None]
    values = [value for module in inside if (value := module.metric(key)) is not None]
    unit = METRICS[key].unit
    counted = key.startswith("intruders")
    scale = counts(result.settings.top_k, unit) if counted else logarithmic(values, unit)
    kinds, layers = _axes(inside)
    strips = [
        _strip(
            [m for m in inside if m.model == model.label],
            model.label,
            model.method,
            key,
            scale,
            kinds,
            layers,
        )
        for model in result.models
    ]
    return MetricMap(key, METRICS[key].title, scale, strips)


def cut_from_maps(result: Result) -> list[str]:
    """What the maps leave out for size, in words; empty for all but very large or forged models."""
    inside = [module for module in result.modules if module.layer is not None]
    all_kinds, all_layers = len({m.kind for m in inside}), len({m.layer for m in inside})
    return [
        f"{most} of {count} {what}"
        for count, most, what in ((all_kinds, _MOST_KINDS, "kinds"), (all_layers, _MOST_LAYERS, "layers"))
        if count > most
    ]


def _axes(modules: Sequence[Module]) -> tuple[list[str], list[int]]:
    kinds = sorted({module.kind for module in modules}, key=kind_order)
    layers = sorted({module.layer for module in modules if module.layer is not None})
    return kinds[:_MOST_KINDS], layers[:_MOST_LAYERS]


def _strip(
    modules: Sequence[Module],
    model: str,
    method: str,
    key: str,
    scale: Scale,
    kinds: Sequence[str],
    layers: Sequence[int],
) -> Strip:
    here: dict[tuple[str, int | None], list[Module]] = defaultdict(list)
    for module in modules:
        here[module.kind, module.layer].append(module)
    left = _LABEL_WIDTH * min(_LONGEST_LABEL, max((len(kind) for kind in kinds), default=0)) + 8
    pitch = CELL + _GAP
    cells = [
        _cell(here[kind, layer], key, scale, left + column * pitch, TOP + row * pitch, f"layer {layer} {kind}")
        for row, kind in enumerate(kinds)
        for column, layer in enumerate(layers)
        if (kind, layer) in here
    ]
    every = max(1, round(len(layers) / 12))
    return Strip(
        model=model,
        method=method,
        cells=cells,
        rows=[(TOP + row * pitch + CELL // 2, kind[:_LONGEST_LABEL]) for row, kind in enumerate(kinds)],
        columns=[
            (left + column * pitch + CELL // 2, str(layer))
            for column, layer in enumerate(layers)
            if column % every == 0
        ],
        width=left + len(layers) * pitch,
        height=TOP + len(kinds) * pitch,
        left=left,
        complete=len(cells) == len(kinds) * len(layers),
    )


def _cell(modules: Sequence[Module], key: str, scale: Scale, x: int, y: int, where: str) -> Cell:
    values = [value for module in modules if (value := module.metric(key)) is not None]
    if not values:
        why = next((module.reason or module.missing.get(key) for module in modules), None)
        return Cell(x, y, "url(#unmeasured)", f"{where}: not measured ({why})")
    value = median(values)
    several = f" (median of {len(values)})" if len(values) > 1 else ""
    return Cell(x, y, scale.colour(value), f"{where}: {number(value)}{several}")
