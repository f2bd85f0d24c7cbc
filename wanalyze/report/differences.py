"""How the models differ, as charts: spectra of the updates, effective rank along depth, intruders against ε and k."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from statistics import median

import numpy as np

from wanalyze.intruders import Enclosure, count_intruders
from wanalyze.naming import kind_order
from wanalyze.printable import elided
from wanalyze.report.chart import Axis, Line, Panel, spanning
from wanalyze.report.sheet import Row, Sheet
from wanalyze.result import Result

MOST_MODELS = 12  # whose lines are drawn
_TITLE = 20  # characters
_MOST_KINDS, _MOST_LAYERS = 8, 96
_WIDTH, _HEIGHT = 108, 96
_FLOOR = 1e-4  # of σ/σ₁; what lies below is drawn at it
_EPSILONS = tuple(step / 10 for step in range(1, 10))  # where every enclosure is closed


@cache
def grid(length: int) -> tuple[int, ...]:
    """Indices from 1 to `length`, two per octave: enough for a curve on a log axis.

    >>> grid(20)
    (1, 2, 3, 4, 6, 8, 12, 16, 20)
    """
    octaves = [index for power in range(length.bit_length()) for index in (2**power, 3 * 2**power)]
    return tuple(sorted({index for index in octaves if index < length} | {length})) if length else ()


def spectra_by_kind(result: Result, sheet: Sheet) -> list[Panel]:
    """σ_i/σ₁ of ΔW against i: the median over the matrices of a kind."""
    curves = {(kind, model): _median_curve(_updates(result, rows)) for (kind, model), rows in _by_kind(sheet).items()}
    longest = max((x for curve in curves.values() for x, _ in curve), default=1)
    x = Axis(1, max(longest, 2), _WIDTH, "i", log=True)
    return _panels(curves, x, Axis(_FLOOR, 1, _HEIGHT, "σ / σ₁", log=True))


def ranks_by_depth(sheet: Sheet) -> list[Panel]:
    """Effective rank of ΔW against the layer; of more than 96 layers every second, third, ..."""
    layers = sorted({place.layer for place in sheet.places if place.layer is not None})
    drawn = set(layers[:: -(-len(layers) // _MOST_LAYERS) or 1])
    curves = {
        place: sorted(
            (float(row.module.layer), value)
            for row in rows
            if row.module.layer in drawn and (value := row.values["effective_rank"]) is not None
        )
        for place, rows in _by_kind(sheet).items()
    }
    points = [point for curve in curves.values() for point in curve]
    x = Axis(0, max([layer for layer, _ in points] + [1]), _WIDTH, "layer")
    return _panels(curves, x, spanning([rank for _, rank in points], _HEIGHT, "effective rank", log=True))


def _by_kind(sheet: Sheet) -> dict[tuple[str, int], list[Row]]:
    """Rows of the first kinds, in the order of a block."""
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    kinds = sorted({place.kind for place in sheet.places if place.layer is not None}, key=kind_order)[:_MOST_KINDS]
    for (model, _), row in sheet.rows.items():
        if row.module.kind in kinds and model < MOST_MODELS:
            found[row.module.kind, model].append(row)
    return {place: found[place] for place in sorted(found, key=lambda p: (kinds.index(p[0]), p[1]))}


def _updates(result: Result, rows: Iterable[Row]) -> Iterator[np.ndarray]:
    for row in rows:
        values = result.arrays.get(f"{row.module.model}/{row.module.name}/update_values")
        if values is not None and len(values) and values[0] > 0:
            yield values


def _median_curve(spectra: Iterable[np.ndarray]) -> list[tuple[float, float]]:
    heights: dict[int, list[float]] = defaultdict(list)
    count = 0
    for values in spectra:
        count += 1
        for index in grid(len(values)):
            heights[index].append(float(values[index - 1] / values[0]))
    shared = [(index, median(found)) for index, found in sorted(heights.items()) if 2 * len(found) > count]
    return [(index, height) for index, height in shared if height >= _FLOOR]


def _panels(curves: Mapping[tuple[str, int], list[tuple[float, float]]], x: Axis, y: Axis) -> list[Panel]:
    kinds = list(dict.fromkeys(kind for kind, _ in curves))
    return [
        Panel(
            elided(kind, _TITLE),
            x,
            y,
            [Line(model, curve) for (of, model), curve in curves.items() if of == kind and curve],
        )
        for kind in kinds
    ]


def intruder_curves(result: Result) -> list[Panel]:
    """Intruders per matrix against ε at the run's k, and against k at the run's ε; both sides."""
    settings = result.settings
    epsilons = sorted({*_EPSILONS, settings.epsilon})
    panels = []
    for side, place in (("left", "output side"), ("right", "input side")):
        found = [_cosines(result, label.label, side) for label in result.models[:MOST_MODELS]]
        at = [[(epsilon, _per_matrix(all_, epsilon)) for epsilon in epsilons] for all_ in found]
        upto = [_upto(all_, settings.epsilon) for all_ in found]
        for curves, x, mark in (
            (at, Axis(0, 1, 210, "ε"), settings.epsilon),
            (upto, Axis(0, settings.top_k, 210, "k"), float(settings.top_k)),
        ):
            y = spanning([v for curve in curves for _, v in curve], _HEIGHT, "per matrix")
            lines = [Line(model, curve) for model, curve in enumerate(curves) if found[model]]
            panels.append(Panel(f"against {x.title}, {place}", x, y, lines, mark=mark))
    return panels


def _cosines(result: Result, model: str, side: str) -> list[list[Enclosure]]:
    """The enclosures of each matrix that has some."""
    modules = [module for module in result.modules if module.model == model]
    sides = [module.max_cosine_left if side == "left" else module.max_cosine_right for module in modules]
    return [cosines for cosines in sides if cosines]


def _per_matrix(found: list[list[Enclosure]], epsilon: float) -> float:
    return sum(count_intruders(cosines, epsilon) for cosines in found) / max(len(found), 1)


def _upto(found: list[list[Enclosure]], epsilon: float) -> list[tuple[float, float]]:
    """How many intruders a matrix has among its first 1, 2, ... vectors, up to all that a matrix has."""
    longest = max(map(len, found), default=0)
    each = [count_intruders([c[i] for c in found if i < len(c)], epsilon) for i in range(longest)]
    return [(k, count / max(len(found), 1)) for k, count in enumerate(accumulate(each), start=1)]
