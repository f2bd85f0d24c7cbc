"""What is asked of a pair of matrices, and the record of numbers that comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from wanalyze.intruders import Enclosure, is_intruder
from wanalyze.metrics import METRICS
from wanalyze.spectra.certificate import count_alive
from wanalyze.spectra.comparison import Overlaps
from wanalyze.spectra.overlaps import GRID


@dataclass(frozen=True)
class Missing:
    """In place of a number that cannot be had."""

    reason: str


Number: TypeAlias = float | int
Outcome: TypeAlias = float | int | Missing
SideName: TypeAlias = Literal["left", "right"]


@dataclass(frozen=True)
class Scope:
    """The run's k and ε, and the dtype of products and iterations: anything below float64 gives estimates."""

    top_k: int
    epsilon: float
    dtype: torch.dtype = torch.float64

    @cached_property
    def epsilons(self) -> tuple[float, ...]:
        """Enclosures are closed until they decide all of these: the curves over ε come from them."""
        return tuple(sorted({*GRID, self.epsilon}))


@dataclass(frozen=True)
class Ambiguous:
    """Vectors of W1 without an answer: `vectors` share a direction that is not theirs alone, or ε lies within
    the enclosure; `cosine` is that of the subspace they are compared in.
    """

    side: SideName
    vectors: tuple[int, ...]
    cosine: float
    reason: str


@dataclass(frozen=True)
class Side:
    """Enclosures of max_j |cos| for the top k vectors of one side, and the j they point to.

    `similarity` (a, b) are the cosines of leading vectors of W1 (rows) and W0, None where there are no such vectors.
    """

    cosines: tuple[Enclosure, ...] = ()
    matched: tuple[int | None, ...] = ()
    ambiguous: tuple[Ambiguous, ...] = ()
    similarity: Tensor | None = None


@dataclass(frozen=True)
class Measurement:
    """All numbers of one matrix; `missing` says why a metric is None."""

    changed: bool
    metrics: Mapping[str, Number | None]
    missing: Mapping[str, str]
    left: Side = field(default_factory=Side)
    right: Side = field(default_factory=Side)
    spectra: Mapping[str, Tensor] = field(default_factory=dict)


def measured(outcomes: Mapping[str, Outcome], left: Side, right: Side, spectra: Mapping[str, Tensor]) -> Measurement:
    return Measurement(True, *split(outcomes), left, right, spectra)


def unmeasurable() -> Measurement:
    """In place of a measurement that failed."""
    outcomes: dict[str, Outcome] = dict.fromkeys(METRICS, Missing("the matrix could not be measured"))
    return Measurement(False, *split(outcomes))


def untouched(shape: tuple[int, int], scope: Scope) -> Measurement:
    """The numbers of a matrix that an adapter leaves alone: known without reading it."""
    return unchanged(shape, scope, Missing("not read: the adapter does not touch this matrix"))


def unchanged(
    shape: tuple[int, int], scope: Scope, base_norm: Outcome, base_values: Tensor | None = None
) -> Measurement:
    """Of a zero update some numbers are known (nothing moved), the others do not exist."""
    outcomes: dict[str, Outcome] = dict.fromkeys(METRICS, Missing("the update is zero"))
    zeros = (
        "delta_norm",
        "relative_norm",
        "delta_spectral_norm",
        "relative_spectral_norm",
        "changed_fraction",
    )
    outcomes |= dict.fromkeys((*zeros, "magnitude_change", "direction_change"), 0.0)
    outcomes |= dict.fromkeys(("intruders_left", "intruders_right"), 0)
    outcomes |= dict.fromkeys(("intruder_energy_left", "intruder_energy_right"), 0.0)
    outcomes["base_norm"] = base_norm
    k = min(scope.top_k, *shape)
    if base_values is not None:
        k = min(k, count_alive(base_values))
    side = Side(((1.0, 1.0),) * k, tuple(range(k)))
    spectra = {} if base_values is None else {"base_values": base_values}
    return Measurement(False, *split(outcomes), side, side, spectra)


def side_of(name: SideName, found: Overlaps, epsilon: float) -> Side:
    """What a view needs of the overlaps of one side, at the run's ε."""
    cosines = tuple(zip(found.low.tolist(), found.high.tolist(), strict=True))
    matched = tuple(
        j if j >= 0 and is_intruder(cosine, epsilon) is False else None
        for j, cosine in zip(found.matched.tolist(), cosines, strict=True)
    )
    alone = found.alone.tolist()
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(found.group.tolist()):
        groups.setdefault(group, []).append(i)
    ambiguous = []
    for vectors in groups.values():
        low, high = cosines[vectors[0]]
        if not alone[vectors[0]]:
            reason = "singular values of the tuned matrix not separated"
        elif is_intruder((low, high), epsilon) is None:
            reason = "epsilon lies within the enclosure of the cosine"
        else:
            continue
        ambiguous.append(Ambiguous(name, tuple(vectors), high, reason))
    return Side(cosines, matched, tuple(ambiguous), found.similarity)


def split(outcomes: Mapping[str, Outcome]) -> tuple[dict[str, Number | None], dict[str, str]]:
    """The numbers, None where there is none, and the reason for each None."""
    metrics = {key: None if isinstance(found, Missing) else found for key, found in outcomes.items()}
    return metrics, {key: found.reason for key, found in outcomes.items() if isinstance(found, Missing)}
