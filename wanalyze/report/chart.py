"""Line charts as data for the template's SVG: axes in pixels, lines as points of a polyline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Okabe and Ito's colours, told apart by their dashes as well; `m0` to `m7` in the stylesheet.
STYLES = (
    ("#0072b2", ""),
    ("#d55e00", "6 2"),
    ("#009e73", "2 2"),
    ("#a8488a", "8 2 2 2"),
    ("#4a4a4a", "4 4"),
    ("#56b4e9", "1 2"),
    ("#b37a00", "10 3"),
    ("#7a3e1d", "3 1 1 1"),
)


def style(model: int) -> tuple[str, str, str]:
    """Class, colour and dashes of a model's lines."""
    place = model % len(STYLES)
    return (f"m{place}", *STYLES[place])


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """From values to pixels; what lies beyond an end is drawn at it."""

    low: float
    high: float
    length: int
    title: str
    log: bool = False

    def at(self, value: float) -> float:
        """Pixels from the low end."""
        held = min(max(value, self.low), self.high)
        if self.log:
            return self.length * math.log(held / self.low) / math.log(self.high / self.low)
        return self.length * (held - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(pixels from the low end, text), three to six of them."""
        steps = _decades(self.low, self.high) if self.log else _round_steps(self.low, self.high)
        return [(round(self.at(value), 1), _short(value)) for value in steps]


@dataclass(frozen=True)
class Line:
    model: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart; `bands` are areas between two lines, given as their outline."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    bands: Sequence[Line] = ()
    mark: float | None = None  # a value of x that deserves a line

    def points(self, line: Line) -> str:
        """The `points` of a polyline, y downwards."""
        return " ".join(f"{self.x.at(x):.3g},{self.y.length - self.y.at(y):.3g}" for x, y in line.points)


def spanning(values: Sequence[float], length: int, title: str, *, log: bool = False) -> Axis:
    """An axis that holds all `values`, from 0 if it is linear."""
    if log:
        positive = [value for value in values if value > 0] or [1.0]
        low, high = min(positive), max(positive)
        return Axis(low / 1.15, high * 1.15, length, title, log=True)
    return Axis(0.0, max([*values, 0.0]) or 1.0, length, title)


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, round((last - first) / 4))
    digits = (1,) if last - first > 2 else (1, 2, 5)
    marks = [digit * 10.0**power for power in range(first, last + 1, every) for digit in digits]
    return [mark for mark in marks if low <= mark <= high]


def _round_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= rough)
    return list(_multiples(step, low, high))


def _multiples(step: float, low: float, high: float) -> Iterator[float]:
    count = math.ceil(low / step - 1e-9)
    while count * step <= high * (1 + 1e-9):
        yield count * step
        count += 1


def _short(value: float) -> str:
    """A tick's text.

    >>> _short(0.5), _short(20.0), _short(1e-05), _short(2e4)
    ('0.5', '20', '10⁻⁵', '2·10⁴')
    """
    if value == 0 or 1e-2 <= value < 1e4:
        return f"{value:g}"
    digit, power = f"{value:.0e}".split("e")
    return ("" if digit == "1" else f"{digit}·") + "10" + str(int(power)).translate(_RAISED)
