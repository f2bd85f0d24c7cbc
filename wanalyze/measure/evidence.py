"""What several metrics of a pair share, worked out together for pairs of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from wanalyze.measure.drift import Drift, drift, finite
from wanalyze.measure.measurement import Scope, Side, SideName, side_of
from wanalyze.operators import Dense, Operator, Sum, widened
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


@dataclass(eq=False)
class Base:
    """A matrix of the base; `prepared` when it is first compared, unless it is zero.

    `steps` (m, n) are the cells that its weights were quantised in, None where they are what was stored.
    """

    matrix: Operator
    is_zero: bool
    prepared: Prepared | None = None
    steps: Tensor | None = None

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
    the tuned one was rounded to, None for float64. `steps` (m, n) are the cells of a quantised one.
    """

    matrix: Tensor
    eps: float
    grid: Grid | None
    steps: Tensor | None = None


class _Pair(NamedTuple):
    base: Base
    stored: Stored | Operator
    tuned: Operator
    update: Operator
    drift: Drift
    tuned_spectrum: Spectrum
    update_spectrum: Spectrum


@dataclass(frozen=True, eq=False)
class Evidence:
    """One pair: operators, spectra, leading vectors of ΔW, both sides, entrywise drift, and rounding.

    `by_factors` says that ΔW is what an adapter makes of its factors, not a difference of stored matrices.
    """

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
    by_factors: bool

    def side(self, name: SideName) -> Side:
        return self.left if name == "left" else self.right


def resident(tensor: Tensor, whose: str, dtype: torch.dtype) -> Operator:
    """A finite matrix, in `dtype` at once where that takes little memory."""
    finite(tensor, whose, dtype)
    return Dense(widened(tensor, dtype)) if tensor.numel() <= _RESIDENT else Dense(tensor)


def prepare(
    matrices: Sequence[Tensor],
    scope: Scope,
    known: Sequence[Mapping[str, Tensor] | None] | None = None,
    steps: Sequence[Tensor | None] | None = None,
) -> list[Base]:
    """Matrices of the base; `known` is what an earlier run found of some of them, `steps` their quantisation."""
    nothing = [None] * len(matrices)
    found = []
    for matrix, arrays, cells in zip(matrices, known or nothing, steps or nothing, strict=True):
        operator = resident(matrix, "base", scope.dtype)
        prepared = None if arrays is None else restore(operator, arrays, matrix.device, scope.dtype)
        found.append(Base(operator, not operator.dense().any(), prepared, cells))
    return found


def leading_count(scope: Scope, shape: Sequence[int]) -> int:
    """How many triplets of W0 are worked out ahead."""
    return min(scope.top_k + _LEADING_BASE, *shape)


def gather(bases: Sequence[Base], tuned: Sequence[Stored | Operator], scope: Scope) -> list[Evidence | Drift]:
    """The evidence of each pair, all of one shape; only the drift where nothing changed."""
    operators = [_operators(*pair, scope.dtype) for pair in zip(bases, tuned, strict=True)]
    drifts = [drift(base.matrix, *pair) for base, pair in zip(bases, operators, strict=True)]
    moved = [i for i, found in enumerate(drifts) if found.changed]
    values = _values(bases, [operators[i] for i in moved], scope)
    result: list[Evidence | Drift] = list(drifts)
    if moved:
        chosen = [
            _Pair(bases[i], tuned[i], *operators[i], drifts[i], *found) for i, found in zip(moved, values, strict=True)
        ]
        for i, evidence in zip(moved, _evidence(chosen, scope), strict=True):
            result[i] = evidence
    return result


def _values(
    bases: Sequence[Base], operators: Sequence[tuple[Operator, Operator]], scope: Scope
) -> list[tuple[Spectrum, Spectrum]]:
    """Values of each W1 and ΔW, and of the bases that lack them: all at once, which keeps every core busy."""
    missing = [base for base in bases if base.prepared is None and not base.is_zero]
    matrices = [base.matrix for base in missing]
    found = spectra([*matrices, *(whole for whole, _ in operators), *(update for _, update in operators)])
    of_base, of_tuned, of_update = (
        found[start:end] for start, end in pairwise((0, len(missing), len(missing) + len(operators), len(found)))
    )
    if missing:
        k = leading_count(scope, missing[0].shape)
        for base, prepared in zip(missing, prepare_spectra(matrices, k, scope.dtype, of_base), strict=True):
            base.prepared = prepared
    of_update = [resolved(update, spectrum) for (_, update), spectrum in zip(operators, of_update, strict=True)]
    return list(zip(of_tuned, of_update, strict=True))


