"""What is known of the overlaps between directions and the singular vectors of W0, as it becomes known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.spectra.christoffel import christoffel
from wanalyze.spectra.krylov import Ritz
from wanalyze.spectra.triplets import gaps, groups
from wanalyze.spectra.values import Spectrum

# Singular values of W0 closer than MULTIPLE · σ₁ are one value: float64 tells their vectors apart to 1e-2 at best.
# Below NULL · σ₁ a value is not told from 0 by a Gram matrix in float64 (√eps is 1.5e-8): null space.
MULTIPLE = 1e-9
NULL = 1e-7
_CONVERGED = 1e-3  # sine of its angle to the exact vector: such a Ritz vector is taken for it, with that error
_ROUNDING = 64  # · eps: what a computed cosine may be off by


@dataclass(frozen=True, eq=False)
class Base:
    """The singular values of W0, put into clusters of equal ones; null space left out.

    `value` (c), `size` (c) and `first` (c): the index of a cluster's first member; `cluster` (r) numbers the values.
    """

    values: Tensor
    error: Tensor
    cluster: Tensor
    value: Tensor
    size: Tensor
    first: Tensor
    null: bool

    @classmethod
    def of(cls, spectrum: Spectrum, shape: tuple[int, ...]) -> Base:
        values, error = spectrum.values.cpu(), spectrum.error.cpu()
        alive = int((values > NULL * values[0]).sum())
        null = alive < max(shape)
        values, error = values[:alive], error[:alive]
        cluster = groups(values, MULTIPLE, error)
        size = torch.bincount(cluster)
        total = values.new_zeros(len(size)).index_add_(0, cluster, values)
        return cls(values, error, cluster, total / size, size, size.cumsum(0) - size, null)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Approximate singular vectors of W0, seen from the directions: |cosine| (p, d), value (p), residual (p)."""

    cosine: Tensor
    value: Tensor
    residual: Tensor


class Certificate:
    """Enclosures of ‖P_c x_i‖, the part of each of d directions that lies in the eigenspace of each cluster c.

    `low`, `high` (d, c) only ever close in. For a cluster of one, the norm is the |cosine| with its vector.
    """

    def __init__(self, base: Base, directions: int, eps: float) -> None:
        self.base, self.rounding = base, _ROUNDING * eps
        self.low = torch.zeros(directions, len(base.value), dtype=torch.float64)
        self.high = torch.ones_like(self.low)

    def learn(self, pairs: Pairs) -> None:
        """From approximate vectors: each bounds the overlap from below, a whole cluster of them from above."""
        place, sine = self._placed(pairs)
        angle = torch.arccos(pairs.cosine.clamp(max=1.0)) + torch.asin(sine)[:, None]
        single = torch.cos(angle.clamp(max=torch.pi / 2)).mT
        self._raise(torch.zeros_like(self.low).scatter_reduce_(1, place.expand_as(single), single, "amax"))
        converged = sine <= _CONVERGED
        within, leak, count = self._clustered(pairs, place, sine, converged)
        self._raise(_cosine(within, leak))
        complete = count == self.base.size
        self._lower(_cosine(within, -leak)[:, complete], complete)
        self._share()

    def learn_from_krylov(self, ritz: Ritz, width: int, columns: Sequence[int]) -> None:
        """From a Krylov space started at the directions (`columns` of its start block, in their order)."""
        index = torch.arange(len(self.low))
        pairs = Pairs(ritz.left[: len(self.low)].abs().mT, ritz.values, ritz.residual)
        self.learn(pairs)
        place, sine = self._placed(pairs)
        converged = sine <= _CONVERGED
        within, leak, count = self._clustered(pairs, place, sine, converged)
        open_ = (count < self.base.size) & (self.high[list(columns)] > self.low.amax(1)[list(columns), None]).any(0)
        if open_.any():
            chosen = index[list(columns)]
            held = christoffel(ritz, width, chosen, converged, self.base.value[open_]).clamp(0, 1).sqrt().mT
            # A converged vector is not exact: of any other vector it holds at most its own error.
            slack = pairs.cosine[converged][:, chosen].mT @ sine[converged]
            known = torch.where(count > 0, _cosine(within, -leak), 0.0)[chosen][:, open_]
            total = (known.square() + (held + slack[:, None]).square()).sqrt()
            full = torch.ones_like(self.low[:, open_])
            full[chosen] = total
            self._lower(full, open_)
        self._share()

    def _placed(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The nearest cluster of each pair, and a bound on the sine of its angle to the eigenspace there."""
        base = self.base
        place = (pairs.value[:, None] - base.value).abs().argmin(1)
        gap = gaps(pairs.value, base.values, base.error, base.cluster, place, null=base.null)
        return place, (pairs.residual / gap).clamp(max=1.0)

    def _clustered(self, pairs: Pairs, place: Tensor, sine: Tensor, converged: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the converged pairs of each cluster: their part (d, c), the angle they may be off (c), their number."""
        clusters, chosen = len(self.base.value), place[converged]
        energy = self.low.new_zeros(len(self.low), clusters)
        energy.index_add_(1, chosen, pairs.cosine[converged].square().mT)
        leak = self.low.new_zeros(clusters).index_add_(0, chosen, sine[converged].square())
        count = torch.bincount(chosen, minlength=clusters)
        return energy.sqrt(), torch.asin(leak.sqrt().clamp(max=1.0)), count

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
