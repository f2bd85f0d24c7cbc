"""One colour scale for all maps of a metric: steps, their limits and their colours."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from wanalyze.numerals import number

# Light to dark, equal steps of lightness; grey is in none of them, so hatching can mean "not measured".
# The stylesheet turns the ramp round on dark paper: `s0` to `s6` name its steps.
RAMP = ("#fffbe3", "#d5ecc4", "#9ed8c0", "#5fb9c6", "#3a8fbd", "#33619f", "#2b2f73")


@dataclass(frozen=True)
class Scale:
    """Steps of RAMP between `limits`, which are one fewer."""

    limits: tuple[float, ...]
    steps: tuple[int, ...]
    unit: str
    most: int | None = None  # the largest there can be, of whole numbers

    @property
    def whole(self) -> bool:
        """Whether the steps hold whole numbers."""
        return self.most is not None

    def step(self, value: float) -> int:
        """The place in RAMP of the colour of `value`."""
        return self.steps[bisect_right(self.limits, value)]

    @property
    def legend(self) -> list[tuple[int, str]]:
        """(place in RAMP, what it stands for) from low to high."""
        if not self.limits:
            return [(self.steps[0], "all alike")]
        if self.most is not None:
            return list(zip(self.steps, _whole_steps([int(limit) for limit in self.limits], self.most), strict=True))
        ends = [number(limit, 2) for limit in self.limits]
        texts = [f"below {ends[0]}", *map(" to ".join, itertools.pairwise(ends)), f"{ends[-1]} or more"]
        return list(zip(self.steps, texts, strict=True))


def logarithmic(values: Sequence[float], unit: str) -> Scale:
    """Steps of equal ratio between the least and the greatest positive value: a few outliers hide nothing."""
    positive = [value for value in values if value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 1.0)
    if high / low < 1.001:
        return Scale((), (2,), unit)
    ratio = math.log(high / low) / len(RAMP)
    limits = {float(f"{low * math.exp(ratio * step):.2g}") for step in range(1, len(RAMP))}
    return Scale(tuple(sorted(limits)), tuple(range(len(RAMP)))[len(RAMP) - 1 - len(limits) :], unit)


def counts(most: int, unit: str) -> Scale:
    """0 has a colour of its own, the rest is cut into steps of whole numbers up to `most`."""
    edges = sorted({1, *(round(1 + (most - 1) * step / 5) for step in range(1, 6))}) if most > 1 else [1]
    return Scale(tuple(edges), (0, *range(len(RAMP) - len(edges), len(RAMP))), unit, most)


def cosines(epsilon: float, unit: str) -> Scale:
    """Three steps below ε, which are intruders and dark, and four above."""
    below = [epsilon * third / 3 for third in (1, 2)]
    above = [epsilon + (1 - epsilon) * quarter / 4 for quarter in (1, 2, 3)]
    limits = (*(float(f"{limit:.2g}") for limit in below), epsilon, *(float(f"{limit:.2g}") for limit in above))
    return Scale(limits, tuple(reversed(range(len(RAMP)))), unit)


def _whole_steps(edges: Sequence[int], most: int) -> list[str]:
    """What whole numbers up to `most` each step holds.

    >>> _whole_steps([1, 3, 4], 4)
    ['0', '1–2', '3', '4']
    """
    spans = itertools.pairwise((*edges, most + 1))
    return ["0", *(str(low) if high - low == 1 else f"{low}–{high - 1}" for low, high in spans)]
