"""One matrix in full: spectra, cosines and similarity, coded as short as a page of hundreds of them needs.

The script of the page draws the same codes; `points`, `marks` and `squares` are its twins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np

from wanalyze.intruders import Enclosure, is_intruder
from wanalyze.report.differences import grid
from wanalyze.report.scale import RAMP
from wanalyze.report.sheet import Row, Sheet
from wanalyze.result import Result

WIDTH, HEIGHT, SIZE = 150, 120, 32  # pixels; SIZE in vectors
TOP_DECADE, DECADE = 1, 20  # the power of ten at the upper edge, pixels for each; fixed, so that matrices compare
_WIDE = 5  # thousandths from which an enclosure is drawn as wide

Curve: TypeAlias = list[
    int
]  # the length of a spectrum, its height in pixels from the top, and by how much it falls along grid(length)
Mille: TypeAlias = "int | list[int]"  # a cosine in thousandths, or [low, high] where they differ visibly


@dataclass(frozen=True)
class Detail:
    """Of one model: spectra of W1 and ΔW, rounding edge, cosines and |U1ᵀU0| of both sides."""

    tuned: Curve
    update: Curve
    edge: int | None
    left: list[Mille]
    right: list[Mille]
    similarity_left: str | None
    similarity_right: str | None

    @property
    def code(self) -> list[object]:
        spectra = [self.tuned, self.update, self.edge]
        return [*spectra, self.left, self.right, self.similarity_left, self.similarity_right]


@dataclass(frozen=True)
class Matrix:
    """The spectrum of W0, and by model the details and the numbers that are in no column, each before its percentile.

    None stands for a model that has no such matrix.
    """

    base: Curve
    models: list[Detail | None]
    numbers: list[list[float | int | None] | None]

    @property
    def short(self) -> Matrix:
        """Without the similarities, which are most of it."""
        bare = [replace(m, similarity_left=None, similarity_right=None) if m else None for m in self.models]
        return Matrix(self.base, bare, self.numbers)

    @property
    def code(self) -> list[object]:
        return [self.base, [detail.code if detail else None for detail in self.models], self.numbers]


def matrix(result: Result, sheet: Sheet, name: int, keys: Sequence[str]) -> Matrix:
    """One matrix of all models, with the numbers of `keys`; |U1ᵀU0| is None where the run has none."""
    models = range(len(sheet.models))
    rows = [sheet.rows.get((model, name)) for model in models]
    bases = [_base(result, row) for row in rows if row]
    base = next((values for values in bases if len(values)), np.zeros(0))
    unit = float(base[0]) if len(base) and base[0] > 0 else 1.0
    return Matrix(
        _curve(base, unit),
        [_detail(result, row, unit) if row else None for row in rows],
        [_numbers(sheet, (model, name), keys) if row else None for model, row in enumerate(rows)],
    )


def _numbers(sheet: Sheet, place: tuple[int, int], keys: Sequence[str]) -> list[float | int | None]:
    return [part for key in keys for part in (sheet.short(place, key), sheet.percentile(*place, key))]


def _base(result: Result, row: Row) -> np.ndarray:
    module = row.module
    own = result.arrays.get(f"{module.model}/{module.name}/base_values")
    return own if own is not None else result.arrays.get(f"base/{module.name}/values", np.zeros(0))


def _detail(result: Result, row: Row, unit: float) -> Detail:
    module = row.module
    edge = module.metric("noise_edge")

    def array(name: str) -> np.ndarray | None:
        return result.arrays.get(f"{module.model}/{module.name}/{name}")

    tuned, update = (array(name) for name in ("tuned_values", "update_values"))
    return Detail(
        _curve(tuned, unit),
        _curve(update, unit),
        _height(edge / unit) if edge else None,
        [_mille(cosine) for cosine in module.max_cosine_left],
        [_mille(cosine) for cosine in module.max_cosine_right],
        packed(array("similarity_left")),
        packed(array("similarity_right")),
    )


def _curve(values: np.ndarray | None, unit: float) -> Curve:
    if values is None or not len(values):
        return []
    heights = [_height(float(values[index - 1]) / unit) for index in grid(len(values))]
    return [len(values), heights[0], *(low - high for high, low in pairwise(heights))]


def _height(value: float) -> int:
    return round(min(max(TOP_DECADE - math.log10(value), 0) * DECADE, HEIGHT)) if value > 0 else HEIGHT


def _mille(cosine: Enclosure) -> Mille:
    # Rounded down: what is below ε stays below it.
    low, high = (math.floor(1000 * end) for end in cosine)
    return high if high - low < _WIDE else [low, high]


def points(curve: Curve, longest: int) -> str:
    """The points of a polyline, x on a log axis up to `longest`; it ends where it meets the lower edge."""
    if not curve:
        return ""
    length, *falls = curve
    heights = list(accumulate(falls))
    end = heights.index(HEIGHT) + 1 if HEIGHT in heights else len(heights)
    places = zip(grid(length)[:end], heights, strict=False)
    return " ".join(f"{_along(index, longest):.1f},{height}" for index, height in places)


def _along(index: int, longest: int) -> float:
    return WIDTH * math.log(index) / math.log(max(longest, 2))


def marks(cosines: Sequence[Mille], epsilon: float) -> tuple[str, str]:
    """Paths of the enclosures: of those that are no intruders, and of intruders."""
    paths = ["", ""]
    for i, found in enumerate(cosines):
        low, high = found if isinstance(found, list) else (found, found)
        x = (i + 0.5) * WIDTH / len(cosines)
        top, bottom = (HEIGHT * (1000 - value) / 1000 for value in (high, low))
        paths[_hit(found, epsilon)] += f"M{x:.1f} {top - 1:.1f}V{bottom + 1:.1f}"
    return paths[0], paths[1]


def _hit(found: Mille, epsilon: float) -> bool:
    low, high = found if isinstance(found, list) else (found, found)
    return is_intruder((low / 1000, high / 1000), epsilon) is True


def flags(cosines: Sequence[Mille], epsilon: float) -> str:
    """A path that points at the rows of intruders in a similarity map."""
    return "".join(f"M-1.6 {i + 0.5:g}h1.4" for i, found in enumerate(cosines[:SIZE]) if _hit(found, epsilon))


def packed(similarity: np.ndarray | None) -> str | None:
    """Steps of the ramp as digits, row by row: letters stand for runs of zeros, a for one; the last run is left out.

    >>> packed(np.array([[0.99, 0.1, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]))
    '6b3,'
    """
    if similarity is None:
        return None
    steps = np.minimum(np.nan_to_num(similarity[:SIZE, :SIZE]) * len(RAMP), len(RAMP) - 1).astype(int)
    rows = ("".join(map(str, row)).rstrip("0") for row in steps)
    return ",".join(re.sub("0{1,26}", lambda run: chr(96 + len(run[0])), row) for row in rows)


def squares(code: str) -> list[str]:
    """A path of the cells of each step of the ramp but the lowest, which is the ground."""
    rows = [re.sub("[a-z]", lambda letter: "0" * (ord(letter[0]) - 96), row) for row in code.split(",")]
    return [
        "".join(f"M{x} {y}h1" for y, row in enumerate(rows) for x, digit in enumerate(row) if digit == str(step))
        for step in range(1, len(RAMP))
    ]
