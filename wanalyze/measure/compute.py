"""The metrics, one function each; `metrics.py` holds their definitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from wanalyze.intruders import count_intruders, intruder_energy
from wanalyze.measure.evidence import Evidence
from wanalyze.measure.measurement import Missing, Number, Outcome, SideName
from wanalyze.spectra import ranks
from wanalyze.spectra.rounding import signal_rank

_ZERO_BASE = Missing("the base is zero")
_NO_VECTORS = Missing("base or tuned is zero and has no singular vectors")
_BY_FACTORS = Missing("an update given by factors was never rounded to a matrix")
_NO_GRID = Missing("the tuned matrix is stored in float64: its rounding is not told from that of the arithmetic")
_ZERO_WITHIN = Missing("the base is zero in the subspace of the update")
_QUANTISED = Missing("not fitted: the base was quantised, so the weights that were merged into are not known exactly")
_NOT_LOW_RANK = Missing("not fitted: the update is not of low rank above the rounding edge")
_SPACE = 1e-3  # radians: how well the leading space of ΔW must be known for an amplification


def _over(numerator: float, denominator: float, reason: Missing) -> Outcome:
    return numerator / denominator if denominator > 0 else reason


def _base_norm(x: Evidence) -> float:
    return x.drift.base_norm


def _delta_norm(x: Evidence) -> float:
    return float(torch.linalg.vector_norm(x.update_values))


def _relative_norm(x: Evidence) -> Outcome:
    return _over(_delta_norm(x), x.drift.base_norm, _ZERO_BASE)


def _delta_spectral_norm(x: Evidence) -> float:
    return x.update_values[0].item()


def _relative_spectral_norm(x: Evidence) -> Outcome:
    return _over(_delta_spectral_norm(x), x.base_values[0].item(), _ZERO_BASE)


def _of_update(rank: Callable[[Tensor], Tensor]) -> Callable[[Evidence], Number]:
    return lambda x: rank(x.update_values).item()


def _energy_rank(share: float) -> Callable[[Evidence], Number]:
    return _of_update(partial(ranks.energy_rank, share=share))


def _numerical_rank(x: Evidence) -> Outcome:
    tolerance = max(x.base.shape) * x.eps
    if tolerance >= 1:
        return Missing(f"max(m, n) · eps of the storage dtype is {tolerance:g}: the limit is not below σ₁")
    return int(ranks.numerical_rank(x.update_values, tolerance).item())


def _changed_fraction(x: Evidence) -> float:
    m, n = x.base.shape
    return x.drift.changed / (m * n)


def _intruders(side: SideName) -> Callable[[Evidence], Outcome]:
    def count(x: Evidence) -> Outcome:
        cosines = x.side(side).cosines
        return count_intruders(cosines, x.scope.epsilon) if cosines else _NO_VECTORS

    return count


def _intruder_energy(side: SideName) -> Callable[[Evidence], Outcome]:
    def energy(x: Evidence) -> Outcome:
        cosines = x.side(side).cosines
        values = x.tuned_values[: len(cosines)].tolist()
        return intruder_energy(cosines, values, x.scope.epsilon) if cosines else _NO_VECTORS

    return energy


def _magnitude_change(x: Evidence) -> float:
    return x.drift.magnitude


def _direction_change(x: Evidence) -> Outcome:
    turned = x.drift.direction
    return Missing("no row is non-zero in both base and tuned") if turned is None else turned


def _amplification(x: Evidence) -> Outcome:
    top = x.update_leading
    if top is None:
        return Missing("no singular value of the update lies above the rounding edge")
    if top.angle.amax() > _SPACE:
        return Missing(
            f"the leading {len(top.values)} singular vectors of the update are not separated from the next: "
            f"their space is known to {top.angle.amax().item():.1g} rad"
        )
    within = top.u.mT @ (x.base.matrix @ top.v.to(x.scope.dtype)).to(top.u)
    return _over(_delta_norm(x), torch.linalg.matrix_norm(within).item(), _ZERO_WITHIN)


def _noise_edge(x: Evidence) -> Outcome:
    if x.edge is None:
        return _BY_FACTORS if x.by_factors else _NO_GRID
    return x.edge


def _signal_rank(x: Evidence) -> Outcome:
    edge = _noise_edge(x)
    return edge if isinstance(edge, Missing) else int(signal_rank(x.update_values, edge))


def _merged_rank(x: Evidence) -> Outcome:
    fit = x.merged
    if fit is None:
        edge = _noise_edge(x)
        if isinstance(edge, Missing):
            return edge
        return _NOT_LOW_RANK if x.base.steps is None else _QUANTISED
    if fit.rank is None:
        return Missing(f"no update of rank up to {fit.limit} rounds to the tuned matrix: not a merged adapter")
    if not fit.identified:
        return Missing(f"information-limited: rank {fit.rank} explains the rounded weights, and so may others")
    return fit.rank


def _merged_sharpness(x: Evidence) -> Outcome:
    if x.merged is None or x.merged.sharpness is None:
        rank = _merged_rank(x)
        return rank if isinstance(rank, Missing) else _NOT_LOW_RANK
    return x.merged.sharpness


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
        "noise_edge": _noise_edge,
        "signal_rank": _signal_rank,
        "merged_rank": _merged_rank,
        "merged_sharpness": _merged_sharpness,
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
