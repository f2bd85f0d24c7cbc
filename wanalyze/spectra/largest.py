"""The largest singular value alone, in a few passes."""

from __future__ import annotations

import torch

from wanalyze.operators import Operator, Stack
from wanalyze.spectra.krylov import Krylov
from wanalyze.spectra.triplets import start_blocks
from wanalyze.spectra.values import SMALL, largest_entry, spectra

_GROWTH = 1e-4  # of the value in one more step: what is left is a few times as much
_MOST_STEPS = 24
_FLOAT32 = (1e-12, 1e12)  # largest entries whose products stay in range


def largest_value(matrix: Operator) -> float:
    """σ₁ of `matrix` (m, n), finite: exact of a small one; of a large one from below, to about one part in a thousand.

    Block Golub-Kahan from random directions, until one more step adds next to nothing. Where σ₁ stands out of the
    spectrum it is good to many more digits; at the edge of pure noise, where nothing stands out, to 0.1 %.

    >>> from wanalyze.operators import Dense
    >>> largest_value(Dense(torch.diag(torch.tensor([3.0, 4.0]))))
    4.0
    """
    if min(matrix.shape) <= SMALL:
        return spectra([matrix])[0].values[0].item()
    low, high = _FLOAT32
    dtype = torch.float32 if low <= largest_entry(matrix) <= high else torch.float64
    krylov = Krylov(Stack([matrix]), start_blocks([matrix], 1, None, dtype))
    found = 0.0
    for _ in range(min(krylov.most_steps, _MOST_STEPS)):
        krylov.step()
        before, found = found, krylov.ritz()[0].values[0].item()
        if found - before <= _GROWTH * found:
            break
    return found
