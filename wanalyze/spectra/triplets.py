"""The singular triplets with the largest values, each with a bound on its error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from wanalyze.operators import LowRank, Operator, Stack
from wanalyze.spectra.decomposition import Decomposition, decompose
from wanalyze.spectra.krylov import RESIDUAL_FLOOR, Krylov, Ritz
from wanalyze.spectra.values import SMALL, Spectrum, exact, residual_of

Found = TypeVar("Found")

_EXTRA = 6  # random directions beside those looked for; more of them save no pass (measured)
_STREAM = 0x51ED270B  # a seed that nobody draws weights with: they must not correlate with the start
_MULTIPLE = 8  # widths of blocks: thin products are quickest at multiples of it
_MOST_STEPS = 40  # of a Krylov space before a matrix is taken apart as a whole
_SHARE = 8  # of its triplets asked for, 1 in so many: from there on taking it apart is no slower


@dataclass(frozen=True, eq=False)
class Triplets:
    """u (m, k), values (k), v (n, k) of one matrix, descending, all in float64.

    `residual` (k) bounds |σ − σ_i| and ‖W v − σ u‖. `angle` (k) bounds, in radians and on both sides, the angle
    between a vector and the exact one, or the exact subspace of its `group` (k): vectors that share a number
    share a singular value as far as the asked separation goes.
    """

    u: Tensor
    values: Tensor
    v: Tensor
    residual: Tensor
    angle: Tensor
    group: Tensor


def leading_triplets(
    matrices: Sequence[Operator],
    k: int,
    spectra: Sequence[Spectrum],
    *,
    tolerance: float = 0.0,
    separation: float = 1e-6,
    together: bool = False,
    start: Sequence[Tensor] | None = None,
    most_steps: int = _MOST_STEPS,
    settle: bool = True,
    dtype: torch.dtype = torch.float64,
) -> list[Triplets]:
    """The first k triplets of each matrix (m, n), all of one shape, with all `angle` at most `tolerance`.

    Block Golub-Kahan from random directions, or from `start` (m, any) and some random ones. The error is
    a residual over a gap (Wedin 1972), the gaps come from the known `spectra`; a tolerance that float64 does not
    reach ends where its rounding begins. What has not settled after `most_steps` is decomposed as a whole or, with
    `settle` off, returned with the error it has. `together` asks for the space of all k only: one group.
    """
    few = min(matrices[0].shape)
    if few <= SMALL or k > few // _SHARE or isinstance(matrices[0], LowRank):
        return [_whole(*pair, k, separation, together) for pair in zip(matrices, spectra, strict=True)]
    krylov = Krylov(Stack(matrices), start_blocks(matrices, k, start, dtype))

    def look(i: int, position: int, ritz: Ritz, last: bool) -> Triplets | None:
        group = _grouped(spectra[i].values, k, separation, together)
        error = _error(ritz, k, group, spectra[i], matrices[i].shape, tolerance, dtype)
        return _triplets(krylov, position, ritz, k, error) if error.settled or (last and not settle) else None

    return [
        _whole(matrix, spectrum, k, separation, together) if triplets is None else triplets
        for matrix, spectrum, triplets in zip(matrices, spectra, _grown(krylov, most_steps, look), strict=True)
    ]


def leading_spectra(
    matrices: Sequence[Operator],
    k: int,
    *,
    tolerance: float,
    separation: float = 1e-6,
    start: Sequence[Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[tuple[Spectrum, Triplets]]:
    """The first k triplets of each matrix (m, n) of more than SMALL a side, without knowing all its values.

    The spectrum holds the leading values only, as many as the Krylov space tells, each with its residual. That none
    was missed is certain but for the random start: a vector would have to be orthogonal to `_EXTRA` random ones to
    one part in the inverse of `tolerance`, a chance far below 1e-10. What does not settle is decomposed as a whole.
    """
    krylov = Krylov(Stack(matrices), start_blocks(matrices, k, start, dtype))

    def look(i: int, position: int, ritz: Ritz, _last: bool) -> tuple[Spectrum, Triplets] | None:
        partial = Spectrum(ritz.values[: k + 1 + _EXTRA // 2], ritz.residual[: k + 1 + _EXTRA // 2])
        group = groups(partial.values, separation)
        error = _error(ritz, k, group, partial, matrices[i].shape, tolerance, dtype)
        whole = group[k - 1] < group[-1]  # a group that the known values cut off has an unknown gap
        return (partial, _triplets(krylov, position, ritz, k, error)) if error.settled and whole else None

    result = []
    for matrix, found in zip(matrices, _grown(krylov, _MOST_STEPS, look), strict=True):
        if found is None:
            spectrum = exact(decompose(matrix))
            found = (spectrum, _whole(matrix, spectrum, k, separation, together=False))
        result.append(found)
    return result


def _grown(krylov: Krylov, most_steps: int, look: Callable[[int, int, Ritz, bool], Found | None]) -> list[Found | None]:
    """Grow the spaces until `look` (index, place in the batch, Ritz pairs, last chance) has an answer for each."""
    active = list(range(krylov.matrix.shape[0]))
    found: list[Found | None] = [None for _ in active]
    most = min(krylov.most_steps, most_steps)
    while active and krylov.steps < most:
        krylov.step()
        last = krylov.steps == most
        if not last and (krylov.steps < 3 or (krylov.steps > 10 and krylov.steps % 2)):
            continue
        for position, (i, ritz) in enumerate(zip(active, krylov.ritz(), strict=True)):
            found[i] = look(i, position, ritz, last)
        keep = [position for position, i in enumerate(active) if found[i] is None]
        active = [active[position] for position in keep]
        if active:
            krylov.keep(keep)
    return found


def start_blocks(matrices: Sequence[Operator], k: int, start: Sequence[Tensor] | None, dtype: torch.dtype) -> Tensor:
    """(N, m, b) blocks that hold `start` and random directions: b is k and a few more."""
    width = min(_width(k), min(matrices[0].shape) // 2)
    generator = torch.Generator().manual_seed(_STREAM)
    device = matrices[0].columns(slice(0, 1), dtype).device
    random = torch.randn(matrices[0].shape[0], width, generator=generator, dtype=torch.float64).to(device, dtype)
    if start is None:
        return random.expand(len(matrices), -1, -1)
    return torch.stack([torch.cat([block.to(dtype), random], 1)[:, :width] for block in start])


def _width(k: int) -> int:
    return -(-(k + _EXTRA) // _MULTIPLE) * _MULTIPLE


def groups(values: Tensor, separation: float, error: Tensor | None = None) -> Tensor:
    """Number the values (r), descending: a new group starts after a gap of more than separation · σ₁.

    With `error`, a gap must exceed the errors of the two values as well.
    """
    limit = separation * values[0] if error is None else (error[:-1] + error[1:]).clamp(min=separation * values[0])
    return torch.nn.functional.pad((values[:-1] - values[1:] > limit).cumsum(0), (1, 0))


def _grouped(values: Tensor, k: int, separation: float, together: bool) -> Tensor:
    """The group of each of the values; with `together`, of the first k one and of all others another."""
    if together:
        return (torch.arange(len(values)) >= k).long()
    return groups(values.cpu(), separation)


@dataclass(frozen=True, eq=False)
class _Error:
    residual: Tensor
    angle: Tensor
    group: Tensor
    settled: bool


def _error(
    ritz: Ritz,
    k: int,
    group: Tensor,
    spectrum: Spectrum,
    shape: tuple[int, ...],
    tolerance: float,
    dtype: torch.dtype,
) -> _Error:
    values, residual = ritz.values[:k], ritz.residual[:k]
    known, error = spectrum.values.cpu(), spectrum.error.cpu()
    angle = _angle(residual, gaps(values, known, error, group, group[:k], null=_null(known, shape)))
    # A missed triplet would shift those after it: each must lie at its own value.
    in_place = bool(((values - known[:k]).abs() <= residual + error[:k]).all())
    at_floor = bool((residual <= 2 * RESIDUAL_FLOOR * torch.finfo(dtype).eps * known[0]).all())
    settled = in_place and (at_floor or bool((angle <= tolerance).all()))
    return _Error(residual, angle, group[:k], settled)


def _angle(residual: Tensor, gap: Tensor) -> Tensor:
    return torch.asin((residual / gap).clamp(max=1.0))


def _null(values: Tensor, shape: tuple[int, ...]) -> float | None:
    """0 where one side has directions that none of `values` belongs to."""
    return 0.0 if len(values) < max(shape) else None


def gaps(values: Tensor, known: Tensor, error: Tensor, group: Tensor, own: Tensor, *, null: float | None) -> Tensor:
    """Distance of each of `values` (k) from the nearest `known` one outside of its `own` group (k).

    Values and groups are sorted, so it is one of the two next to the group. `null` is the largest value that `known`
    need not list: 0 where one side has a null space; None where it lists all.
    """
    infinity = known.new_full((1,), torch.inf)
    above = torch.cat([infinity, known - error])[torch.searchsorted(group, own)]
    below = torch.cat([known + error, -infinity])[torch.searchsorted(group, own, right=True)]
    apart = torch.minimum(above - values, values - below)
    if null is not None:
        apart = torch.minimum(apart, values - null)
    return apart.clamp(min=torch.finfo(known.dtype).tiny)


def _triplets(krylov: Krylov, position: int, ritz: Ritz, k: int, error: _Error) -> Triplets:
    left, right = (basis[position] for basis in krylov.bases())
    return Triplets(
        (left @ ritz.left[:, :k].to(left)).to(torch.float64),
        ritz.values[:k].to(left.device),
        (right @ ritz.right[:, :k].to(right)).to(torch.float64),
        *(part.to(left.device) for part in (error.residual, error.angle, error.group)),
    )


def of_svd(spectrum: Spectrum, k: int, shape: tuple[int, ...], separation: float) -> Triplets | None:
    """The first k triplets of a matrix of `shape`, if the vectors came with its values."""
    return None if spectrum.svd is None else _of_svd(spectrum.svd, spectrum, k, shape, separation, together=False)


def _whole(matrix: Operator, spectrum: Spectrum, k: int, separation: float, together: bool) -> Triplets:
    return _of_svd(spectrum.svd or decompose(matrix), spectrum, k, matrix.shape, separation, together)


def _of_svd(
    svd: Decomposition, spectrum: Spectrum, k: int, shape: tuple[int, ...], separation: float, together: bool
) -> Triplets:
    values = svd.values[:k]
    residual = residual_of(values, svd.values[0])
    group = _grouped(svd.values, k, separation, together).to(values.device)
    null = _null(svd.values, shape)
    gap = gaps(values, svd.values, spectrum.error.to(values), group, group[:k], null=null)
    return Triplets(svd.u[:, :k], values, svd.v[:, :k], residual, _angle(residual, gap), group[:k])
