"""Spearman's rank correlation and its p-value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_EXACT = 8  # models: 8! = 40,320 orders are tried in a moment


class Correlation(NamedTuple):
    """`p` is two-sided: over all orders of the values for up to 8 pairs, from Student's t above."""

    rho: float
    p: float
    method: str


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """The correlation of x and y, None where it is not defined: fewer than 3 pairs, or one of them constant.

    >>> spearman([1, 2, 3], [10, 20, 15])
    Correlation(rho=0.5, p=1.0, method='exact permutation')
    """
    from scipy.stats import spearmanr

    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    found = spearmanr(x, y)
    if len(x) > _EXACT:
        return Correlation(float(found.statistic), float(found.pvalue), "Student's t")
    return Correlation(float(found.statistic), _exact(x, y), "exact permutation")


def _exact(x: Sequence[float], y: Sequence[float]) -> float:
    # With t, three models in one order would have p = 0; one order in six has it.
    import numpy as np
    from scipy.stats import permutation_test, rankdata

    ranks = rankdata(y)

    def statistic(x: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.sum(x * ranks, axis=axis))

    return float(
        permutation_test(
            (rankdata(x),), statistic, permutation_type="pairings", vectorized=True, n_resamples=np.inf
        ).pvalue
    )
