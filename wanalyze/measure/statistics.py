"""The statistics of an update that an audit asks for, without its base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType

import torch
from torch import Tensor

from wanalyze.measure.alone import (
    IS_DENSE,
    IS_ZERO,
    Alone,
    finite_factor,
    has_cheap_values,
    of_entries,
    of_values,
    values_of,
    values_of_triangles,
)
from wanalyze.measure.measurement import Missing, Outcome, split
from wanalyze.operators import LowRank, Operator
from wanalyze.spectra import ranks
from wanalyze.spectra.decomposition import triangles
from wanalyze.spectra.entries import Kurtosis, kurtosis, line_norms

_PASS = 2**28  # entries that are passed over one by one; of a product of two factors no pass is needed
_TOO_MANY = Missing("a matrix of so many entries that to look at each takes minutes")
_FLAT = Missing("all entries of the update are equal, or so nearly that to tell takes too long")


@dataclass(frozen=True, eq=False)
class _Update:
    """ΔW (m, n), and what its statistics share."""

    operator: Operator

    @cached_property
    def triangles(self) -> tuple[Tensor, Tensor] | None:
        return triangles(self.operator) if isinstance(self.operator, LowRank) else None

    @cached_property
    def values(self) -> Tensor | None:
        if isinstance(self.operator, LowRank) and self.triangles is not None:
            return values_of_triangles(self.operator, self.triangles)
        return values_of(self.operator) if has_cheap_values(self.operator) else None

    @cached_property
    def lines(self) -> tuple[Tensor, Tensor]:
        return line_norms(self.operator, self.triangles)

    @cached_property
    def kurtosis(self) -> Kurtosis | None:
        return kurtosis(self.operator, self.lines)


def measure_statistics(update: Operator) -> Alone:
    """The `ALONE` metrics and the `STATISTICS` of ΔW (m, n): of a large dense one those of its entries only.

    NumericsError if it is not finite.
    """
    found = _Update(update.map(finite_factor))
    alone = of_entries(update) if found.values is None else of_values(found.values)
    outcomes = {key: Missing(IS_ZERO) if alone.is_zero else compute(found) for key, compute in COMPUTE.items()}
    metrics, missing = split(outcomes)
    return Alone({**alone.metrics, **metrics}, {**alone.missing, **missing})


def _of_values(number: Callable[[Tensor], Tensor]) -> Callable[[_Update], Outcome]:
    return lambda x: Missing(IS_DENSE) if x.values is None else number(x.values).item()


def _weakest_direction(x: _Update) -> Outcome:
    if not isinstance(x.operator, LowRank) or x.values is None:
        return Missing("not a product of two factors, so it promises no number of directions")
    return (x.values[-1] / x.values[0]).item()


def _is_passable(x: _Update) -> bool:
    return isinstance(x.operator, LowRank) or math.prod(x.operator.shape) <= _PASS


def _kurtosis(x: _Update) -> Outcome:
    if not _is_passable(x):
        return _TOO_MANY
    return _FLAT if x.kurtosis is None else x.kurtosis.value


def _kurtosis_error(x: _Update) -> Outcome:
    if not _is_passable(x):
        return _TOO_MANY
    return _FLAT if x.kurtosis is None else x.kurtosis.error or 0.0


def _peak(x: _Update, line: int) -> Outcome:
    if not _is_passable(x):
        return _TOO_MANY
    norms = x.lines[line]
    middle = norms.median()
    return (norms.amax() / middle).item() if middle > 0 else Missing("half of them or more are zero")


COMPUTE: Mapping[str, Callable[[_Update], Outcome]] = MappingProxyType(
    {
        "energy_rank_90": _of_values(partial(ranks.energy_rank, share=0.9)),
        "energy_rank_99": _of_values(partial(ranks.energy_rank, share=0.99)),
        "dominance": _of_values(lambda values: 1 / ranks.stable_rank(values)),
        "concentration": _of_values(lambda values: values[0] / values.sum()),
        "spectral_entropy": _of_values(lambda values: torch.log(ranks.effective_rank(values))),
        "weakest_direction": _weakest_direction,
        "kurtosis": _kurtosis,
        "kurtosis_error": _kurtosis_error,
        "row_peak": partial(_peak, line=0),
        "column_peak": partial(_peak, line=1),
    }
)
