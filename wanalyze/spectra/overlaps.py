"""How close each leading singular vector of W1 comes to any singular vector of W0, with its error bar."""

from __future__ import annotations

from collections.abc import Sequence

from wanalyze.operators import Operator, Stack
from wanalyze.spectra.certificate import Certificate, Pairs
from wanalyze.spectra.comparison import SEPARATION, SIDES, Comparison, Overlaps
from wanalyze.spectra.interior import Interior
from wanalyze.spectra.krylov import Krylov
from wanalyze.spectra.prepared import Prepared
from wanalyze.spectra.triplets import leading_spectra, leading_triplets, start_blocks
from wanalyze.spectra.values import SMALL, Spectrum
from wanalyze.spectra.values import spectra as values_of

GRID = tuple(round(0.1 * i, 1) for i in range(1, 10))
_TOLERANCES = (1e-3, 1e-7)  # of the vectors of W1, radians; the second only where the first leaves ε open
# After these steps the bounds are looked at; more steps cost more than the eigenvalue problem they save.
_SCHEDULE = (1, 2, 3, 4, 6, 8, 10, 12, 14, 17, 20, 24)
_KRYLOV = 1536  # up to this short side the last resort is cheaper than what would save it
_WIDEST = 58  # directions of one Krylov space: the tables of its bounds grow with their square
_SHIFTS = 4  # factorisations per side before all vectors are cheaper
_LEANING = 0.2  # mean of a vector's bounds against the largest: below it a shift is worth its factorisation


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
        spectra = values_of(tuned)
    tasks = _known(tuned, spectra, base, k) if spectra is not None else _unknown(tuned, base, k)
    for tolerance in _TOLERANCES:
        waiting = [task for task in tasks if task.waits(epsilons)]
        _find_triplets([task for task in waiting if task.found or task.triplets is None], tolerance)
        for side in SIDES:
            _certify(waiting, side, epsilons, settle=settle)
    return [(task.answer("left"), task.answer("right")) for task in tasks]


def _known(
    tuned: Sequence[Operator], spectra: Sequence[Spectrum], base: Sequence[Prepared], k: int
) -> list[Comparison]:
    return [Comparison(*parts, k) for parts in zip(tuned, spectra, base, strict=True)]


def _unknown(tuned: Sequence[Operator], base: Sequence[Prepared], k: int) -> list[Comparison]:
    starts = [prepared.leading.u[:, :k] for prepared in base]
    dtype = base[0].dtype
    found = leading_spectra(tuned, k, tolerance=_TOLERANCES[0], separation=SEPARATION, start=starts, dtype=dtype)
    tasks = _known(tuned, [spectrum for spectrum, _ in found], base, k)
    for task, (_, triplets) in zip(tasks, found, strict=True):
        task.triplets = triplets if task.wide == k else None
    return tasks


def _by_width(tasks: Sequence[Comparison]) -> dict[int, list[Comparison]]:
    """Those that look for as many vectors go together."""
    groups: dict[int, list[Comparison]] = {}
    for task in tasks:
        groups.setdefault(task.wide, []).append(task)
    return groups


def _find_triplets(tasks: Sequence[Comparison], tolerance: float) -> None:
    for wide, same in _by_width(tasks).items():
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


def _certify(tasks: Sequence[Comparison], side: str, epsilons: Sequence[float], *, settle: bool) -> None:
    for task in tasks:
        look = task.base.all_pairs if task.base.is_whole else task.base.leading_pairs
        task.begin(side, look(task.directions(side), side))
    some = [task for task in tasks if not task.base.is_whole]
    if some and (not settle or min(some[0].base.matrix.shape) > _KRYLOV):
        _by_krylov([task for task in _open(some, side, epsilons) if task.wide <= _WIDEST], side, epsilons)
        _by_shifts(_open(some, side, epsilons), side, epsilons)
    if settle:
        _by_everything(_open(some, side, epsilons), side)
        inexact = [task for task in tasks if task.base.spectrum.svd is None]
        _by_exact_vectors(_open(inexact, side, epsilons), side, epsilons)


def _open(tasks: Sequence[Comparison], side: str, epsilons: Sequence[float]) -> list[Comparison]:
    return [task for task in tasks if task.undecided(side, epsilons)]


def _by_krylov(tasks: Sequence[Comparison], side: str, epsilons: Sequence[float]) -> None:
    """Block Golub-Kahan on W0 from the vectors of W1."""
    for wide, same in _by_width(tasks).items():
        matrices = [task.base.matrix if side == "left" else task.base.matrix.T for task in same]
        starts = [task.directions(side) for task in same]
        krylov = Krylov(Stack(matrices), start_blocks(matrices, wide, starts, same[0].base.dtype))
        _steps(krylov, same, side, epsilons)


def _steps(krylov: Krylov, active: Sequence[Comparison], side: str, epsilons: Sequence[float]) -> None:
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


def _by_shifts(tasks: Sequence[Comparison], side: str, epsilons: Sequence[float]) -> None:
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


def _shift(task: Comparison, side: str, i: int, interior: Interior) -> None:
    certificate, direction = task.found[side], task.directions(side)
    value = certificate.base.value[certificate.high[i].argmax()].item()
    m, n = task.base.matrix.shape
    on_short = (side == "left") == (m <= n)
    start = direction[:, i : i + 1].to(interior.gram)
    found = interior.near(value, (start if on_short else interior.short @ start)[:, 0])
    if found is None:
        return
    near, far, values, residual = found
    cosine = (near if on_short else far).mT @ direction.to(near)
    certificate.learn(Pairs(cosine.abs().cpu(), values.cpu(), residual.cpu()))


def _by_everything(tasks: Sequence[Comparison], side: str) -> None:
    """All singular vectors of W0, from its Gram matrix."""
    for task in tasks:
        task.found[side].learn(task.base.all_pairs(task.directions(side), side))


def _by_exact_vectors(tasks: Sequence[Comparison], side: str, epsilons: Sequence[float]) -> None:
    """The same where a Gram matrix does not hold them: values over more than some four decades."""
    for task in tasks:
        if task.is_loose(side, epsilons):
            task.base = task.base.exact
            task.begin(side, task.base.all_pairs(task.directions(side), side))
