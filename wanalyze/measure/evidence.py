"""What several metrics of a pair share, worked out together for pairs of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.measure.drift import Drift, drift, finite
from wanalyze.measure.measurement import Scope, Side, SideName, side_of
from wanalyze.operators import Dense, LowRank, Operator, Sum, widened
from wanalyze.spectra.decomposition import EPS
from wanalyze.spectra.deflation import resolved
from wanalyze.spectra.merged import MergedFit, merged_rank
from wanalyze.spectra.overlaps import overlaps
from wanalyze.spectra.prepared import Prepared, restore
from wanalyze.spectra.prepared import prepare as prepare_spectra
from wanalyze.spectra.rounding import Grid, noise_edge, signal_rank
from wanalyze.spectra.triplets import Triplets, leading_triplets
from wanalyze.spectra.values import Spectrum, spectra

# Entries up to which a matrix is kept in float64 (512 MiB); above, it stays as stored and is widened block by block.
_RESIDENT = 2**26
_LEADING_BASE = 6  # triplets of W0 beside the k: a fine-tune reorders a few
_MOST_MERGED = 128  # rank up to which an update is tried as a merged adapter
_SPACE, _SPACE_STEPS = 1e-7, 20  # radians asked of the leading space of ΔW, and Krylov steps spent on it


@dataclass(frozen=True, eq=False)
class Base:
    """A matrix of the base; `prepared` is None where it is zero."""

    matrix: Operator
    prepared: Prepared | None

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.matrix.shape
        return m, n

    @property
    def values(self) -> Tensor:
        if self.prepared is None:
            return torch.zeros(min(self.shape), dtype=torch.float64)
        return self.prepared.spectrum.values


@dataclass(frozen=True, eq=False)
class Stored:
    """A tuned matrix as it lies in a checkpoint: `eps` of the coarser storage dtype of base and tuned, and the grid
    the tuned one was rounded to, None for float64.
    """

    matrix: Tensor
    eps: float
    grid: Grid | None


@dataclass(frozen=True, eq=False)
class Evidence:
    """One pair: operators, spectra, leading vectors of ΔW, both sides, entrywise drift, and rounding."""

    base: Base
    tuned: Operator
    update: Operator
    drift: Drift
    scope: Scope
    eps: float
    base_values: Tensor
    tuned_values: Tensor
    update_values: Tensor
    update_leading: Triplets | None
    left: Side
    right: Side
    edge: float | None
    merged: MergedFit | None

    def side(self, name: SideName) -> Side:
        return self.left if name == "left" else self.right


def resident(tensor: Tensor, whose: str, dtype: torch.dtype) -> Operator:
    """A finite matrix, in `dtype` at once where that takes little memory."""
    finite(tensor, whose, dtype)
    return Dense(widened(tensor, dtype)) if tensor.numel() <= _RESIDENT else Dense(tensor)


def prepare(
    matrices: Sequence[Tensor], scope: Scope, known: Sequence[Mapping[str, Tensor] | None] | None = None
) -> list[Base]:
    """Matrices of the base and what all comparisons share; `known` is what an earlier run found of some of them."""
    operators = [resident(matrix, "base", scope.dtype) for matrix in matrices]
    known = known or [None] * len(matrices)
    missing = [i for i, matrix in enumerate(matrices) if known[i] is None and operators[i].dense().any()]
    k = leading_count(scope, matrices[0].shape)
    made = prepare_spectra([operators[i] for i in missing], k, scope.dtype) if missing else []
    prepared: dict[int, Prepared] = dict(zip(missing, made, strict=True))
    for i, arrays in enumerate(known):
        if arrays is not None:
            prepared[i] = restore(operators[i], arrays, matrices[i].device, scope.dtype)
    return [Base(operator, prepared.get(i)) for i, operator in enumerate(operators)]


def leading_count(scope: Scope, shape: Sequence[int]) -> int:
    """How many triplets of W0 are worked out ahead."""
    return min(scope.top_k + _LEADING_BASE, *shape)


def gather(bases: Sequence[Base], tuned: Sequence[Stored | LowRank], scope: Scope) -> list[Evidence | Drift]:
    """The evidence of each pair, all of one shape; only the drift where nothing changed."""
    operators = [_operators(*pair, scope.dtype) for pair in zip(bases, tuned, strict=True)]
    drifts = [drift(base.matrix, *pair) for base, pair in zip(bases, operators, strict=True)]
    moved = [i for i, found in enumerate(drifts) if found.changed]
    result: list[Evidence | Drift] = list(drifts)
    if moved:
        evidence = _evidence(
            [bases[i] for i in moved],
            [tuned[i] for i in moved],
            [operators[i] for i in moved],
            [drifts[i] for i in moved],
            scope,
        )
        for i, found in zip(moved, evidence, strict=True):
            result[i] = found
    return result


def _operators(base: Base, tuned: Stored | LowRank, dtype: torch.dtype) -> tuple[Operator, Operator]:
    """W1 and ΔW; of an adapter neither is written out."""
    if isinstance(tuned, LowRank):
        left, right = (
            widened(finite(factor, whose, dtype), dtype)
            for factor, whose in ((tuned.left, "factor B"), (tuned.right, "factor A"))
        )
        update = LowRank(left, right, tuned.scale)
        return Sum(base.matrix, update), update
    whole = resident(tuned.matrix, "tuned", dtype)
    if tuned.matrix.numel() > _RESIDENT:
        return whole, Sum(whole, base.matrix, -1.0)
    return whole, Dense(whole.dense() - base.matrix.dense())


def _evidence(
    bases: Sequence[Base],
    tuned: Sequence[Stored | LowRank],
    operators: Sequence[tuple[Operator, Operator]],
    drifts: Sequence[Drift],
    scope: Scope,
) -> list[Evidence]:
    wholes, updates = ([pair[place] for pair in operators] for place in (0, 1))
    found = spectra([*wholes, *updates])
    of_tuned, of_update = found[: len(wholes)], found[len(wholes) :]
    of_update = [resolved(*pair) for pair in zip(updates, of_update, strict=True)]
    edges = [_edge(stored) for stored in tuned]
    top = _leading_of_updates(updates, of_update, edges, scope)
    sides = _sides(bases, wholes, of_tuned, scope)
    return [
        Evidence(
            bases[i],
            wholes[i],
            updates[i],
            drifts[i],
            scope,
            stored.eps if isinstance(stored, Stored) else EPS,
            bases[i].values,
            of_tuned[i].values,
            of_update[i].values,
            top[i],
            *sides[i],
            edges[i],
            _merged(bases[i], stored, of_update[i].values, edges[i]),
        )
        for i, stored in enumerate(tuned)
    ]


def _leading_of_updates(
    updates: Sequence[Operator], found: Sequence[Spectrum], edges: Sequence[float | None], scope: Scope
) -> list[Triplets | None]:
    """The leading singular space of each ΔW: of dimension k or its rank, None where it has none above rounding."""
    ranks = [
        min(scope.top_k, _rank(spectrum.values, update.shape, edge))
        for update, spectrum, edge in zip(updates, found, edges, strict=True)
    ]
    result: dict[int, Triplets] = {}
    for rank in {*ranks} - {0}:
        same = [i for i, other in enumerate(ranks) if other == rank]
        triplets = leading_triplets(
            [updates[i] for i in same],
            rank,
            [found[i] for i in same],
            tolerance=_SPACE,
            together=True,
            most_steps=_SPACE_STEPS,
            settle=False,
            dtype=scope.dtype,
        )
        result |= dict(zip(same, triplets, strict=True))
    return [result.get(i) for i in range(len(updates))]


def _rank(values: Tensor, shape: tuple[int, ...], edge: float | None) -> int:
    limit = max(shape) * EPS * values[0].item() if edge is None else edge
    return int(signal_rank(values, limit))


def _sides(
    bases: Sequence[Base], tuned: Sequence[Operator], found: Sequence[Spectrum], scope: Scope
) -> list[tuple[Side, Side]]:
    """Overlaps of both sides; empty where W0 or W1 is zero and has no singular vectors."""
    alive = [i for i, base in enumerate(bases) if base.prepared is not None and found[i].values[0] > 0]
    answers = overlaps(
        [tuned[i] for i in alive],
        [found[i] for i in alive],
        [prepared for i in alive if (prepared := bases[i].prepared) is not None],
        k=scope.top_k,
        epsilons=scope.epsilons,
    )
    result = [(Side(), Side())] * len(bases)
    for i, (left, right) in zip(alive, answers, strict=True):
        result[i] = (side_of("left", left, scope.epsilon), side_of("right", right, scope.epsilon))
    return result


def _edge(tuned: Stored | LowRank) -> float | None:
    return noise_edge(tuned.matrix, tuned.grid) if isinstance(tuned, Stored) and tuned.grid else None


def _merged(base: Base, tuned: Stored | LowRank, values: Tensor, edge: float | None) -> MergedFit | None:
    """The fit of a merged adapter, where ΔW is low-rank above the rounding edge."""
    if not isinstance(tuned, Stored) or tuned.grid is None or edge is None:
        return None
    above = int(signal_rank(values, edge))
    if not 0 < above <= min(_MOST_MERGED, min(base.shape) // 4):
        return None
    return merged_rank(base.matrix.dense(), tuned.matrix, tuned.grid, most=_MOST_MERGED, start=above)
