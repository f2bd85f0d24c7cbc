"""How the leading singular vectors of two matrices lie to each other, one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from wanalyze.spectra.triplets import Triplets

MOST = 32  # leading vectors of each matrix
_KNOWN = 0.01  # radians: a vector known less well has no cosine of its own


def similarity(tuned: Triplets, base: Triplets, side: str) -> Tensor:
    """|cos(u_i(W1), u_j(W0))| (a, b), float32, of at most `MOST` vectors each; Shuttleworth et al. 2024, figure 1.

    Rows are vectors of W1. NaN where one of the two shares its singular value with another vector, so that its
    direction is not its own, or is known to less than 0.01 radians. An entry is off by both angles at most.
    """
    first, second = (_own_vectors(triplets, side) for triplets in (tuned, base))
    return (first.mT @ second.to(first)).abs().clamp(max=1.0).to("cpu", torch.float32)


def _own_vectors(triplets: Triplets, side: str) -> Tensor:
    vectors = (triplets.u if side == "left" else triplets.v)[:, :MOST]
    is_shared = torch.bincount(triplets.group)[triplets.group] > 1
    unknown = (is_shared | (triplets.angle > _KNOWN))[:MOST]
    return vectors.masked_fill(unknown, torch.nan)
