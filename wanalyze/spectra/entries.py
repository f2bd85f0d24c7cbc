"""What the entries of a matrix say that its spectrum does not: their kurtosis, and the norms of rows and columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wanalyze.operators import LowRank, Operator, widened
from wanalyze.spectra.decomposition import EPS, power_of_two, triangles

_ENTRIES = 2**19  # looked at together: they stay in the cache of a CPU
_COLUMNS = 1024  # of a factor, whose products of pairs stay in the cache
_PANELS = 4  # of the lower triangle of a Gram matrix: 5/8 of the work of the whole
_PASS = 90  # what an entry costs beside its products, in multiplications: it is squared twice and summed twice
_MOST = 15 * 10**7  # multiplications for exact moments of a `LowRank`: 5 ms
_SAMPLE, _ROWS = 128, 32  # rows drawn for an estimate, and looked at together
# Sums over factors in a dtype are taken up to this cancellation: they keep five digits.
_CONDITION = ((torch.float32, 1e2), (torch.float64, 1e9))


@dataclass(frozen=True)
class Kurtosis:
    """`error` is the standard error of an estimate, None where every entry counts."""

    value: float
    error: float | None = None


def kurtosis(matrix: Operator, *, seed: int = 0) -> Kurtosis | None:
    """E(x − μ)⁴ / (E(x − μ)²)² over the entries x of `matrix` (m, n), to five digits; None if all are equal.

    3 for normally distributed entries, 9 for the product of two such vectors; not less than 1. Of a `LowRank`, from
    the fourth moments of the rows of its factors where that is less work than a pass over the entries; of one for
    which both are too much, an estimate from rows drawn with probability ∝ ‖row‖⁴, with replacement.

    >>> kurtosis(LowRank(torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 1.0, -1.0]])))
    Kurtosis(value=1.0, error=None)
    """
    wide = matrix.map(lambda tensor: widened(tensor, torch.float64))
    m, n = matrix.shape
    mean = float((wide @ torch.ones(n, 1, dtype=torch.float64)).sum()) / (m * n)
    second, fourth, error = _of_factors(wide, mean, seed) if isinstance(wide, LowRank) else _of_entries(wide, mean)
    if second <= 16 * m * n * (EPS * mean) ** 2:  # a constant, computed
        return None
    scale = m * n / second**2
    return Kurtosis(scale * fourth, None if error is None else scale * error)


def line_norms(matrix: Operator, known: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Norms of the rows (m) and of the columns (n) of `matrix`, in float64.

    Of `LowRank` without forming it, by its `triangles`, which may be `known`.
    """
    if isinstance(matrix, LowRank):
        left, right = known or triangles(matrix)
        rows = widened(matrix.left, torch.float64) @ right.mT
        columns = left @ widened(matrix.right, torch.float64)
        norms = (torch.linalg.vector_norm(rows, dim=1), torch.linalg.vector_norm(columns, dim=0))
        return abs(matrix.scale) * norms[0], abs(matrix.scale) * norms[1]
    found, total = [], torch.zeros(matrix.shape[1], dtype=torch.float64)
    for block in _blocks(matrix):
        squares = block.square()
        found.append(squares.sum(0).sqrt())
        total += squares.sum(1)
    return torch.cat(found), total.sqrt()


