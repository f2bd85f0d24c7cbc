"""How far a module lies from those of the same kind in other layers of its own adapter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from wanalyze.result import Change, Status

FEWEST = 8  # modules of a kind: below, a median and a spread say nothing of the next one
# Numbers of which a ratio is what counts, and that are positive.
COMPARED = ("delta_norm", "delta_spectral_norm", "effective_rank", "stable_rank", "kurtosis", "row_peak", "column_peak")
_TO_SIGMA = 1.4826  # a MAD of a normal distribution by its standard deviation
_LEAST_SPREAD = 0.01  # of a logarithm: modules equal to 1 % are equal


@dataclass(frozen=True)
class Distance:
    """`z` of ln `statistic` of a module among the `peers` of its kind, itself included."""

    change: Change
    statistic: str
    z: float
    peers: int


def distances(changes: Iterable[Change]) -> Iterator[Distance]:
    """Of every module with enough peers, each statistic's (ln x − median) / (1.4826 · MAD)."""
    kinds: dict[str, list[Change]] = {}
    for change in changes:
        if change.status is Status.measured and change.layer is not None:
            kinds.setdefault(change.kind, []).append(change)
    for peers in kinds.values():
        for statistic in COMPARED:
            known = [(change, value) for change in peers if (value := change.metrics.get(statistic))]
            if len(known) >= FEWEST:
                scores = robust_scores([math.log(value) for _, value in known])
                yield from (
                    Distance(change, statistic, z, len(known)) for (change, _), z in zip(known, scores, strict=True)
                )


def robust_scores(values: Sequence[float]) -> list[float]:
    """(x − median) / (1.4826 · MAD), the spread at least 0.01.

    >>> [round(z, 2) for z in robust_scores([1.0, 2.0, 3.0, 4.0, 100.0])]
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    middle = median(values)
    spread = max(_TO_SIGMA * median(abs(value - middle) for value in values), _LEAST_SPREAD)
    return [(value - middle) / spread for value in values]
