"""All singular values of a matrix, without its singular vectors."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.errors import NumericsError
from wanalyze.operators import Kronecker, LowRank, Operator, column_blocks
from wanalyze.spectra.decomposition import EPS, KEPT, Decomposition, decompose, power_of_two

SMALL = 768  # up to this short side an `eigh` of the Gram matrix costs no more than what would replace it
BACKWARD_ERROR = 32.0  # of an eigenvalue of a Gram matrix, in units of eps · σ₁²; LAPACK's constant is smaller
_SAFE = (1e-200, 1e200)  # sums of squares that lose nothing
_PANELS = 16  # of the lower triangle of a Gram matrix: 17/32 of the work of the whole
_ON_CUDA = 4  # eigenvalue problems in flight: one alone leaves most of a GPU idle
_TINY = torch.finfo(torch.float64).tiny
_IN_FLIGHT = 2**30  # bytes of Gram matrices held at once


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values (r), descending, and for each a bound on its distance from the exact one.

    `svd` holds the vectors as well where they came with the values.
    """

    values: Tensor
    error: Tensor
    svd: Decomposition | None = None


def spectra(matrices: Sequence[Operator]) -> list[Spectrum]:
    """All min(m, n) singular values of each matrix (m, n); for `LowRank` the first min(m, n, r), the rest being zero.

    By the eigenvalues of the Gram matrix on the short side, several in flight: a value σ is good to
    eps · σ₁² / σ, see `error`, and nothing below 1e-7 σ₁ is. `deflation.resolved` is for where that matters.
    Structured matrices take their own way: two thin QRs for `LowRank`, products for `Kronecker`.
    """
    found: dict[int, Spectrum] = {
        i: _of_product(matrix) if isinstance(matrix, Kronecker) else exact(decompose(matrix))
        for i, matrix in enumerate(matrices)
        if isinstance(matrix, LowRank | Kronecker) or min(matrix.shape) <= SMALL
    }
    waiting = [i for i in range(len(matrices)) if i not in found]
    for group in _groups(waiting, matrices):
        for i, (eigenvalues, scale) in zip(group, _eigenvalues([matrices[i] for i in group]), strict=True):
            found[i] = _from_gram(eigenvalues, scale)
    return [found[i] for i in range(len(matrices))]


def _of_product(matrix: Kronecker) -> Spectrum:
    """Products of the values of both factors, and zeros where one is wide and the other tall."""
    first, second = (found.values for found in spectra([matrix.first, matrix.second]))
    values = (abs(matrix.scale) * torch.outer(first, second)).flatten().sort(descending=True).values
    values = torch.nn.functional.pad(values, (0, min(matrix.shape) - len(values)))
    return Spectrum(values, (2 * BACKWARD_ERROR * EPS * values[:1]).expand(values.shape))


def gram(matrix: Operator) -> tuple[Tensor, float]:
    """The lower triangle of W Wᵀ or Wᵀ W, whichever is smaller, of W / scale (m, n), and the scale.

    In float64, over column blocks, so W is never held in float64 as a whole; above the diagonal lies anything.
    The scale is 1 unless squares would leave the range.
    """
    short = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.T
    found = _gram(short, 1.0)
    low, high = _SAFE
    if low <= found.diagonal().amax() <= high:
        return found, 1.0
    scale = power_of_two(largest_entry(short))
    return _gram(short, scale), scale


def _gram(short: Operator, scale: float) -> Tensor:
    r = short.shape[-2]
    step = max(-(-r // _PANELS), 64)
    total: Tensor | None = None
    for block in column_blocks(short):
        part = short.columns(block, torch.float64)
        part = part if scale == 1 else part / scale
        new = total is None
        total = part.new_empty(r, r) if total is None else total
        for start in range(0, r, step):
            product = part[start:] @ part[start : start + step].mT
            if new:
                total[start:, start : start + step] = product
            else:
                total[start:, start : start + step] += product
    assert total is not None
    return total


def exact(svd: Decomposition) -> Spectrum:
    """As from LAPACK: good to a few eps of the largest."""
    return Spectrum(svd.values, (BACKWARD_ERROR * EPS * svd.values[:1]).expand(svd.values.shape), svd)


def residual_of(values: Tensor, largest: Tensor) -> Tensor:
    """Of the vectors of `decompose` at `values`, in a matrix whose largest value is `largest`.

    An eigenvector of a Gram matrix is good to eps · σ₁² over the gap of the squares; KEPT bounds the ratio.
    """
    return BACKWARD_ERROR * EPS * largest * (largest / values.clamp(min=_TINY)).clamp(max=1 / KEPT)


def largest_entry(matrix: Operator) -> float:
    """The largest |entry|."""
    ends = (matrix.columns(block, torch.float64).aminmax() for block in column_blocks(matrix))
    return max(max(-low.item(), high.item()) for low, high in ends)


def _groups(waiting: Sequence[int], matrices: Sequence[Operator]) -> list[list[int]]:
    groups: list[list[int]] = []
    held = 0
    for i in waiting:
        size = 8 * min(matrices[i].shape) ** 2
        if not groups or held + size > _IN_FLIGHT:
            groups.append([])
            held = 0
        groups[-1].append(i)
        held += size
    return groups


def _eigenvalues(matrices: Sequence[Operator]) -> list[tuple[Tensor, float]]:
    """Ascending eigenvalues of the Gram matrix of each, and its scale: several in flight.

    A thread or stream each is how eigenvalue problems are quickest. Those that make no full round start first, beside
    the products for the others, which need all the arithmetic there is.
    """
    threads = torch.get_num_threads()
    first = gram(matrices[0])
    workers = min(len(matrices), _ON_CUDA if first[0].is_cuda else threads)
    early = 0 if first[0].is_cuda else len(matrices) % workers
    grams = [first, *(gram(matrix) for matrix in matrices[1:early])]
    share = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            started = [pool.submit(_eigvalsh, matrix) for matrix, _ in grams[:early]]
            torch.set_num_threads(max(1, threads - early * share))
            grams += [gram(matrix) for matrix in matrices[len(grams) :]]
            if first[0].is_cuda:
                torch.cuda.current_stream(first[0].device).synchronize()
            started += [pool.submit(_eigvalsh, matrix) for matrix, _ in grams[early:]]
            return [(future.result(), scale) for future, (_, scale) in zip(started, grams, strict=True)]
    finally:
        torch.set_num_threads(threads)


def _eigvalsh(matrix: Tensor) -> Tensor:
    if not matrix.diagonal().any():
        return matrix.new_zeros(len(matrix))  # solvers have failed on zero
    if matrix.is_cuda:
        stream = torch.cuda.Stream(matrix.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            found: Tensor = torch.linalg.eigvalsh(matrix)
            stream.synchronize()
    else:
        found = torch.linalg.eigvalsh(matrix)
    if not found.isfinite().all():
        raise NumericsError("the eigenvalues of its Gram matrix did not come out finite")
    return found


def _from_gram(eigenvalues: Tensor, scale: float) -> Spectrum:
    """σ = √λ; an error δ of λ is one of at most δ / σ or √δ in σ."""
    values = eigenvalues.flip(-1).clamp(min=0).sqrt()
    error = BACKWARD_ERROR * EPS * values[0].square()
    bound = torch.minimum(error / values.clamp(min=_TINY), error.sqrt())
    return Spectrum(values * scale, bound * scale)
