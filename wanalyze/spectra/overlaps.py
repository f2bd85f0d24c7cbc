"""How close each leading singular vector of W1 comes to any singular vector of W0, with its error bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.operators import Operator, Stack
from wanalyze.spectra.certificate import NULL, Certificate, Pairs
from wanalyze.spectra.interior import Interior
from wanalyze.spectra.krylov import Krylov
from wanalyze.spectra.prepared import Prepared
from wanalyze.spectra.triplets import Triplets, groups, leading_spectra, leading_triplets, start_blocks
from wanalyze.spectra.values import SMALL, Spectrum
from wanalyze.spectra.values import spectra as values_of

# Singular values of W1 closer than this, in units of σ₁, share a subspace: which vectors span it is up to the
# last digits of the weights, and no solver reproduces it (research notes on multiplicities).
SEPARATION = 1e-6
GRID = tuple(round(0.1 * i, 1) for i in range(1, 10))
_TOLERANCES = (1e-3, 1e-7)  # of the vectors of W1, radians; the second only where the first leaves ε open
# After these steps the bounds are looked at; more steps cost more than the eigenvalue problem they save.
_SCHEDULE = (1, 2, 3, 4, 6, 8, 10, 12, 14, 17, 20, 24)
_KRYLOV = 1536  # up to this short side the last resort is cheaper than what would save it
_SHIFTS = 4  # factorisations per side before all vectors are cheaper
_LEANING = 0.2  # mean of a vector's bounds against the largest: below it a shift is worth its factorisation
_CROSSED = 1e-9  # low above high by more is no rounding
SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Overlaps:
    """For each of k vectors (k): the enclosure of max_j |cos| and what it points to.

    `matched` is the index j of the nearest vector of the base, −1 where that is not certain or is one of several with
    the same singular value: of c, the norm of u_i in their common subspace of dimension d, some vector of any basis
    holds at least c / √d and none more than c, and that is the enclosure. `group` numbers the vectors of W1: those
    that share a number also share a singular value, and then only `high`, the cosine of their common subspace, is
    defined; their `low` is 0. `alone` is False for them, also where the others lie beyond k.
    """

    low: Tensor
    high: Tensor
    matched: Tensor
    group: Tensor
    alone: Tensor


def overlaps(
    tuned: Sequence[Operator],
    spectra: Sequence[Spectrum] | None,
    base: Sequence[Prepared],
    *,
    k: int,
    epsilons: Sequence[float] = GRID,
    settle: bool = True,
) -> list[tuple[Overlaps, Overlaps]]:
    """Left and right enclosures of max_j |cos(u_i(W1), u_j(W0))| for i < k, over all j, for pairs of one shape.

    An enclosure closes until it lies on one side of every ε; fewer than k vectors come back where W1 has fewer
    non-zero values. Lower bounds: Ritz vectors and Davis and Kahan; upper bounds: the block Christoffel function.
    Without the `spectra` of W1 their gaps come from its Krylov space as well: see `leading_spectra`.
    With `settle` off the last resort, an `eigh` of W0's Gram matrix, is left out and what is open stays open.
    """
    if spectra is None and min(tuned[0].shape) <= SMALL:
        spectra = values_of(tuned, base[0].dtype)
    tasks = _known(tuned, spectra, base, k) if spectra is not None else _unknown(tuned, base, k)
    for tolerance in _TOLERANCES:
        waiting = [task for task in tasks if task.waits(epsilons)]
        _find_triplets([task for task in waiting if task.found or task.triplets is None], tolerance)
        for side in SIDES:
            _certify(waiting, side, epsilons, settle=settle)
    return [(task.answer("left"), task.answer("right")) for task in tasks]


def _known(tuned: Sequence[Operator], spectra: Sequence[Spectrum], base: Sequence[Prepared], k: int) -> list[_Task]:
    return [_Task(*parts, k) for parts in zip(tuned, spectra, base, strict=True)]


def _unknown(tuned: Sequence[Operator], base: Sequence[Prepared], k: int) -> list[_Task]:
    starts = [prepared.leading.u[:, :k] for prepared in base]
    dtype = base[0].dtype
    found = leading_spectra(tuned, k, tolerance=_TOLERANCES[0], separation=SEPARATION, start=starts, dtype=dtype)
    tasks = _known(tuned, [spectrum for spectrum, _ in found], base, k)
    for task, (_, triplets) in zip(tasks, found, strict=True):
        task.triplets = triplets if task.wide == k else None
    return tasks


class _Task:
    """One pair on its way: the vectors of W1 found so far and what is certain of them."""

    def __init__(self, tuned: Operator, spectrum: Spectrum, base: Prepared, k: int) -> None:
        self.tuned, self.spectrum, self.base = tuned, spectrum, base
        values = spectrum.values.cpu()
        alive = int((values > NULL * values[0]).sum())
        group = groups(values[:alive], SEPARATION)
        self.k = min(k, alive)
        self.wide = int((group <= group[self.k - 1]).sum())  # the last group may reach beyond k
        self.group = group[: self.wide]
        self.triplets: Triplets | None = None
        self.found: dict[str, Certificate] = {}

    def waits(self, epsilons: Sequence[float]) -> bool:
        return not self.found or any(self._needs_sharper_vectors(side, epsilons) for side in SIDES)

    def _needs_sharper_vectors(self, side: str, epsilons: Sequence[float]) -> bool:
        """Whether an ε is open only because the vectors of W1 are not known better."""
        low, high = self.grouped(side)
        as_computed = self._holding(low.amax(1), high.amax(1), epsilons)
        return any(i not in as_computed for i in self.undecided(side, epsilons))

    def directions(self, side: str) -> Tensor:
        assert self.triplets is not None
        return self.triplets.u if side == "left" else self.triplets.v

    def undecided(self, side: str, epsilons: Sequence[float]) -> list[int]:
        """Vectors whose enclosure holds an ε; of a group, the enclosure of the subspace."""
        return self._holding(*self.enclosure(side), epsilons)

    def _holding(self, low: Tensor, high: Tensor, epsilons: Sequence[float]) -> list[int]:
        epsilon = torch.tensor(list(epsilons), dtype=torch.float64)
        is_open = ((low[:, None] < epsilon) & (epsilon <= high[:, None])).any(1)
        return torch.nonzero(is_open[self.group])[:, 0].tolist()

    def enclosure(self, side: str) -> tuple[Tensor, Tensor]:
        """Per group (g): max over clusters of the part of its subspace there, with the error of W1's vectors."""
        low, high = (part.amax(1) for part in self.grouped(side))
        return self.widened(low, high)

    def grouped(self, side: str) -> tuple[Tensor, Tensor]:
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

    def widened(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
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
        low, high = self.widened(*self.grouped(side))
        clusters = self.base.clusters
        own = self.group[: self.k]
        alone = torch.bincount(self.group)[own] == 1
        any_basis = (low / clusters.size.sqrt()).amax(1)
        best, place = low.max(1)
        others = high.scatter(1, place[:, None], 0.0).amax(1)
        certain = (clusters.size[place] == 1) & (best > others)
        matched = torch.where(certain, clusters.first[place], -1)[own]
        return Overlaps(
            torch.where(alone, any_basis[own], 0.0),
            high.amax(1)[own],
            torch.where(alone, matched, -1),
            own,
            alone,
        )


def _find_triplets(tasks: Sequence[_Task], tolerance: float) -> None:
    by_width: dict[int, list[_Task]] = {}
    for task in tasks:
        by_width.setdefault(task.wide, []).append(task)
    for wide, same in by_width.items():
        starts = [task.base.leading.u if task.triplets is None else task.triplets.u for task in same]
        found = leading_triplets(
            [task.tuned for task in same],
            wide,
            [task.spectrum for task in same],
            tolerance=tolerance,
            separation=SEPARATION,
            start=[start[:, :wide] for start in starts],
            dtype=same[0].base.dtype,
        )
        for task, triplets in zip(same, found, strict=True):
            task.triplets = triplets


def _certify(tasks: Sequence[_Task], side: str, epsilons: Sequence[float], *, settle: bool) -> None:
    if not tasks:
        return
    for task in tasks:
        directions = task.directions(side)
        certificate = Certificate(task.base.clusters, directions.shape[1], torch.finfo(task.base.dtype).eps)
        whole = task.base.is_whole or task.wide > min(task.base.matrix.shape) // 8
        look = task.base.all_pairs if whole else task.base.leading_pairs
        certificate.learn(look(directions, side))
        task.found[side] = certificate
    if not settle or min(tasks[0].base.matrix.shape) > _KRYLOV:
        _by_krylov(_open(tasks, side, epsilons), side, epsilons)
        _by_shifts(_open(tasks, side, epsilons), side, epsilons)
    for task in _open(tasks, side, epsilons) if settle else ():
        task.found[side].learn(task.base.all_pairs(task.directions(side), side))


def _open(tasks: Sequence[_Task], side: str, epsilons: Sequence[float]) -> list[_Task]:
    return [task for task in tasks if not task.base.is_whole and task.undecided(side, epsilons)]


def _by_krylov(tasks: Sequence[_Task], side: str, epsilons: Sequence[float]) -> None:
    """Block Golub-Kahan on W0 from the vectors of W1."""
    by_width: dict[int, list[_Task]] = {}
    for task in tasks:
        by_width.setdefault(task.wide, []).append(task)
    for wide, same in by_width.items():
        matrices = [task.base.matrix if side == "left" else task.base.matrix.T for task in same]
        starts = [task.directions(side) for task in same]
        krylov = Krylov(Stack(matrices), start_blocks(matrices, wide, starts, same[0].base.dtype))
        _steps(krylov, same, side, epsilons)


def _steps(krylov: Krylov, active: Sequence[_Task], side: str, epsilons: Sequence[float]) -> None:
    for last in _SCHEDULE:
        if last > krylov.most_steps:
            return
        while krylov.steps < last:
            krylov.step()
        for task, ritz in zip(active, krylov.ritz(), strict=True):
            task.found[side].learn_from_krylov(ritz, krylov.width, task.undecided(side, epsilons))
        keep = [i for i, task in enumerate(active) if task.undecided(side, epsilons)]
        if not keep:
            return
        active = [active[i] for i in keep]
        krylov.keep(keep)


def _by_shifts(tasks: Sequence[_Task], side: str, epsilons: Sequence[float]) -> None:
    """Vectors of W0 deep in its spectrum, one factorisation each, where an open vector leans on one of them."""
    for task in tasks:
        interior: Interior | None = None
        tried: set[int] = set()
        for _ in range(_SHIFTS):
            leaning = [i for i in task.undecided(side, epsilons) if i not in tried and _leans(task.found[side], i)]
            if not leaning:
                break
            interior = interior or Interior(task.base.matrix)
            tried.add(leaning[0])
            _shift(task, side, leaning[0], interior)


def _leans(certificate: Certificate, i: int) -> bool:
    """Whether what is open about vector i is about few clusters: its bounds are high there and low elsewhere."""
    high = certificate.high[i].square()
    return bool(high.mean() < _LEANING * high.amax())


def _shift(task: _Task, side: str, i: int, interior: Interior) -> None:
    certificate, direction = task.found[side], task.directions(side)
    value = certificate.base.value[certificate.high[i].argmax()].item()
    m, n = task.base.matrix.shape
    on_short = (side == "left") == (m <= n)
    start = direction[:, i : i + 1].to(interior.gram)
    near, far, values, residual = interior.near(value, (start if on_short else interior.short @ start)[:, 0])
    cosine = (near if on_short else far).mT @ direction.to(near)
    certificate.learn(Pairs(cosine.abs().cpu(), values.cpu(), residual.cpu()))
