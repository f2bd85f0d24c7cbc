"""What the entries of a matrix say that its spectrum does not: their kurtosis, and the norms of rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from wanalyze.operators import LowRank, Operator, widened
from wanalyze.spectra.decomposition import EPS, power_of_two, triangles
from wanalyze.spectra.values import largest_entry

_ENTRIES = 2**19  # looked at together: they stay in the cache of a CPU
_COLUMNS = 1024  # of a factor, whose products of pairs stay in the cache
_LINES = 2**14  # whose norms are taken together
_PANELS = 2  # of the lower triangle of a Gram matrix: 3/4 of the work of the whole, more of them gain nothing
_PASS = 90  # what an entry costs beside its products, in multiplications: it is squared twice and summed twice
_MOST = 5 * 10**7  # multiplications for exact moments of a `LowRank`: 2 ms
_SAMPLE, _FEWEST = 2**18, 32  # entries looked at for an estimate, in as many rows as that makes, and no fewer
_TOO_MANY = 2 * 10**10  # multiplications for a pass over all entries where the factors cancel: a second
_CONDITION = 1e6  # cancellation up to which sums over factors are taken: they keep nine digits


Lines: TypeAlias = tuple[Tensor, Tensor]  # something of each row (m) and of each column (n)


@dataclass(frozen=True)
class Kurtosis:
    """`error` is the standard error of an estimate, None where every entry counts."""

    value: float
    error: float | None = None


def kurtosis(matrix: Operator, lines: Lines | None = None, *, seed: int = 0) -> Kurtosis | None:
    """E(x − μ)⁴ / (E(x − μ)²)² over the entries x of `matrix` (m, n); None if all are equal, or nearly and too many.

    3 for normally distributed entries, 9 for the product of two such vectors; not less than 1. Of a `LowRank`, from
    the fourth moments of the rows of its factors where that is less work than a pass over the entries; of one for
    which both are too much, an estimate from rows or columns drawn with probability ∝ norm⁴, with replacement. `lines`
    are its `line_norms`, where they are known.

    >>> kurtosis(LowRank(torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 1.0, -1.0]])))
    Kurtosis(value=1.0, error=None)
    """
    m, n = matrix.shape
    if isinstance(matrix, LowRank):
        centred, mean, size = _centred(matrix)
        chances = partial(_chances, matrix, mean * size, lines)
        second, fourth, error = _of_factors(centred, chances, seed)
    else:
        size = power_of_two(largest_entry(matrix))
        mean = _mean(matrix) / size
        second, fourth, error = _of_entries(matrix, mean, size)
    if second <= 16 * m * n * (EPS * mean) ** 2:  # a constant, computed
        return None
    scale = m * n / second**2
    return Kurtosis(scale * fourth, None if error is None else scale * error)


def line_norms(matrix: Operator, known: tuple[Tensor, Tensor] | None = None) -> Lines:
    """Norms of the rows (m) and of the columns (n) of `matrix`, in float64.

    Of `LowRank` without forming it, by its `triangles`, which may be `known`.
    """
    if isinstance(matrix, LowRank):
        left, right = known or triangles(matrix)
        rows = _product_norms(matrix.left, abs(matrix.scale) * right)
        return rows, _product_norms(matrix.right.mT, abs(matrix.scale) * left)
    found, total = [], torch.zeros(matrix.shape[1], dtype=torch.float64)
    for block in _blocks(matrix):
        squares = block.square()
        found.append(squares.sum(0).sqrt())
        total += squares.sum(1)
    return torch.cat(found), total.sqrt()


def _product_norms(factor: Tensor, triangle: Tensor) -> Tensor:
    """Norms of the rows of factor · triangleᵀ."""
    blocks = torch.split(factor, _LINES)
    return torch.cat([torch.linalg.vector_norm(widened(rows, torch.float64) @ triangle.mT, dim=1) for rows in blocks])


def _blocks(matrix: Operator) -> Iterator[Tensor]:
    """Rows of `matrix`, as columns (n, some), a bounded number of entries at a time."""
    m, n = matrix.shape
    turned, step = matrix.T, max(1, _ENTRIES // n)
    return (turned.columns(slice(first, min(first + step, m)), torch.float64) for first in range(0, m, step))


def _mean(matrix: Operator) -> float:
    m, n = matrix.shape
    return float((matrix @ torch.ones(n, 1, dtype=torch.float64)).sum()) / (m * n)


def _of_entries(matrix: Operator, mean: float = 0.0, size: float = 1.0) -> tuple[float, float, None]:
    """Σ(x/size − μ)² and Σ(x/size − μ)⁴."""
    second = fourth = 0.0
    for block in _blocks(matrix):
        squares = (block / size - mean).square_().flatten()
        second += float(squares.sum())
        fourth += float(squares @ squares)
    return second, fourth, None


# --- by factors: x_ij = b_i · a_j, so Σ x⁴ = ⟨Σ b⊗b⊗b⊗b, Σ a⊗a⊗a⊗a⟩ ---


def _centred(matrix: LowRank) -> tuple[LowRank, float, float]:
    """The matrix less its mean, by one more direction; its mean; and both by the size that they are divided by."""
    left, right = (widened(factor, torch.float64) for factor in (matrix.left, matrix.right))
    sizes = [power_of_two(max(map(abs, (float(end) for end in factor.aminmax())))) for factor in (left, right)]
    size = sizes[0] * sizes[1]
    mean = float((left.sum(0) / sizes[0]) @ (right.sum(1) / sizes[1])) / (len(left) * right.shape[1])
    left = torch.nn.functional.pad(left, (0, 1), value=sizes[0]).div_(sizes[0])
    right = torch.nn.functional.pad(right, (0, 0, 0, 1), value=-mean * sizes[1]).div_(sizes[1])
    return LowRank(left, right), mean, abs(matrix.scale) * size


def _of_factors(matrix: LowRank, chances: Callable[[], Lines], seed: int) -> tuple[float, float, float | None]:
    """Σx², Σx⁴ and the standard error of the latter, by the cheapest exact way there is."""
    (m, n), r = matrix.shape, matrix.left.shape[1]
    by_pairs, by_entries = (m + n) * (r * (r + 1) // 2) ** 2 * 3 // 4, m * n * (r + _PASS)
    second, loss = _inner(matrix.left.mT @ matrix.left, matrix.right @ matrix.right.mT)
    if loss <= _CONDITION and by_pairs <= min(_MOST, by_entries):
        fourth, worse = _inner(_pair_gram(matrix.left.mT), _pair_gram(matrix.right))
        if worse <= _CONDITION:
            return second, fourth, None
    if loss <= _CONDITION and by_entries > _MOST:
        return second, *_of_sample(matrix, chances(), seed)
    if by_entries > _TOO_MANY:
        return 0.0, 0.0, None
    return _of_entries(matrix)


def _of_sample(matrix: LowRank, chances: Lines, seed: int) -> tuple[float, float]:
    """An estimate of Σx⁴ and its standard error, from rows or columns, whichever differ more."""
    powers, other = chances
    if _spread(other) > _spread(powers):
        matrix, powers = matrix.T, other
    generator = torch.Generator().manual_seed(seed)
    count = max(_SAMPLE // matrix.shape[1], _FEWEST)
    # Not torch.multinomial, which refuses more than 2^24 of them.
    points = torch.rand(count, generator=generator, dtype=torch.float64) * powers.sum()
    drawn = torch.searchsorted(powers.cumsum(0), points).clamp_(max=len(powers) - 1)
    chosen = torch.split(matrix.left[drawn], max(1, _ENTRIES // 4 // matrix.shape[1]))
    fourths = torch.cat([(rows @ matrix.right).square_().square_().sum(1) for rows in chosen])
    found = fourths / powers[drawn] * powers.sum()
    return float(found.mean()), float(found.std()) / count**0.5


def _chances(matrix: LowRank, mean: float, lines: Lines | None) -> Lines:
    """Fourth powers of the norms of rows and columns with their mean put in, so that none is zero which counts."""
    rows, columns = lines or line_norms(matrix)
    largest = float(rows.amax())
    powers = (
        (norms / largest).square_().add_(length * (mean / largest) ** 2).square_()
        for norms, length in ((rows, len(columns)), (columns, len(rows)))
    )
    return next(powers), next(powers)


def _spread(powers: Tensor) -> float:
    return float(powers.mean() / powers.sqrt().mean().square())


def _inner(first: Tensor, second: Tensor) -> tuple[float, float]:
    """The inner product, and how much larger the product of the norms is."""
    found = float((first * second).sum())
    bound = float(torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second))
    return found, bound / found if found > 0 else torch.inf


def _pair_gram(factor: Tensor) -> Tensor:
    """Σ_j (a_p a_q)(a_s a_t) over the columns j of `factor` (r, n), for p ≤ q and s ≤ t.

    Each is multiplied by the root of how often it occurs among all (p, q, s, t), so that inner products count right;
    what is left out above the diagonal is made up for below.
    """
    r = len(factor)
    size = r * (r + 1) // 2
    total = factor.new_zeros(size, size)
    step = -(-size // _PANELS)
    for block in torch.split(factor, _COLUMNS, dim=1):
        pairs = torch.cat([block[p:] * block[p] for p in range(r)])
        for start in range(0, size, step):
            total[start:, start : start + step] += pairs[start:] @ pairs[start : start + step].mT
    weight = torch.cat([factor.new_tensor([1.0] + [2.0] * (r - p - 1)) for p in range(r)])
    panel = torch.arange(size) // step
    repeats = 1 + (panel[:, None] > panel).to(total)
    return total * (weight[:, None] * weight * repeats).sqrt()
