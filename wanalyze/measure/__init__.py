"""Pairs of matrices in, records of numbers out; pairs of one shape are worked out together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.measure.alone import Alone, measure_update
from wanalyze.measure.compute import COMPUTE
from wanalyze.measure.drift import DRIFT, Drift, measure_vector, untouched_vector
from wanalyze.measure.evidence import Base, Evidence, Stored, gather, leading_count
from wanalyze.measure.evidence import prepare as prepare_bases
from wanalyze.measure.fidelity import measure_with_base
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
from wanalyze.measure.statistics import measure_statistics
from wanalyze.operators import Operator

__all__ = [
    "COMPUTE",
    "DRIFT",
    "Alone",
    "Ambiguous",
    "Base",
    "Measurement",
    "Number",
    "Scope",
    "Side",
    "Stored",
    "compare",
    "leading_count",
    "measure_statistics",
    "measure_update",
    "measure_vector",
    "measure_with_base",
    "prepare",
    "unmeasurable",
    "untouched",
    "untouched_vector",
]


def compare(bases: Sequence[Base], tuned: Sequence[Stored | Operator], scope: Scope) -> list[Measurement]:
    """The measurement of each base with its tuned matrix or update, all of one shape.

    NumericsError if any of them cannot be measured: alone, the others can.
    """
    with _as_numerics_error():
        return [_measurement(*pair, scope) for pair in zip(bases, gather(bases, tuned, scope), strict=True)]


def prepare(
    matrices: Sequence[Tensor],
    scope: Scope,
    known: Sequence[Mapping[str, Tensor] | None] | None = None,
    steps: Sequence[Tensor | None] | None = None,
) -> list[Base]:
    """Matrices of the base, of one shape, with what all comparisons share; NumericsError if one is not finite.

    `known` holds what an earlier run found of some of them: `spectra.prepared.arrays_of`; `steps` the cells that
    quantised ones were rounded in.
    """
    with _as_numerics_error():
        return prepare_bases(matrices, scope, known, steps)


@contextmanager
def _as_numerics_error() -> Iterator[None]:
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NumericsError(f"a decomposition failed: {error}") from error


def _measurement(base: Base, found: Evidence | Drift, scope: Scope) -> Measurement:
    if isinstance(found, Drift):
        return unchanged(base.shape, scope, found.base_norm, base.values.cpu())
    outcomes = {key: compute(found) for key, compute in COMPUTE.items()}
    arrays = {
        "base_values": found.base_values.cpu(),
        "tuned_values": found.tuned_values.cpu(),
        "update_values": found.update_values.cpu(),
    }
    sides = (("left", found.left), ("right", found.right))
    arrays |= {f"similarity_{name}": side.similarity for name, side in sides if side.similarity is not None}
    return measured(outcomes, found.left, found.right, arrays)
