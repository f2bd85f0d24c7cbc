"""What can be said of an update without its base."""

from __future__ import annotations

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.measure.drift import check_range, finite
from wanalyze.measure.measurement import Number
from wanalyze.operators import Operator
from wanalyze.spectra import ranks
from wanalyze.spectra.values import spectra

ALONE = ("delta_norm", "delta_spectral_norm", "effective_rank", "stable_rank")


def measure_update(update: Operator) -> dict[str, Number | None]:
    """The metrics of ΔW that need no base; ranks are None of a zero update. NumericsError if it is not finite."""
    values = spectra([update.map(_finite)])[0].values
    largest = values[0].item() if len(values) else 0.0
    if not largest < torch.inf:
        raise NumericsError("the update does not come out finite: its scale or its factors are too large")
    check_range(largest, "the update")
    if largest == 0:
        return dict(zip(ALONE, (0.0, 0.0, None, None), strict=True))
    found = (torch.linalg.vector_norm(values), values[0], ranks.effective_rank(values), ranks.stable_rank(values))
    return dict(zip(ALONE, (float(value) for value in found), strict=True))


def _finite(factor: Tensor) -> Tensor:
    return finite(factor, "a factor of the update")
