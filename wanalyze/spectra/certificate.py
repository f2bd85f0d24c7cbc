"""What is known of the overlaps between directions and the singular vectors of W0, as it becomes known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.spectra.christoffel import christoffel
from wanalyze.spectra.krylov import RESIDUAL_FLOOR, Ritz
from wanalyze.spectra.triplets import gaps, groups
from wanalyze.spectra.values import Spectrum

# Singular values of W0 closer than MULTIPLE · σ₁ are one value: float64 tells their vectors apart to 1e-2 at best.
# Below NULL · σ₁ a value is not told from 0 by a Gram matrix in float64 (√eps is 1.5e-8): null space.
MULTIPLE = 1e-9
NULL = 1e-7
_CONVERGED = 1e-3  # sine of its angle to the exact vector: such a Ritz vector is taken for it, with that error
_ROUNDING = 64  # · eps: what a computed cosine may be off by


def count_alive(values: Tensor) -> int:
    """How many of the singular values (r), descending, are not null space."""
    return int((values > NULL * values[0]).sum())


@dataclass(frozen=True, eq=False)
class Base:
    """The singular values of W0, put into clusters of equal ones; null space left out.

    `value` (c), `size` (c) and `first` (c): the index of a cluster's first member; `cluster` (r) numbers the values.
    `blur` (c) is how far an exact value may lie from its cluster's. `null` is the largest that a value may be which
    is not listed, None if all are.
    """

    values: Tensor
    error: Tensor
    cluster: Tensor
    value: Tensor
    size: Tensor
    first: Tensor
    blur: Tensor
    null: float | None

    @classmethod
    def of(cls, spectrum: Spectrum, shape: tuple[int, ...]) -> Base:
        values, error = spectrum.values.cpu(), spectrum.error.cpu()
        alive = count_alive(values)
        null = None if alive == max(shape) else 0.0 if alive == len(values) else (values + error)[alive].item()
        values, error = values[:alive], error[:alive]
        cluster = groups(values, MULTIPLE, error)
        size = torch.bincount(cluster)
        total = values.new_zeros(len(size)).index_add_(0, cluster, values)
        value = total / size
        blur = torch.zeros_like(value)
        blur.scatter_reduce_(0, cluster, (values - value[cluster]).abs() + error, "amax")
        return cls(values, error, cluster, value, size, size.cumsum(0) - size, blur, null)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Approximate singular vectors of W0, seen from the directions: |cosine| (p, d), value (p), residual (p).

    `relative` (p) is how far the cosines themselves may be off, as a share; None for rounding alone.
    """

    cosine: Tensor
    value: Tensor
    residual: Tensor
    relative: Tensor | None = None

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Enclosures of the cosines (p, d)."""
        if self.relative is None:
            return self.cosine.clamp(max=1.0), self.cosine.clamp(max=1.0)
        share = self.relative[:, None]
        return (self.cosine * (1 - share)).clamp(0, 1), (self.cosine * (1 + share)).clamp(max=1.0)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Pairs (p) at their clusters: `place`, `sine` of the angle to it, whether `converged`.

    Of the converged pairs of each cluster (c): the part of the directions within, from below and above (d, c), the
    angle it may be off by (`leak`), their `count`.
    """

    place: Tensor
    sine: Tensor
    converged: Tensor
    least: Tensor
    most: Tensor
    leak: Tensor
    count: Tensor


