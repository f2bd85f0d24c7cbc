"""What is left of an update when it is merged into stored weights: one pass over both, some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from wanalyze.measure.alone import IS_DENSE, Alone, has_cheap_values, values_of
from wanalyze.measure.drift import finite
from wanalyze.measure.measurement import Missing, Outcome, split
from wanalyze.operators import Dense, Operator, widened
from wanalyze.spectra.largest import largest_value

_ENTRIES = 2**17  # looked at together: all that is made of them stays in the cache of a CPU
_ZERO_BASE = Missing("the base is zero")
_FP8 = torch.float8_e4m3fn
_FP16_OVERFLOW = 65520.0  # rounds to infinity, from here on
FORMATS: Mapping[str, torch.dtype] = MappingProxyType({"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": _FP8})


@dataclass
class _Stored:
    """Of one format: Σ of the squared error, and Σ δ² of what is swallowed."""

    dtype: torch.dtype
    error: float = 0.0
    swallowed: float = 0.0

    def add(self, before: Tensor, merged: Tensor, delta: Tensor, unit: Tensor | None, *, exact: bool) -> None:
        """Rows of W0, W0 + ΔW and ΔW; `exact` where W0 is stored in this format already."""
        without = before if exact else _rounded(before, self.dtype, unit)
        moved = _rounded(merged, self.dtype, unit).sub_(without)
        self.swallowed += float(delta.masked_fill(moved != 0, 0.0).square_().sum())
        self.error += float(moved.sub_(delta).square_().sum())

    def outcomes(self, name: str, energy: float) -> dict[str, Outcome]:
        error = (self.error / energy) ** 0.5
        return {
            f"merge_error_{name}": error if math.isfinite(error) else Missing("the merged matrix overflows"),
            f"merge_swallowed_{name}": self.swallowed / energy,
        }


def measure_with_base(base: Tensor, update: Operator) -> Alone:
    """The `WITH_BASE` metrics of W0 (m, n), of any dtype, and ΔW, finite and not zero.

    NumericsError if W0 is not finite.
    """
    finite(base, "the base")
    size = energy = 0.0
    overflow = 0
    formats = {name: _Stored(dtype) for name, dtype in FORMATS.items()}
    for before, delta in _rows(base, update):
        merged = before + delta
        largest = merged.abs().amax(1, keepdim=True)
        size += float(before.square().sum())
        energy += float(delta.square().sum())
        if largest.amax() >= _FP16_OVERFLOW:
            overflow += int((merged.abs() >= _FP16_OVERFLOW).sum())
        for stored in formats.values():
            scaled = stored.dtype == _FP8
            unit = _unit(largest) if scaled else None
            stored.add(before, merged, delta, unit, exact=base.dtype == stored.dtype and not scaled)
    outcomes: dict[str, Outcome] = {
        "relative_norm": (energy / size) ** 0.5 if size > 0 else _ZERO_BASE,
        "relative_spectral_norm": _spectral(update, largest_value(Dense(base)) if size > 0 else 0.0),
        "merge_overflow_fp16": overflow,
    }
    for name, stored in formats.items():
        outcomes |= stored.outcomes(name, energy)
    return Alone(*split(outcomes))


def _spectral(update: Operator, largest: float) -> Outcome:
    if largest == 0:
        return _ZERO_BASE
    return values_of(update)[0].item() / largest if has_cheap_values(update) else Missing(IS_DENSE)


def _rows(base: Tensor, update: Operator) -> Iterator[tuple[Tensor, Tensor]]:
    m, n = base.shape
    step = max(1, _ENTRIES // n)
    turned = update.map(lambda tensor: widened(tensor, torch.float64)).T
    for start in range(0, m, step):
        rows = slice(start, min(start + step, m))
        yield widened(base[rows].contiguous(), torch.float64), turned.columns(rows, torch.float64).mT.contiguous()


def _unit(largest: Tensor) -> Tensor:
    """What brings the largest entry of each row to the largest number of the 8-bit format."""
    return torch.where(largest > 0, largest / torch.finfo(_FP8).max, 1.0)


def _rounded(weights: Tensor, dtype: torch.dtype, unit: Tensor | None) -> Tensor:
    """To the numbers of `dtype`, or their multiples of `unit`, and back to float64: always a new tensor."""
    if unit is None:
        return widened(weights.to(torch.float32).to(dtype), torch.float64)
    return widened((weights / unit).to(torch.float32).to(dtype), torch.float64).mul_(unit)