def _blocks(matrix: Operator) -> Iterator[Tensor]:
    """Rows of `matrix`, as columns (n, some), a bounded number of entries at a time."""
    m, n = matrix.shape
    turned, step = matrix.T, max(1, _ENTRIES // n)
    return (turned.columns(slice(first, min(first + step, m)), torch.float64) for first in range(0, m, step))


def _of_entries(matrix: Operator, mean: float) -> tuple[float, float, None]:
    """Σ(x − μ)² and Σ(x − μ)⁴."""
    second = fourth = 0.0
    for block in _blocks(matrix):
        squares = (block - mean).square_().flatten()
        second += float(squares.sum())
        fourth += float(squares @ squares)
    return second, fourth, None


def _of_factors(matrix: LowRank, mean: float, seed: int) -> tuple[float, float, float | None]:
    """Σ(x − μ)², Σ(x − μ)⁴ and the standard error of the latter, by the cheapest exact way there is."""
    (m, n), r = matrix.shape, matrix.left.shape[1] + 1
    by_pairs, by_entries = (m + n) * (r * (r + 1) // 2) ** 2 * 5 // 8, m * n * (r + _PASS)
    centred = _centred(matrix, mean)
    if by_pairs <= min(_MOST, by_entries) and (found := _of_pairs(centred)) is not None:
        return *found, None
    return _of_entries(centred, 0.0) if by_entries <= _MOST else _of_sample(centred, seed)


def _centred(matrix: LowRank, mean: float) -> LowRank:
    """The matrix less a number, by one more direction; factors of entries up to 2, so that powers stay in range."""
    sizes = [power_of_two(factor.abs().amax().item()) for factor in (matrix.left, matrix.right)]
    scale = matrix.scale * sizes[0] * sizes[1]
    left = torch.nn.functional.pad(matrix.left / sizes[0], (0, 1), value=1.0)
    right = torch.nn.functional.pad(matrix.right / sizes[1], (0, 0, 0, 1), value=-mean / scale)
    return LowRank(left, right, scale)


def _of_sample(matrix: LowRank, seed: int) -> tuple[float, float, float]:
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T  # rows are many and short
    left, right = matrix.left, matrix.right
    squares = ((left @ (right @ right.mT)) * left).sum(1).clamp_(min=0)  # of the norms of rows
    powers = squares.square()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(powers, _SAMPLE, replacement=True, generator=generator)
    fourths = torch.cat([(left[some] @ right).square_().square_().sum(1) for some in torch.split(drawn, _ROWS)])
    found = fourths / powers[drawn] * powers.sum() * matrix.scale**4
    return matrix.scale**2 * float(squares.sum()), float(found.mean()), float(found.std()) / _SAMPLE**0.5


# --- by factors: x_ij = b_i · a_j, so Σ x⁴ = ⟨Σ b⊗b⊗b⊗b, Σ a⊗a⊗a⊗a⟩ ---


def _of_pairs(matrix: LowRank) -> tuple[float, float] | None:
    """Σx² and Σx⁴; None where too much cancels in them."""
    left, right = matrix.left.mT, matrix.right
    second, loss = _inner(left @ left.mT, right @ right.mT)
    for dtype, most in _CONDITION:
        fourth, worse = _inner(*(_pair_gram(factor.to(dtype)) for factor in (left, right)))
        if max(loss, worse) <= most:
            return matrix.scale**2 * second, matrix.scale**4 * fourth
    return None


def _inner(first: Tensor, second: Tensor) -> tuple[float, float]:
    """The inner product, and how much larger the product of the norms is."""
    found = float((first * second).sum())
    bound = float(torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second))
    return found, bound / found if found > 0 else torch.inf


def _pair_gram(factor: Tensor) -> Tensor:
    """Σ_j (a_p a_q)(a_s a_t) over the columns j of `factor` (r, n), for p ≤ q and s ≤ t, summed up in float64.

    Each is multiplied by the root of how often it occurs among all (p, q, s, t), so that inner products count right;
    what is left out above the diagonal is made up for below.
    """
    r = len(factor)
    size = r * (r + 1) // 2
    total = torch.zeros(size, size, dtype=torch.float64)
    step = -(-size // _PANELS)
    for block in torch.split(factor, _COLUMNS, dim=1):
        pairs = torch.cat([block[p:] * block[p] for p in range(r)])
        for start in range(0, size, step):
            total[start:, start : start + step] += pairs[start:] @ pairs[start : start + step].mT
    weight = torch.cat([torch.tensor([1.0] + [2.0] * (r - p - 1)) for p in range(r)])
    panel = torch.arange(size) // step
    repeats = 1.0 + (panel[:, None] > panel)
    return total * (weight[:, None] * weight * repeats).sqrt()
