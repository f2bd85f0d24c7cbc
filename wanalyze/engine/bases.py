"""Matrices of the base, prepared once: read, turned, and looked up in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze import measure
from wanalyze.engine.cache import Cache, key_of
from wanalyze.measure import Base, Scope
from wanalyze.pairing import Pair
from wanalyze.spectra.prepared import arrays_of, shapes_of
from wanalyze.spectra.values import SMALL

# Part of every key: raise it when the numbers that are kept change in any digit.
_RECIPE = "base/1"


def oriented(tensor: Tensor, pair: Pair) -> Tensor:
    """Rows as outputs, and as many of them as are compared; a kernel as one row for each output."""
    tensor = tensor.flatten(1) if tensor.ndim > 2 else tensor
    tensor = tensor.mT.contiguous() if pair.transposed else tensor
    return tensor if pair.rows is None else tensor[: pair.rows]


@dataclass(frozen=True)
class Ready:
    """A matrix of the base, and under which key its spectrum is to be kept, None where it need not be."""

    base: Base
    key: str | None = None


def prepare(
    stored: Sequence[Tensor],
    pairs: Sequence[Pair],
    scope: Scope,
    device: torch.device,
    cache: Cache | None,
    steps: Sequence[Tensor | None],
) -> list[Ready]:
    """Matrices of one shape, with the spectra that the cache has."""
    if cache is None or min(pairs[0].shape) <= SMALL:
        return [Ready(base) for base in measure.prepare(_placed(stored, pairs, device), scope, steps=steps)]
    keys = [_key(tensor, pair, scope, device) for tensor, pair in zip(stored, pairs, strict=True)]
    m, n = pairs[0].shape
    shapes = shapes_of((m, n), measure.leading_count(scope, (m, n)))
    known = [cache.get(key, shapes) for key in keys]
    bases = measure.prepare(_placed(stored, pairs, device), scope, known, steps)
    return [Ready(base, key if entry is None else None) for base, key, entry in zip(bases, keys, known, strict=True)]


def keep(ready: Ready, cache: Cache | None) -> None:
    """Put into the cache what was worked out since."""
    if cache is not None and ready.key is not None and ready.base.prepared is not None:
        cache.put(ready.key, arrays_of(ready.base.prepared))


def _placed(stored: Sequence[Tensor], pairs: Sequence[Pair], device: torch.device) -> list[Tensor]:
    return [oriented(tensor.to(device, non_blocking=True), pair) for tensor, pair in zip(stored, pairs, strict=True)]


def placed_steps(steps: Tensor | None, pair: Pair, device: torch.device) -> Tensor | None:
    """Quantisation cells as the matrix itself is turned and placed."""
    return None if steps is None else oriented(steps.to(device), pair)


def _key(stored: Tensor, pair: Pair, scope: Scope, device: torch.device) -> str:
    recipe = (_RECIPE, scope.top_k, scope.dtype, device.type, pair.transposed, pair.rows)
    return key_of(stored, recipe=repr(recipe))
