"""A pair of matrices between first look and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.operators import Operator
from wanalyze.spectra.certificate import Certificate, Pairs, count_alive
from wanalyze.spectra.prepared import Prepared
from wanalyze.spectra.similarity import MOST, similarity
from wanalyze.spectra.triplets import Triplets, groups, of_svd
from wanalyze.spectra.values import Spectrum

# Singular values of W1 closer than this, in units of σ₁, share a subspace: which vectors span it is up to the
# last digits of the weights, and no solver reproduces it (research notes on multiplicities).
SEPARATION = 1e-6
SIDES = ("left", "right")
_MOST_SHARED = 48  # vectors beyond k that are looked for because they share a value with one of the k
_CROSSED = 1e-9  # low above high by more is no rounding
_TIE = 1e-6  # an enclosure this narrow that holds an ε is a tie


@dataclass(frozen=True, eq=False)
class Overlaps:
    """For each of k vectors (k): the enclosure of max_j |cos| and what it points to.

    `matched` is the index j of the nearest vector of the base, −1 where that is not certain or is one of several with
    the same singular value: of c, the norm of u_i in their common subspace of dimension d, some vector of any basis
    holds at least c / √d and none more than c, and that is the enclosure. `group` numbers the vectors of W1: those
    that share a number also share a singular value, and then only `high`, the cosine of their common subspace, is
    defined; their `low` is 0. `alone` is False for them, also where the others lie beyond k. `similarity` (a, b) are
    the cosines of single vectors, of as many as were worked out.
    """

    low: Tensor
    high: Tensor
    matched: Tensor
    group: Tensor
    alone: Tensor
    similarity: Tensor


class Comparison:
    """One pair on its way: the vectors of W1 found so far and what is certain of them.

    `group` (d) numbers the vectors that are looked for: the first k and what shares a singular value with them. A last
    group that reaches far beyond k is left out: its vectors have no answer, and its subspace no bound but 1.
    """

    def __init__(self, tuned: Operator, spectrum: Spectrum, base: Prepared, k: int) -> None:
        self.tuned, self.spectrum, self.base = tuned, spectrum, base
        values = spectrum.values.cpu()
        alive = count_alive(values)
        group = groups(values[:alive], SEPARATION)
        self.k = min(k, alive)
        self.own = group[: self.k]
        last = self.own[-1]
        wide = int((group <= last).sum())
        self.wide = wide if wide <= self.k + _MOST_SHARED else int((group < last).sum())
        self.group = group[: self.wide]
        self.triplets: Triplets | None = None
        self.found: dict[str, Certificate] = {}

    def waits(self, epsilons: Sequence[float]) -> bool:
        """Whether there is something to find, or to find more sharply."""
        if self.wide == 0:
            return False
        return not self.found or any(self._needs_sharper_vectors(side, epsilons) for side in SIDES)

    def _needs_sharper_vectors(self, side: str, epsilons: Sequence[float]) -> bool:
        """Whether an ε is open only because the vectors of W1 are not known better."""
        low, high = self._grouped(side)
        as_computed = self._holding(low.amax(1), high.amax(1), epsilons)
        return any(i not in as_computed for i in self.undecided(side, epsilons))

    def directions(self, side: str) -> Tensor:
        assert self.triplets is not None
        return self.triplets.u if side == "left" else self.triplets.v

    def undecided(self, side: str, epsilons: Sequence[float]) -> list[int]:
        """Vectors whose enclosure holds an ε; of a group, the enclosure of the subspace."""
        return self._holding(*self._enclosure(side), epsilons)

    def is_loose(self, side: str, epsilons: Sequence[float]) -> bool:
        """Whether an ε is open by more than rounding."""
        low, high = self._enclosure(side)
        return bool((high - low)[self.group[self.undecided(side, epsilons)]].gt(_TIE).any())

    def begin(self, side: str, pairs: Pairs) -> None:
        """Start from a first look at the vectors of one side."""
        eps = torch.finfo(self.base.dtype).eps
        self.found[side] = Certificate(self.base.clusters, self.wide, eps)
        self.found[side].learn(pairs)

    def _holding(self, low: Tensor, high: Tensor, epsilons: Sequence[float]) -> list[int]:
        epsilon = torch.tensor(list(epsilons), dtype=torch.float64)
        is_open = ((low[:, None] < epsilon) & (epsilon <= high[:, None])).any(1)
        return torch.nonzero(is_open[self.group])[:, 0].tolist()

    def _enclosure(self, side: str) -> tuple[Tensor, Tensor]:
        """Per group (g): max over clusters of the part of its subspace there, with the error of W1's vectors."""
        low, high = (part.amax(1) for part in self._grouped(side))
        return self._widened(low, high)

    def _grouped(self, side: str) -> tuple[Tensor, Tensor]:
        """Enclosures (g, c) of ‖P_c U_g‖_F for the computed vectors: the |cosine| for a group and a cluster of one."""
        certificate, count = self.found[side], int(self.group[-1]) + 1
        shape = (count, certificate.low.shape[1])
        low, high = (
            part.new_zeros(shape).index_add_(0, self.group, part.square()).sqrt().clamp(max=1.0)
            for part in (certificate.low, certificate.high)
        )
        if (low > high + _CROSSED).any():
            raise NumericsError("a lower bound of a cosine came out above its upper bound; this is a bug in wanalyze")
        return low, high

    def _widened(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Enclosures (g, any) for the exact vectors of W1, which lie within an angle of the computed ones."""
        assert self.triplets is not None
        leak = torch.zeros(len(low), dtype=torch.float64)
        leak.index_add_(0, self.group, torch.sin(self.triplets.angle.cpu()).square())
        angle = torch.asin(leak.sqrt().clamp(max=1.0)).reshape(-1, *[1] * (low.ndim - 1))
        return (
            torch.cos((torch.arccos(low) + angle).clamp(max=torch.pi / 2)),
            torch.cos((torch.arccos(high) - angle).clamp(min=0)),
        )

    def answer(self, side: str) -> Overlaps:
        """What is certain of the first k vectors."""
        count = min(self.k, self.wide)
        known = self._answer(side, self.own[:count]) if count else _nothing(0)
        parts = zip(known, _nothing(self.k - count), strict=True)
        low, high, matched, alone = (torch.cat(columns) for columns in parts)
        return Overlaps(low, high, matched, self.own, alone, self._similarity(side))

    def _similarity(self, side: str) -> Tensor:
        tuned = of_svd(self.spectrum, MOST, self.tuned.shape, SEPARATION) or self.triplets
        base = of_svd(self.base.spectrum, MOST, self.base.matrix.shape, SEPARATION) or self.base.leading
        return torch.zeros(0, 0) if tuned is None else similarity(tuned, base, side)

    def _answer(self, side: str, own: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        low, high = self._widened(*self._grouped(side))
        clusters = self.found[side].base
        alone = torch.bincount(self.group)[own] == 1
        any_basis = (low / clusters.size.sqrt()).amax(1)
        best, place = low.max(1)
        others = high.scatter(1, place[:, None], 0.0).amax(1)
        certain = (clusters.size[place] == 1) & (best > others)
        matched = torch.where(certain, clusters.first[place], -1)[own]
        return torch.where(alone, any_basis[own], 0.0), high.amax(1)[own], torch.where(alone, matched, -1), alone


def _nothing(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of vectors that share their value with too many: low, high, matched, alone."""
    low = torch.zeros(count, dtype=torch.float64)
    return low, torch.ones_like(low), torch.full((count,), -1), torch.zeros(count, dtype=torch.bool)
