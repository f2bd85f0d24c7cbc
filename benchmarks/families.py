"""Pairs (W0, W1) in float64 whose spectra and updates are known, because they were put there.

A pair is named by its base, its update and its shape, and made from these and a seed alone: the same numbers on
every run, up to what another BLAS or another number of threads changes in the last digits.

Bases
    gauss       independent normal entries of variance 1/n
    llm         such a bulk and 64 spikes 12 j^-0.45, as attention and MLP weights have
    pow{a}      singular values j^-a
    tdist       entries from Student's t with 4 degrees of freedom: heavy-tailed
    deficient   rank r/3, singular values j^-0.5
    multiple    j^-0.5 with singular values of multiplicity 2, 3 and 100

Updates
    none            W1 = W0
    lora{r}:{x}     rank r, ||ΔW||₂ = x ||W0||₂
    full:{x}        normal entries, ||ΔW||_F = x ||W0||_F
    fullpl:{x}      singular values j^-0.7, ||ΔW||_F = x ||W0||_F
    amp:{j}         the singular value of vectors j (counted from 0) set to 1.5 σ₁, and 2 % of noise
    mix:{j}         1.5 σ₁ a bᵀ with a, b halfway between vectors j and j + 1: what is close to no single vector and
                    to two that are hard to tell apart
    inside:{d}      1.5 σ₁ a bᵀ with a, b inside the singular subspaces of dimension d of the base `multiple`
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor

Factors: TypeAlias = tuple[Tensor, Tensor]

GAIN = 1.5  # of σ₁: an amplified direction leads W1 clearly
NOISE = 0.02
SPIKES = 64
MULTIPLES = {2: slice(2, 4), 3: slice(5, 8), 100: slice(12, 112)}


@dataclass(frozen=True, eq=False)
class Pair:
    """One matrix before and after; `update` holds (m, r) and (r, n) with tuned = base + left @ right, if there are."""

    name: str
    base: Tensor
    tuned: Tensor
    update: Factors | None = None


@dataclass(frozen=True, eq=False)
class Planted:
    """Singular triplets number first, first + 1, ... of a matrix: left (m, p), values (p), right (n, p)."""

    left: Tensor
    values: Tensor
    right: Tensor
    first: int = 0

    def part(self, where: slice) -> Planted:
        """The triplets of these numbers, counted in the matrix."""
        inside = slice(where.start - self.first, where.stop - self.first)
        return Planted(self.left[:, inside], self.values[inside], self.right[:, inside], where.start)


@dataclass(frozen=True, eq=False)
class Base:
    """A matrix, and what is known of its singular triplets and of the largest value."""

    matrix: Tensor
    planted: Planted | None = None
    known_norm: float | None = None

    @cached_property
    def norm(self) -> float:
        return spectral_norm(self.matrix) if self.known_norm is None else self.known_norm


class Row(NamedTuple):
    """One pair of the suite, run at all sizes up to `largest`; {fifth} and {half} are those of the short side."""

    base: str
    update: str
    shape: str = "square"
    largest: int = 1024


SUITE = (
    Row("llm", "none"),
    Row("llm", "lora8:.1", largest=2048),
    Row("llm", "lora8:.3", largest=4096),
    Row("llm", "lora8:1", largest=4096),
    Row("llm", "lora64:.3"),
    Row("llm", "lora64:1", largest=2048),
    Row("llm", "full:.1", largest=4096),
    Row("llm", "fullpl:.3", largest=2048),
    Row("llm", "amp:{fifth}", largest=4096),
    Row("llm", "mix:{fifth}"),
    Row("pow.5", "lora8:.1"),
    Row("pow.5", "lora8:1"),
    Row("pow.5", "amp:{fifth}"),
    Row("pow1", "lora8:.1"),
    Row("pow1", "lora8:1", largest=4096),
    Row("pow1", "full:.1"),
    Row("tdist", "lora8:.1"),
    Row("tdist", "lora8:.3", largest=2048),
    Row("tdist", "lora8:1"),
    Row("tdist", "full:.1", largest=2048),
    Row("tdist", "amp:{fifth}"),
    Row("tdist", "mix:{fifth}", largest=2048),
    Row("gauss", "lora8:.1"),
    Row("gauss", "lora8:1"),
    Row("gauss", "full:.1"),
    Row("gauss", "amp:{fifth}"),
    Row("gauss", "amp:{half}"),
    Row("gauss", "mix:{half}", largest=2048),
    Row("deficient", "lora8:1", largest=2048),
    Row("deficient", "full:.1"),
    Row("deficient", "none"),
    Row("multiple", "none"),
    Row("multiple", "lora8:.1"),
    Row("multiple", "lora8:1"),
    Row("multiple", "inside:2"),
    Row("multiple", "inside:3"),
    Row("multiple", "inside:100", largest=2048),
    Row("llm", "lora8:1", "tall"),
    Row("llm", "full:.1", "tall"),
    Row("tdist", "mix:{fifth}", "tall"),
    Row("deficient", "lora8:1", "tall"),
    Row("llm", "lora8:1", "wide"),
    Row("tdist", "lora8:.3", "wide"),
    Row("gauss", "amp:{fifth}", "wide"),
    Row("multiple", "inside:100", "wide"),
    Row("llm", "lora8:.3", "4096x11008"),
    Row("llm", "lora8:1", "4096x11008"),
)
SIZES = ("256", "512", "1024", "2048", "4096", "4096x11008")


def pairs(size: str, *, rounded: bool = False, seed: int = 0) -> Iterator[Pair]:
    """The pairs of one of SIZES, each made when it is asked for; the caller's is all that stays of the one before."""
    for row, m, n in shapes(size):
        short = min(m, n)
        update = row.update.format(fifth=short // 5, half=short // 2)
        yield make_pair(row.base, update, m, n, rounded=rounded, seed=seed)


def shapes(size: str) -> Iterator[tuple[Row, int, int]]:
    """The rows of the suite at one of SIZES, with m and n."""
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; known: {', '.join(SIZES)}")
    if "x" in size:
        m, n = (int(side) for side in size.split("x"))
        yield from ((row, m, n) for row in SUITE if row.shape == size)
        return
    n = int(size)
    sides = {"square": (n, n), "tall": (11 * n // 8, n // 2), "wide": (n // 2, 11 * n // 8)}
    yield from ((row, *sides[row.shape]) for row in SUITE if row.shape in sides and row.largest >= n)


def make_pair(base: str, update: str, m: int, n: int, *, rounded: bool = False, seed: int = 0) -> Pair:
    """One pair (m, n), in float64.

    `rounded` stores both as bfloat16, as a checkpoint does: W1 = round(round(W0) + ΔW). Then nothing that is exact
    here stays so (ranks, multiplicities, W1 − W0), and no factors are given.
    """
    name = f"{base} {update} {m}x{n}"
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    made = make_base(base, m, n, generator)
    head, _, argument = _parsed(update)
    if head in ("amp", "mix"):
        made = with_pair_at(made, int(argument), generator)
    change, factors = _change(update, made, generator)
    if not rounded:
        return Pair(name, made.matrix, made.matrix + change, factors)
    stored = made.matrix.to(torch.bfloat16)
    return Pair(f"{name} bf16", stored, (stored.to(torch.float64) + change).to(torch.bfloat16))


def make_base(kind: str, m: int, n: int, generator: Generator) -> Base:
    """The base of that kind, (m, n)."""
    head, number, _ = _parsed(kind)
    spectrum, short = _powers(min(m, n), -0.5), min(m, n)
    if head == "pow":
        return _with_spectrum(_powers(short, -float(number)), m, n, generator)
    if head == "deficient":
        return _with_spectrum(spectrum[: short // 3], m, n, generator)
    if head == "multiple":
        return _with_spectrum(_with_multiples(spectrum), m, n, generator)
    if head not in _ENTRIES:
        raise ValueError(f"no base {kind!r}; known: pow, deficient, multiple, {', '.join(_ENTRIES)}")
    return Base(_ENTRIES[head](m, n, generator))


def with_pair_at(base: Base, j: int, generator: Generator) -> Base:
    """The base with triplets j and j + 1 known, 0 < j < r - 3: as they are, or two random ones put in their place.

    Two directions on each side are cut out of the matrix and given values a third and two thirds into the gap
    between two values of what is left. That costs a Gram matrix and its eigenvalues, and no vectors.
    """
    if base.planted is not None:
        return base
    m, n = base.matrix.shape
    left, right = _orthonormal(m, 2, generator), _orthonormal(n, 2, generator)
    rest = base.matrix - left @ (left.mT @ base.matrix)
    rest = rest - (rest @ right) @ right.mT
    gram = rest @ rest.mT if m < n else rest.mT @ rest
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    above, below = values[j - 1], values[j]
    inserted = torch.stack([(2 * above + below) / 3, (above + 2 * below) / 3])
    return Base(rest + (left * inserted) @ right.mT, Planted(left, inserted, right, j), float(values[0]))


def spectral_norm(matrix: Tensor, *, block: int = 8, steps: int = 40) -> float:
    """σ₁; of a large matrix from a block Krylov space, from below and to about 1e-10."""
    m, n = matrix.shape
    if min(m, n) <= 2 * block * steps:
        return float(torch.linalg.matrix_norm(matrix, 2))
    newest = _orthonormal(n, block, torch.Generator().manual_seed(0))
    basis, images, norm = newest.new_zeros(n, 0), newest.new_zeros(m, 0), 0.0
    for _ in range(steps):
        image = matrix @ newest
        basis, images = torch.cat([basis, newest], dim=1), torch.cat([images, image], dim=1)
        last, norm = norm, math.sqrt(float(torch.linalg.eigvalsh(images.mT @ images)[-1]))
        if norm - last <= 1e-12 * norm:
            break
        newest = (image.mT @ matrix).mT  # MKL is 8 times slower at matrix.mT @ image
        for _ in range(2):  # once leaves what cancellation brought back
            newest = newest - basis @ (basis.mT @ newest)
        newest = torch.linalg.qr(newest)[0]
    return norm


def _change(kind: str, base: Base, generator: Generator) -> tuple[Tensor, Factors | None]:
    """ΔW and, where its rank is low, its factors."""
    head, number, argument = _parsed(kind)
    if head in _DENSE:
        return _DENSE[head](base, argument, generator), None
    if head == "lora":
        left, right = _lora(base, int(number), float(argument), generator)
    elif head in _RANK_ONE:
        left, right = _RANK_ONE[head](base, int(argument), generator)
    else:
        raise ValueError(f"no update {kind!r}; known: lora, {', '.join((*_DENSE, *_RANK_ONE))}")
    return left @ right, (left, right)


def _none(base: Base, _argument: str, _generator: Generator) -> Tensor:
    return torch.zeros_like(base.matrix)


def _full(base: Base, size: str, generator: Generator) -> Tensor:
    return _noise(base.matrix, float(size), generator)


def _full_power_law(base: Base, size: str, generator: Generator) -> Tensor:
    m, n = base.matrix.shape
    change = _with_spectrum(_powers(min(m, n), -0.7), m, n, generator).matrix
    return change * (float(size) * float(base.matrix.norm() / change.norm()))


def _amplified(base: Base, j: str, generator: Generator) -> Tensor:
    deep = _known(base).part(slice(int(j), int(j) + 1))
    return _noise(base.matrix, NOISE, generator) + (deep.left * (GAIN * base.norm - deep.values)) @ deep.right.mT


def _lora(base: Base, rank: int, size: float, generator: Generator) -> Factors:
    m, n = base.matrix.shape
    left, right = _normal(m, rank, generator), _normal(rank, n, generator)
    core = torch.linalg.qr(left)[1] @ torch.linalg.qr(right.mT)[1].mT  # has the singular values of the product
    return left * (size * base.norm / torch.linalg.matrix_norm(core, 2)), right


def _between_two(base: Base, j: int, _generator: Generator) -> Factors:
    deep = _known(base).part(slice(j, j + 2))
    return _along(base, deep, torch.full((2, 1), math.sqrt(0.5), dtype=torch.float64))


def _inside_one(base: Base, multiplicity: int, generator: Generator) -> Factors:
    subspace = _known(base).part(MULTIPLES[multiplicity])
    if subspace.values[0] - subspace.values[-1] > 0:
        raise ValueError("inside: needs the base 'multiple'")
    return _along(base, subspace, _orthonormal(multiplicity, 1, generator))


def _along(base: Base, subspace: Planted, direction: Tensor) -> Factors:
    return GAIN * base.norm * (subspace.left @ direction), (subspace.right @ direction).mT


def _known(base: Base) -> Planted:
    if base.planted is None:
        raise ValueError("this update needs vectors of the base that are known")
    return base.planted


def _gauss(m: int, n: int, generator: Generator) -> Tensor:
    return _normal(m, n, generator) / math.sqrt(n)


def _llm(m: int, n: int, generator: Generator) -> Tensor:
    spikes = 12 * _powers(min(SPIKES, min(m, n) // 2), -0.45)
    bulk = _normal(m, n, generator) / math.sqrt(max(m, n))
    return bulk + _with_spectrum(spikes, m, n, generator).matrix


def _student(m: int, n: int, generator: Generator) -> Tensor:
    entries = _normal(m, n, generator) / math.sqrt(n)
    chi_squared = sum((_normal(m, n, generator).square() for _ in range(4)), torch.zeros(()))
    return entries / (chi_squared / 4).sqrt()


_ENTRIES: dict[str, Callable[[int, int, Generator], Tensor]] = {"gauss": _gauss, "llm": _llm, "tdist": _student}
_DENSE: dict[str, Callable[[Base, str, Generator], Tensor]] = {
    "none": _none,
    "full": _full,
    "fullpl": _full_power_law,
    "amp": _amplified,
}
_RANK_ONE: dict[str, Callable[[Base, int, Generator], Factors]] = {"mix": _between_two, "inside": _inside_one}


def _parsed(kind: str) -> tuple[str, str, str]:
    """('lora', '8', '.1') of 'lora8:.1'."""
    found = re.fullmatch(r"([a-z]+)([\d.]*)(?::([\d.]+))?", kind)
    if found is None:
        raise ValueError(f"{kind!r} is not a name with a number and, after a colon, another")
    return found[1], found[2], found[3] or ""


def _with_spectrum(values: Tensor, m: int, n: int, generator: Generator) -> Base:
    left, right = _orthonormal(m, len(values), generator), _orthonormal(n, len(values), generator)
    return Base((left * values) @ right.mT, Planted(left, values, right), float(values[0]))


def _with_multiples(values: Tensor) -> Tensor:
    last = max(where.stop for where in MULTIPLES.values())
    if len(values) <= last:
        raise ValueError(f"the base 'multiple' needs a short side of more than {last}, this one has {len(values)}")
    values = values.clone()
    for where in MULTIPLES.values():
        values[where] = values[where].mean()
    return values


def _powers(count: int, exponent: float) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64) ** exponent


def _noise(matrix: Tensor, size: float, generator: Generator) -> Tensor:
    noise = _normal(matrix.shape[0], matrix.shape[1], generator)
    return noise * (size * float(matrix.norm() / noise.norm()))


def _orthonormal(rows: int, columns: int, generator: Generator) -> Tensor:
    basis: Tensor = torch.linalg.qr(_normal(rows, columns, generator))[0]
    return basis


def _normal(rows: int, columns: int, generator: Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)