def _operators(base: Base, tuned: Stored | Operator, dtype: torch.dtype) -> tuple[Operator, Operator]:
    """W1 and ΔW; of an adapter W1 is never written out, nor ΔW if it has a structure."""
    if not isinstance(tuned, Stored):
        update = tuned.map(lambda factor: widened(finite(factor, "a factor of the update", dtype), dtype))
        return Sum(base.matrix, update), update
    whole = resident(tuned.matrix, "tuned", dtype)
    if tuned.matrix.numel() > _RESIDENT:
        return whole, Sum(whole, base.matrix, -1.0)
    return whole, Dense(whole.dense() - base.matrix.dense())


def _evidence(pairs: Sequence[_Pair], scope: Scope) -> list[Evidence]:
    edges = [_edge(pair) for pair in pairs]
    leading = _leading_of_updates(pairs, edges, scope)
    sides = _sides(pairs, scope)
    return [
        Evidence(
            pair.base,
            pair.tuned,
            pair.update,
            pair.drift,
            scope,
            pair.stored.eps if isinstance(pair.stored, Stored) else EPS,
            pair.base.values,
            pair.tuned_spectrum.values,
            pair.update_spectrum.values,
            top,
            left,
            right,
            edge,
            _merged(pair, edge),
            not isinstance(pair.stored, Stored),
        )
        for pair, top, (left, right), edge in zip(pairs, leading, sides, edges, strict=True)
    ]


def _leading_of_updates(pairs: Sequence[_Pair], edges: Sequence[float | None], scope: Scope) -> list[Triplets | None]:
    """The leading singular space of each ΔW: of dimension k or its rank, None where it has none above rounding."""
    ranks = [
        min(scope.top_k, _rank(pair.update_spectrum.values, pair.update.shape, edge))
        for pair, edge in zip(pairs, edges, strict=True)
    ]
    result: dict[int, Triplets] = {}
    for rank in {*ranks} - {0}:
        same = [i for i, other in enumerate(ranks) if other == rank]
        triplets = leading_triplets(
            [pairs[i].update for i in same],
            rank,
            [pairs[i].update_spectrum for i in same],
            tolerance=_SPACE,
            together=True,
            most_steps=_SPACE_STEPS,
            settle=False,
            dtype=scope.dtype,
        )
        result |= dict(zip(same, triplets, strict=True))
    return [result.get(i) for i in range(len(pairs))]


def _rank(values: Tensor, shape: tuple[int, ...], edge: float | None) -> int:
    limit = max(shape) * EPS * values[0].item() if edge is None else edge
    return int(signal_rank(values, limit))


def _sides(pairs: Sequence[_Pair], scope: Scope) -> list[tuple[Side, Side]]:
    """Overlaps of both sides; empty where W0 or W1 is zero and has no singular vectors."""
    result = [(Side(), Side())] * len(pairs)
    alive = [
        (i, pair, pair.base.prepared)
        for i, pair in enumerate(pairs)
        if pair.base.prepared is not None and pair.tuned_spectrum.values[0] > 0
    ]
    answers = overlaps(
        [pair.tuned for _, pair, _ in alive],
        [pair.tuned_spectrum for _, pair, _ in alive],
        [prepared for _, _, prepared in alive],
        k=scope.top_k,
        epsilons=scope.epsilons,
    )
    for (i, _, _), (left, right) in zip(alive, answers, strict=True):
        result[i] = (side_of("left", left, scope.epsilon), side_of("right", right, scope.epsilon))
    return result


def _edge(pair: _Pair) -> float | None:
    """Of a stored matrix, what its rounding and the quantisation of both explain; None where nothing was rounded."""
    stored = pair.stored
    if not isinstance(stored, Stored):
        return None
    steps = [cells for cells in (pair.base.steps, stored.steps) if cells is not None]
    return noise_edge(stored.matrix, stored.grid, steps) if stored.grid or steps else None


def _merged(pair: _Pair, edge: float | None) -> MergedFit | None:
    """The fit of a merged adapter, where ΔW is low-rank above the rounding edge."""
    if not isinstance(pair.stored, Stored) or pair.stored.grid is None or edge is None:
        return None
    if pair.base.steps is not None:  # the fit takes W0 for what the adapter was merged into, to the last bit
        return None
    above = int(signal_rank(pair.update_spectrum.values, edge))
    if not 0 < above <= min(_MOST_MERGED, min(pair.base.shape) // 4):
        return None
    whole = pair.base.matrix.dense()
    return merged_rank(whole, pair.stored.matrix, pair.stored.grid, most=_MOST_MERGED, start=above)
