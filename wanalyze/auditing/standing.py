"""Where an adapter stands among those of a bank: percentiles with what they are worth, and no verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from types import MappingProxyType
from typing import Literal

from wanalyze.auditing.bank import Bank, BankAdapter, Recipe
from wanalyze.result.records import Number, Record

Over = Literal["smallest", "median", "largest"]
Statistics = Mapping[str, Mapping[str, Sequence[float]]]

_OVER: Mapping[Over, Callable[[Sequence[float]], float]] = MappingProxyType(
    {"smallest": min, "median": median, "largest": max}
)
_Z = 1.959964  # two-sided 95 % of the normal distribution


class Standing(Record):
    """A statistic of one kind of module, over its layers, among the same of `adapters` in the bank.

    `percentile` is 100 times the share of them below it, ties by half; `low` and `high` are its 95 % confidence
    interval (Wilson). No percentile is finer than 100 / (adapters + 1).
    """

    kind: str
    statistic: str
    over: Over
    value: Number
    adapters: int
    percentile: Number
    low: Number
    high: Number


class Standings(Record):
    """How an adapter compares with a bank.

    `matched` says whether the adapters it is compared with were made by its recipe; `note` what is not as it should
    be. `outside` counts the numbers beyond the range of the bank's; of `expected` that many would be if this adapter
    had been drawn as those of the bank were.
    """

    adapters: int
    matched: bool
    note: str | None = None
    outside: int
    expected: Number
    standings: list[Standing]


def stand(statistics: Statistics, recipe: Recipe, hashes: frozenset[str], bank: Bank) -> Standings:
    """Compare with the adapters of the same recipe; where there are none, with all, and say so."""
    others = [adapter for adapter in bank.adapters if not adapter.hashes & hashes]
    matched = [adapter for adapter in others if adapter.recipe == recipe]
    standings = [*_standings(statistics, matched or others)]
    return Standings(
        adapters=len(matched or others),
        matched=bool(matched),
        note=_note(recipe, bank, others, matched),
        outside=sum(standing.percentile in (0, 100) for standing in standings),
        expected=sum(2 / (standing.adapters + 1) for standing in standings),
        standings=standings,
    )


def _note(recipe: Recipe, bank: Bank, others: Sequence[BankAdapter], matched: Sequence[BankAdapter]) -> str | None:
    said = ["the adapter itself is in the bank, and was left out"] if len(others) < len(bank.adapters) else []
    if others and not matched:
        near = max(others, key=lambda adapter: _agreement(recipe, adapter.recipe)).recipe
        differing = [name for name in Recipe.model_fields if getattr(near, name) != getattr(recipe, name)]
        said.append(
            f"none of the bank's adapters was made by this recipe: the nearest differs in {', '.join(differing)}"
        )
    return "; ".join(said) or None


def _agreement(first: Recipe, second: Recipe) -> int:
    return sum(getattr(first, name) == getattr(second, name) for name in Recipe.model_fields)


def _standings(statistics: Statistics, adapters: Sequence[BankAdapter]) -> Iterator[Standing]:
    for kind, by_key in statistics.items():
        for key, values in by_key.items():
            known = [found for adapter in adapters if (found := adapter.statistics.get(kind, {}).get(key))]
            for over, reduce in _OVER.items():
                if known:
                    yield _standing(kind, key, over, reduce(values), [reduce(found) for found in known])


def _standing(kind: str, key: str, over: Over, value: float, known: Sequence[float]) -> Standing:
    n = len(known)
    share = (sum(other < value for other in known) + sum(other == value for other in known) / 2) / n
    low, high = wilson(share, n)
    return Standing(
        kind=kind,
        statistic=key,
        over=over,
        value=value,
        adapters=n,
        percentile=round(100 * share, 2),
        low=round(100 * low, 2),
        high=round(100 * high, 2),
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share seen in n (Wilson 1927).

    >>> [round(end, 3) for end in wilson(0.5, 10)], [round(end, 3) for end in wilson(1.0, 10)]
    ([0.237, 0.763], [0.722, 1.0])
    """
    spread = _Z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * ((share * (1 - share) + spread / 4) / n) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
