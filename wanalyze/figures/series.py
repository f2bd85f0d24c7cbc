"""What a figure shows as one line: a model, or several runs of one method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from wanalyze.errors import FigureError
from wanalyze.figures.labels import plain

if TYPE_CHECKING:
    import numpy as np

    from wanalyze.result import Model, Module, Result

MOST_SERIES = 12


@dataclass(frozen=True)
class Member:
    """One model of one run; `run` is what the run is called, to tell models of one label apart."""

    result: Result
    label: str
    run: str = ""

    @property
    def address(self) -> str:
        """RUN/LABEL."""
        return f"{self.run}/{self.label}"

    @property
    def model(self) -> Model:
        return next(model for model in self.result.models if model.label == self.label)

    @cached_property
    def modules(self) -> dict[str, Module]:
        return {module.name: module for module in self.result.modules if module.model == self.label}

    def array(self, module: str, name: str) -> np.ndarray | None:
        """An array of the run, None where it has none."""
        return self.result.arrays.get(f"{self.label}/{module}/{name}")


@dataclass(frozen=True)
class Series:
    """Members drawn as one: their mean, and their standard deviation as a band."""

    label: str
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        shapes: dict[str, list[int]] = {}
        for member in self.members:
            for module in member.modules.values():
                if shapes.setdefault(module.name, module.shape) != module.shape:
                    raise FigureError(
                        f"{self.label}: {module.name} is {shapes[module.name]} in one run and {module.shape} in "
                        "another; only runs on one base can be averaged"
                    )

    @property
    def legend(self) -> str:
        """What the legend calls it."""
        return self.named(24)

    def named(self, most: int) -> str:
        """Its label in at most so many characters, the number of runs, and the word for what float32 computed."""
        several = f" ($n={len(self.members)}$)" if len(self.members) > 1 else ""
        return f"{plain(self.label, most)}{several}{' (estimate)' if self.estimated else ''}"

    @property
    def estimated(self) -> bool:
        """Whether some of its numbers are estimates."""
        return any(member.result.settings.estimated for member in self.members)


Shown: TypeAlias = "Result | Series"


def series_of(shown: Iterable[Shown]) -> list[Series]:
    """Results and series as series; models of one label in several results are runs of one method."""
    named: list[tuple[str, Member]] = []
    for one in shown:
        if isinstance(one, Series):
            named += [(one.label, member) for member in one.members]
        else:
            named += [(model.label, Member(one, model.label)) for model in one.models]
    return grouped(named)


def grouped(named: Iterable[tuple[str, Member]]) -> list[Series]:
    """Members by the label they are drawn under, in the order of the first of each."""
    found: dict[str, list[Member]] = {}
    for label, member in named:
        found.setdefault(label, []).append(member)
    if not found:
        raise FigureError("no model to draw: the runs compared none")
    if len(found) > MOST_SERIES:
        raise FigureError(f"{len(found)} models are more than a figure can tell apart ({MOST_SERIES}); group some")
    return [Series(label, tuple(members)) for label, members in found.items()]


class Spread(NamedTuple):
    """Mean of `n` runs and their standard deviation (n − 1 in the denominator), None for a single one."""

    n: int
    mean: float
    sd: float | None

    @property
    def low(self) -> float:
        return self.mean - (self.sd or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.sd or 0.0)


def spread(values: Sequence[float]) -> Spread:
    """Of one number per run.

    >>> spread([1.0, 3.0])
    Spread(n=2, mean=2.0, sd=1.4142135623730951)
    """
    return Spread(len(values), mean(values), stdev(values) if len(values) > 1 else None)


def same_settings(series: Sequence[Series]) -> tuple[int, float]:
    """(k, ε) of all the runs; FigureError where they differ, as counts cannot be compared then."""
    settings = [member.result.settings for one in series for member in one.members]
    pairs = sorted({(setting.top_k, setting.epsilon) for setting in settings})
    if len(pairs) > 1:
        said = " and ".join(f"k = {top_k}, ε = {epsilon:g}" for top_k, epsilon in pairs)
        raise FigureError(f"the runs counted intruders with {said}; compare them again with one --top-k and --epsilon")
    return pairs[0]
