"""What changed entry by entry and row by row: one pass over the weights, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.operators import Operator, Sum, widened

_ENTRIES = 2**19  # looked at together: they stay in the cache of a CPU
_RANGE = {torch.float64: (1e-140, 1e140), torch.float32: (1e-14, 1e14)}  # squares of it, summed, stay in the dtype

DRIFT = ("base_norm", "delta_norm", "relative_norm", "changed_fraction")


@dataclass(frozen=True)
class Drift:
    """`base_norm` ‖W0‖_F, `changed` entries, `magnitude` mean |‖w1‖ − ‖w0‖| and `direction` mean 1 − cos over rows.

    `direction` is None where no row is non-zero in both.
    """

    base_norm: float
    changed: int
    magnitude: float
    direction: float | None


def drift(base: Operator, tuned: Operator, update: Operator) -> Drift:
    """How W1 = W0 + ΔW (m, n) differs from W0; of an update by factors, ΔW is what is looked at."""
    norms, changed, largest, moved, rows = 0.0, 0, 0.0, 0.0, 0
    turned, alive = 0.0, 0
    for before, after, delta in _rows(base, tuned, update):
        size0, size1 = (torch.linalg.vector_norm(part, dim=0) for part in (before, after))
        norms += size0.square().sum().item()
        changed += int(torch.count_nonzero(delta))
        size = delta.abs().amax().item()
        largest = size if size > largest or math.isnan(size) else largest
        moved += (size1 - size0).abs().sum().item()
        rows += len(size0)
        both = (size0 > 0) & (size1 > 0)
        # 1 − cos = ‖a/‖a‖ − b/‖b‖‖² / 2, which loses no digits when the two are close.
        unit = after[:, both] / size1[both] - before[:, both] / size0[both]
        turned += unit.square().sum().item() / 2
        alive += int(both.sum())
    check_range(largest, "the update")
    return Drift(norms**0.5, changed, moved / rows, turned / alive if alive else None)


def _rows(base: Operator, tuned: Operator, update: Operator) -> Iterator[tuple[Tensor, ...]]:
    m, n = base.shape
    step = max(1, _ENTRIES // n)
    by_factors = isinstance(tuned, Sum) and tuned.second is update
    first, second = base.T, (update if by_factors else tuned).T
    for start in range(0, m, step):
        block = slice(start, min(start + step, m))
        before, other = first.columns(block, torch.float64), second.columns(block, torch.float64)
        yield (before, before + other, other) if by_factors else (before, other, other - before)


def finite(tensor: Tensor, whose: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """`tensor` itself; refuses NaN and Inf with their position, and what would overflow or vanish when squared."""
    look = tensor.to(torch.float32) if tensor.element_size() == 1 else tensor
    low, high = (value.item() for value in look.aminmax())
    if not (abs(low) < torch.inf and abs(high) < torch.inf):
        bad = ~look.isfinite()
        position = torch.nonzero(bad)[0].tolist()
        raise NumericsError(f"{whose} holds {look[tuple(position)].item()} at {position}; not a number to measure")
    check_range(max(-low, high), whose, dtype)
    return tensor


def check_range(largest: float, whose: str, dtype: torch.dtype = torch.float64) -> None:
    """Norms and ranks square what they are given: refuse what would overflow or vanish in `dtype`."""
    low, high = _RANGE[dtype]
    if not (largest == 0 or low <= largest <= high):
        raise NumericsError(f"{whose} has entries up to {largest:.3g}, outside {low:g} to {high:g}")


# --- vectors: norms and biases have a drift, and no spectrum ---


def measure_vector(base: Tensor, tuned: Tensor) -> dict[str, float | int | None]:
    """The drift of a vector; `relative_norm` is None where the base is zero."""
    before, after = (
        widened(finite(tensor, whose), torch.float64) for tensor, whose in ((base, "base"), (tuned, "tuned"))
    )
    size, moved = (torch.linalg.vector_norm(x).item() for x in (before, after - before))
    changed = int(torch.count_nonzero(after != before)) / before.numel()
    return dict(zip(DRIFT, (size, moved, moved / size if size > 0 else None, changed), strict=True))


def untouched_vector() -> dict[str, float | int | None]:
    """The drift of a vector that an adapter leaves alone: known without reading it."""
    return dict(zip(DRIFT, (None, 0.0, 0.0, 0.0), strict=True))
