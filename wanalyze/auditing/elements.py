"""What the elements of one tensor are: counted in one pass, whatever it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 2**22  # elements looked at together
_COMPARED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SAMPLE = 2**14  # elements that the median is taken over


@dataclass(frozen=True)
class Elements:
    """Counts over a tensor; `first` is the position of the first element that is not finite, `peak` of the largest.

    `largest` and `median` are of the absolute values of finite elements, the median over a sample of equal steps.
    """

    count: int
    nan: int
    infinite: int
    first: tuple[int, ...] | None
    largest: float
    peak: tuple[int, ...] | None
    median: float

    @property
    def is_zero(self) -> bool:
        return self.largest == 0 and not (self.nan or self.infinite)


def elements(tensor: Tensor) -> Elements:
    """Look at every element of a tensor of real numbers, some million at a time."""
    flat = tensor.reshape(-1)
    flat = flat if flat.dtype in _COMPARED else flat.to(torch.float32)  # float8 is not, and fits
    nan = infinite = 0
    first: int | None = None
    largest, peak = 0.0, 0
    for start in range(0, flat.numel(), _BLOCK):
        block = flat[start : start + _BLOCK]
        low, high = map(float, block.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            strange = ~block.isfinite()
            first = start + int(strange.nonzero()[0]) if first is None else first
            nan += int(block.isnan().sum())
            infinite += int(block.isinf().sum())
            block = block.masked_fill(strange, 0)
            low, high = map(float, block.aminmax())
        if max(-low, high) > largest:
            largest = max(-low, high)
            # To look for a place among numbers of 16 bits takes three times as long.
            wide = block.float() if block.element_size() == 2 else block
            peak = start + int(wide.argmin() if -low > high else wide.argmax())
    return Elements(
        count=flat.numel(),
        nan=nan,
        infinite=infinite,
        first=None if first is None else _position(first, tensor.shape),
        largest=largest,
        peak=_position(peak, tensor.shape) if largest else None,
        median=_median(flat),
    )


def _median(flat: Tensor) -> float:
    sample = flat[:: max(1, flat.numel() // _SAMPLE)].to(torch.float64)
    sample = sample[sample.isfinite()].abs()
    return float(sample.median()) if sample.numel() else 0.0


def _position(index: int, shape: torch.Size) -> tuple[int, ...]:
    """Where element number `index` of a tensor stored row by row lies."""
    found: list[int] = []
    for size in reversed(shape):
        index, place = divmod(index, size)
        found.insert(0, place)
    return tuple(found)