class Certificate:
    """Enclosures of ‖P_c x_i‖, the part of each of d directions that lies in the eigenspace of each cluster c.

    `low`, `high` (d, c) only ever close in. For a cluster of one, the norm is the |cosine| with its vector.
    """

    def __init__(self, base: Base, directions: int, eps: float) -> None:
        self.base, self.eps, self.rounding = base, eps, _ROUNDING * eps
        self.low = torch.zeros(directions, len(base.value), dtype=torch.float64)
        self.high = torch.ones_like(self.low)

    def learn(self, pairs: Pairs) -> None:
        """From approximate vectors: each bounds the overlap from below, a whole cluster of them from above."""
        self._learn(pairs, self._seen(pairs))

    def learn_from_krylov(self, ritz: Ritz, width: int, columns: Sequence[int]) -> None:
        """From a Krylov space started at the directions; the costly upper bounds for some of its `columns` only."""
        pairs = Pairs(ritz.left[: len(self.low)].abs().mT, ritz.values, ritz.residual)
        seen = self._seen(pairs)
        self._learn(pairs, seen)
        chosen = torch.tensor(columns, dtype=torch.long)
        is_open = (seen.count < self.base.size) & (self.high[chosen] > self.low[chosen].amax(1, keepdim=True)).any(0)
        if not is_open.any():
            return
        blur = self.base.blur[is_open] + RESIDUAL_FLOOR * self.eps * self.base.value[0]
        held = christoffel(ritz, width, chosen, seen.converged, self.base.value[is_open], blur).mT
        # A converged vector is not exact: of any other vector it holds at most its own error.
        slack = pairs.cosine[seen.converged][:, chosen].mT @ seen.sine[seen.converged]
        known = torch.where(seen.count > 0, _cosine(seen.most, -seen.leak), 0.0)[chosen][:, is_open]
        high = torch.ones_like(self.low[:, is_open])
        high[chosen] = (known.square() + (held + slack[:, None]).square()).sqrt()
        self._lower(high, is_open)
        self._share()

    def _learn(self, pairs: Pairs, seen: _Seen) -> None:
        least, most = (end.mT for end in pairs.ends)
        angle = torch.asin(seen.sine)
        place = seen.place.expand_as(least)
        self._raise(torch.zeros_like(self.low).scatter_reduce_(1, place, _cosine(least, angle), "amax"))
        self._raise(_cosine(seen.least, seen.leak))
        # The vector of a single value lies within the angle of each pair put there, of a multiple one within that of
        # as many converged pairs as it has vectors.
        alone = torch.ones_like(self.high).scatter_reduce_(1, place, _cosine(most, -angle), "amin")
        self._lower(alone[:, self.base.size == 1], self.base.size == 1)
        complete = seen.count == self.base.size
        self._lower(_cosine(seen.most[:, complete], -seen.leak[complete]), complete)
        self._share()

    def _seen(self, pairs: Pairs) -> _Seen:
        """Put each pair at the nearest cluster; the sine of its angle to the eigenspace there is residual over gap."""
        base = self.base
        place = _nearest(base.value, pairs.value)
        gap = gaps(pairs.value, base.values, base.error, base.cluster, place, null=base.null)
        sine = (pairs.residual / gap).clamp(max=1.0)
        # A pair that does not reach its cluster belongs to a value that is not listed, or to none yet.
        reaches = (pairs.value - base.value[place]).abs() <= pairs.residual + base.blur[place]
        sine = torch.where(reaches, sine, 1.0)
        converged = sine <= _CONVERGED
        clusters, chosen = len(base.value), place[converged]
        least, most = (
            self.low.new_zeros(len(self.low), clusters).index_add_(1, chosen, end[converged].square().mT).sqrt()
            for end in pairs.ends
        )
        leak = self.low.new_zeros(clusters).index_add_(0, chosen, sine[converged].square())
        count = torch.bincount(chosen, minlength=clusters)
        return _Seen(place, sine, converged, least, most, torch.asin(leak.sqrt().clamp(max=1.0)), count)

    def _raise(self, low: Tensor) -> None:
        self.low = torch.maximum(self.low, low - self.rounding)

    def _lower(self, high: Tensor, clusters: Tensor) -> None:
        self.high[:, clusters] = torch.minimum(self.high[:, clusters], high + self.rounding)

    def _share(self) -> None:
        """What is certainly elsewhere cannot be here: the parts of a unit vector are orthogonal."""
        energy = self.low.square()
        elsewhere = (energy.sum(1, keepdim=True) - energy).clamp(0, 1)
        self.high = torch.minimum(self.high, (1 - elsewhere).sqrt() + self.rounding)


def _cosine(part: Tensor, widening: Tensor) -> Tensor:
    """cos(arccos(part) + widening), within [0, 1]."""
    return torch.cos((torch.arccos(part.clamp(max=1.0)) + widening).clamp(0, torch.pi / 2))


def _nearest(falling: Tensor, values: Tensor) -> Tensor:
    """The index of the nearest of the `falling` values (c), for each of `values` (p)."""
    rising = falling.flip(0)
    right = torch.searchsorted(rising, values).clamp(1, max(len(rising) - 1, 1)).clamp(max=len(rising) - 1)
    left = (right - 1).clamp(min=0)
    nearest = torch.where((values - rising[left]).abs() <= (rising[right] - values).abs(), left, right)
    return len(rising) - 1 - nearest
