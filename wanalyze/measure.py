"""One matrix of the base and what became of it in; one record of numbers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.intruders import Enclosure, count_intruders, intruder_energy, is_intruder
from wanalyze.operators import Dense, LowRank
from wanalyze.spectra import ranks
from wanalyze.spectra.decomposition import EPS, Decomposition, decompose
from wanalyze.spectra.overlaps import Overlaps, overlaps

_RANGE = (1e-140, 1e140)  # its squares, summed, stay in float64


@dataclass(frozen=True)
class Missing:
    """In place of a number that cannot be had."""

    reason: str


Number: TypeAlias = float | int
Outcome: TypeAlias = float | int | Missing
SideName: TypeAlias = Literal["left", "right"]


@dataclass(frozen=True)
class Scope:
    """The run's k and ε."""

    top_k: int
    epsilon: float


@dataclass(frozen=True, eq=False)
class Base:
    """A matrix of the base, widened and decomposed once for all that is compared with it."""

    matrix: Tensor
    svd: Decomposition

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.matrix.shape
        return m, n

    @cached_property
    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.matrix))


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
    """Enclosures of max_j |cos| for the top k vectors of one side, and the j they point to."""

    cosines: tuple[Enclosure, ...] = ()
    matched: tuple[int | None, ...] = ()
    ambiguous: tuple[Ambiguous, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """All numbers of one matrix; `missing` says why a metric is None."""

    changed: bool
    metrics: Mapping[str, Number | None]
    missing: Mapping[str, str]
    left: Side
    right: Side
    spectra: Mapping[str, Tensor]


def prepare(matrix: Tensor) -> Base:
    """Widen and decompose a matrix of the base; NumericsError if it is not finite."""
    wide = widen(matrix, "base")
    return Base(wide, decompose(Dense(wide)))


def widen(tensor: Tensor, whose: str) -> Tensor:
    """To float64, which holds every storage dtype exactly; refuses NaN and Inf with their position."""
    wide = tensor.to(torch.float32).to(torch.float64) if tensor.element_size() == 1 else tensor.to(torch.float64)
    finite = wide.isfinite()
    if not finite.all():
        position = torch.nonzero(~finite)[0].tolist()
        raise NumericsError(f"{whose} holds {wide[tuple(position)].item()} at {position}; not a number to measure")
    _check_range(wide, whose)
    return wide


def _check_range(matrix: Tensor, whose: str) -> None:
    """Norms and ranks square what they are given: refuse what would overflow or vanish."""
    largest = matrix.abs().amax().item()
    if not (largest == 0 or _RANGE[0] <= largest <= _RANGE[1]):
        raise NumericsError(f"{whose} has entries up to {largest:.3g}, outside {_RANGE[0]:g} to {_RANGE[1]:g}")


def measure_tuned(base: Base, tuned: Tensor, scope: Scope, *, eps: float) -> Measurement:
    """Compare with a whole matrix W1; `eps` is that of the coarser storage dtype of the two."""
    wide = widen(tuned, "tuned")
    delta = wide - base.matrix
    return _measure(Evidence(base, wide, delta, Dense(delta), scope, eps))


def measure_update(base: Base, update: LowRank, scope: Scope) -> Measurement:
    """Compare with W0 + ΔW, ΔW given by its factors."""
    wide = LowRank(widen(update.left, "factor B"), widen(update.right, "factor A"), update.scale)
    delta = wide.dense()
    return _measure(Evidence(base, base.matrix + delta, delta, wide, scope, EPS))


def untouched(shape: tuple[int, int], scope: Scope) -> Measurement:
    """The numbers of a matrix that an adapter leaves alone: known without reading it."""
    return _unchanged(shape, scope, Missing("not read: the adapter does not touch this matrix"))


def unmeasurable() -> Measurement:
    """In place of a measurement that failed."""
    outcomes: dict[str, Outcome] = dict.fromkeys(COMPUTE, Missing("the matrix could not be measured"))
    return Measurement(False, *_split(outcomes), Side(), Side(), {})


@dataclass(frozen=True, eq=False)
class Evidence:
    """One pair of matrices and what several metrics share, each computed once.

    `delta` is `update` written out: W1 = W0 + ΔW needs it anyway; spectra come from `update`.
    """

    base: Base
    tuned: Tensor
    delta: Tensor
    update: Dense | LowRank
    scope: Scope
    eps: float

    @cached_property
    def update_svd(self) -> Decomposition:
        return decompose(self.update)

    @cached_property
    def tuned_svd(self) -> Decomposition:
        return decompose(Dense(self.tuned))

    @cached_property
    def top_k(self) -> int:
        """k, or fewer where W1 has fewer singular vectors."""
        return min(self.scope.top_k, int(torch.count_nonzero(self.tuned_svd.values)))

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        if self.top_k == 0 or self.base.svd.values[0] == 0:
            return Side(), Side()
        left, right = overlaps(self.tuned_svd, self.base.svd, k=self.top_k)
        return _side("left", left, self.scope.epsilon), _side("right", right, self.scope.epsilon)

    @property
    def left(self) -> Side:
        return self.sides[0]

    @property
    def right(self) -> Side:
        return self.sides[1]


def _side(name: SideName, found: Overlaps, epsilon: float) -> Side:
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
    return Side(cosines, matched, tuple(ambiguous))


def _measure(evidence: Evidence) -> Measurement:
    _check_range(evidence.delta, "the update")
    if not evidence.delta.any():
        return _unchanged(evidence.base.shape, evidence.scope, evidence.base.norm, evidence.base.svd.values)
    outcomes = {key: compute(evidence) for key, compute in COMPUTE.items()}
    spectra = {
        "base_values": evidence.base.svd.values,
        "tuned_values": evidence.tuned_svd.values,
        "update_values": evidence.update_svd.values,
    }
    return Measurement(True, *_split(outcomes), evidence.left, evidence.right, spectra)


def _unchanged(shape: tuple[int, int], scope: Scope, base_norm: Outcome, values: Tensor | None = None) -> Measurement:
    """Of a zero update some numbers are known (nothing moved), the others do not exist."""
    outcomes: dict[str, Outcome] = dict.fromkeys(COMPUTE, Missing("the update is zero"))
    outcomes |= {key: _NOISE_EDGE for key in ("noise_edge", "signal_rank")}
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
    side = Side(((1.0, 1.0),) * k, tuple(range(k)))
    spectra = {} if values is None else {"base_values": values}
    return Measurement(False, *_split(outcomes), side, side, spectra)


def _split(outcomes: Mapping[str, Outcome]) -> tuple[dict[str, Number | None], dict[str, str]]:
    metrics = {key: None if isinstance(found, Missing) else found for key, found in outcomes.items()}
    return metrics, {key: found.reason for key, found in outcomes.items() if isinstance(found, Missing)}


# --- the metrics, one function each; `metrics.py` holds their definitions ---

_NOISE_EDGE = Missing("rounding noise is not estimated yet")
_ZERO_BASE = Missing("the base is zero")


def _over(numerator: float, denominator: float, reason: Missing) -> Outcome:
    return numerator / denominator if denominator > 0 else reason


def _base_norm(x: Evidence) -> float:
    return x.base.norm


def _delta_norm(x: Evidence) -> float:
    return float(torch.linalg.vector_norm(x.update_svd.values))


def _relative_norm(x: Evidence) -> Outcome:
    return _over(_delta_norm(x), x.base.norm, _ZERO_BASE)


def _delta_spectral_norm(x: Evidence) -> float:
    return x.update_svd.values[0].item()


def _relative_spectral_norm(x: Evidence) -> Outcome:
    return _over(_delta_spectral_norm(x), x.base.svd.values[0].item(), _ZERO_BASE)


def _of_update(rank: Callable[[Tensor], Tensor]) -> Callable[[Evidence], Number]:
    return lambda x: rank(x.update_svd.values).item()


def _energy_rank(share: float) -> Callable[[Evidence], Number]:
    return _of_update(partial(ranks.energy_rank, share=share))


def _numerical_rank(x: Evidence) -> Outcome:
    tolerance = max(x.base.shape) * x.eps
    if tolerance >= 1:
        return Missing(f"max(m, n) · eps of the storage dtype is {tolerance:g}: the limit is not below σ₁")
    return int(ranks.numerical_rank(x.update_svd.values, tolerance).item())


def _changed_fraction(x: Evidence) -> float:
    changed = x.delta != 0 if isinstance(x.update, LowRank) else x.tuned != x.base.matrix
    return int(torch.count_nonzero(changed)) / changed.numel()


def _intruders(side: SideName) -> Callable[[Evidence], Outcome]:
    def count(x: Evidence) -> Outcome:
        cosines = getattr(x, side).cosines
        return count_intruders(cosines, x.scope.epsilon) if cosines else _NO_VECTORS

    return count


def _intruder_energy(side: SideName) -> Callable[[Evidence], Outcome]:
    def energy(x: Evidence) -> Outcome:
        cosines = getattr(x, side).cosines
        values = x.tuned_svd.values[: x.top_k].tolist()
        return intruder_energy(cosines, values, x.scope.epsilon) if cosines else _NO_VECTORS

    return energy


_NO_VECTORS = Missing("base or tuned is zero and has no singular vectors")


def _magnitude_change(x: Evidence) -> float:
    norms = [torch.linalg.vector_norm(matrix, dim=1) for matrix in (x.tuned, x.base.matrix)]
    return float((norms[0] - norms[1]).abs().mean())


def _direction_change(x: Evidence) -> Outcome:
    rows = [torch.linalg.vector_norm(matrix, dim=1) for matrix in (x.tuned, x.base.matrix)]
    alive = (rows[0] > 0) & (rows[1] > 0)
    if not alive.any():
        return Missing("no row is non-zero in both base and tuned")
    # 1 − cos = ‖a/‖a‖ − b/‖b‖‖² / 2, which loses no digits when the two are close.
    unit = [matrix[alive] / norm[alive, None] for matrix, norm in zip((x.tuned, x.base.matrix), rows, strict=True)]
    return float(((unit[0] - unit[1]).square().sum(1) / 2).mean())


def _amplification(x: Evidence) -> Outcome:
    r = min(x.scope.top_k, int(torch.count_nonzero(x.update_svd.values)))
    within = x.update_svd.u[:, :r].mT @ x.base.matrix @ x.update_svd.v[:, :r]
    reason = Missing("the base is zero in the subspace of the update")
    return _over(_delta_norm(x), torch.linalg.matrix_norm(within).item(), reason)


COMPUTE: MappingProxyType[str, Callable[[Evidence], Outcome]] = MappingProxyType(
    {
        "base_norm": _base_norm,
        "delta_norm": _delta_norm,
        "relative_norm": _relative_norm,
        "delta_spectral_norm": _delta_spectral_norm,
        "relative_spectral_norm": _relative_spectral_norm,
        "effective_rank": _of_update(ranks.effective_rank),
        "effective_rank_energy": _of_update(ranks.effective_rank_energy),
        "stable_rank": _of_update(ranks.stable_rank),
        "participation_ratio": _of_update(ranks.participation_ratio),
        "energy_rank_50": _energy_rank(0.50),
        "energy_rank_90": _energy_rank(0.90),
        "energy_rank_95": _energy_rank(0.95),
        "energy_rank_99": _energy_rank(0.99),
        "numerical_rank": _numerical_rank,
        "noise_edge": lambda x: _NOISE_EDGE,
        "signal_rank": lambda x: _NOISE_EDGE,
        "changed_fraction": _changed_fraction,
        "intruders_left": _intruders("left"),
        "intruders_right": _intruders("right"),
        "intruder_energy_left": _intruder_energy("left"),
        "intruder_energy_right": _intruder_energy("right"),
        "magnitude_change": _magnitude_change,
        "direction_change": _direction_change,
        "amplification": _amplification,
    }
)


# --- vectors: norms and biases have a drift, and no spectrum ---

DRIFT = ("base_norm", "delta_norm", "relative_norm", "changed_fraction")


def measure_vector(base: Tensor, tuned: Tensor) -> dict[str, Number | None]:
    """The drift of a vector; `relative_norm` is None where the base is zero."""
    before, after = widen(base, "base"), widen(tuned, "tuned")
    size, moved = (torch.linalg.vector_norm(x).item() for x in (before, after - before))
    changed = int(torch.count_nonzero(after != before)) / before.numel()
    return dict(zip(DRIFT, (size, moved, moved / size if size > 0 else None, changed), strict=True))


def untouched_vector() -> dict[str, Number | None]:
    """The drift of a vector that an adapter leaves alone: known without reading it."""
    return dict(zip(DRIFT, (None, 0.0, 0.0, 0.0), strict=True))
