"""Pairs of matrices in, records of numbers out; pairs of one shape are worked out together."""

from __future__ import annotations

from collections.abc import Sequence

from wanalyze.measure.compute import COMPUTE
from wanalyze.measure.drift import DRIFT, Drift, measure_vector, untouched_vector
from wanalyze.measure.evidence import Base, Evidence, Stored, gather, leading_count, prepare
from wanalyze.measure.measurement import (
    Ambiguous,
    Measurement,
    Number,
    Scope,
    Side,
    measured,
    unchanged,
    unmeasurable,
    untouched,
)
from wanalyze.operators import LowRank

__all__ = [
    "COMPUTE",
    "DRIFT",
    "Ambiguous",
    "Base",
    "Measurement",
    "Number",
    "Scope",
    "Side",
    "Stored",
    "compare",
    "leading_count",
    "measure_vector",
    "prepare",
    "unmeasurable",
    "untouched",
    "untouched_vector",
]


def compare(bases: Sequence[Base], tuned: Sequence[Stored | LowRank], scope: Scope) -> list[Measurement]:
    """The measurement of each base with its tuned matrix or update, all of one shape.

    NumericsError if any of them cannot be measured: alone, the others can.
    """
    return [_measurement(*pair, scope) for pair in zip(bases, gather(bases, tuned, scope), strict=True)]


def _measurement(base: Base, found: Evidence | Drift, scope: Scope) -> Measurement:
    if isinstance(found, Drift):
        return unchanged(base.shape, scope, found.base_norm, base.values.cpu())
    outcomes = {key: compute(found) for key, compute in COMPUTE.items()}
    arrays = {
        "base_values": found.base_values.cpu(),
        "tuned_values": found.tuned_values.cpu(),
        "update_values": found.update_values.cpu(),
    }
    return measured(outcomes, found.left, found.right, arrays)
