"""What can be said of an update without its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.measure.drift import check_range, finite
from wanalyze.measure.measurement import Number
from wanalyze.metrics import ALONE
from wanalyze.operators import Dense, Kronecker, LowRank, Operator, column_blocks
from wanalyze.spectra import ranks
from wanalyze.spectra.decomposition import decompose, triangles
from wanalyze.spectra.values import SMALL, spectra

_ZERO: Mapping[str, Number | None] = MappingProxyType(dict(zip(ALONE, (0.0, 0.0, None, None), strict=True)))
IS_ZERO = "the update is zero"
IS_DENSE = "no product of small factors, so its spectrum costs as much as a comparison: compare it with its base"


@dataclass(frozen=True)
class Alone:
    """The metrics of ΔW that need no base, and the reason for each that is None."""

    metrics: Mapping[str, Number | None]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_zero(self) -> bool:
        return self.metrics["delta_norm"] == 0


def measure_update(update: Operator) -> Alone:
    """The `ALONE` metrics of ΔW (m, n): of a large dense one its norm only. NumericsError if it is not finite."""
    update = update.map(finite_factor)
    return of_values(values_of(update)) if has_cheap_values(update) else of_entries(update)


def of_values(values: Tensor) -> Alone:
    """The `ALONE` metrics, given all singular values."""
    largest = values[0].item() if len(values) else 0.0
    _check(largest)
    if largest == 0:
        return _nothing()
    found = (torch.linalg.vector_norm(values), values[0], ranks.effective_rank(values), ranks.stable_rank(values))
    return Alone(dict(zip(ALONE, (float(value) for value in found), strict=True)))


def has_cheap_values(update: Operator) -> bool:
    """Whether its singular values cost less than a comparison."""
    return isinstance(update, LowRank | Kronecker) or min(update.shape) <= SMALL


def values_of(update: Operator) -> Tensor:
    """All singular values of ΔW that can differ from zero, descending."""
    if isinstance(update, LowRank):
        return values_of_triangles(update, triangles(update))
    return spectra([update])[0].values


def values_of_triangles(update: LowRank, known: tuple[Tensor, Tensor]) -> Tensor:
    left, right = known
    return decompose(Dense(update.scale * (left @ right.mT))).values


def of_entries(update: Operator) -> Alone:
    """The `ALONE` metrics without singular values: the norm, a block of columns at a time."""
    norms = [torch.linalg.vector_norm(update.columns(block, torch.float64)) for block in column_blocks(update)]
    norm = torch.linalg.vector_norm(torch.stack(norms)).item()
    _check(norm)
    if norm == 0:
        return _nothing()
    return Alone({**dict.fromkeys(ALONE), "delta_norm": norm}, dict.fromkeys(ALONE[1:], IS_DENSE))


def _nothing() -> Alone:
    return Alone(_ZERO, {key: IS_ZERO for key in ALONE if _ZERO[key] is None})


def _check(largest: float) -> None:
    if not largest < torch.inf:
        raise NumericsError("the update does not come out finite: its scale or its factors are too large")
    check_range(largest, "the update")


def finite_factor(factor: Tensor) -> Tensor:
    return finite(factor, "a factor of the update")
