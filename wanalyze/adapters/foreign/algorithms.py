"""The algorithms of kohya's scripts and LyCORIS, one row each: which parts tell it, and the update that they make.

Formulas are those of LyCORIS 4.1 as it trains. Its own merge scales LoHa and LoKr twice, which no other reader does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from wanalyze.adapters.adapter import Parts, Update
from wanalyze.adapters.foreign.module import Module
from wanalyze.adapters.foreign.orthogonal import oft
from wanalyze.adapters.foreign.scales import scale_of
from wanalyze.adapters.layout import float64, product
from wanalyze.adapters.loha import hadamard
from wanalyze.adapters.lokr import kronecker
from wanalyze.adapters.lycoris import core
from wanalyze.operators import Dense, LowRank, Scaled, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_WEIGHTS = range(2, 6)  # dimensions: a matrix, or a kernel with up to three sides


class Algorithm(NamedTuple):
    """`marks` are parts of which any tells it; `parts` all it may have, what is shared by all (alpha) aside."""

    name: str
    marks: frozenset[str]
    parts: frozenset[str]
    update: Callable[[Module], tuple[Update, int | None]]


def _scale(module: Module, rank: int) -> float:
    return scale_of(module.alpha, rank, module=module.name, where=module.where)


def _lora(module: Module) -> tuple[Update, int]:
    up, down = (module.shape(part, dimensions=_WEIGHTS) for part in ("up", "down"))
    if any(side != 1 for side in up[2:]):
        module.refuse(f"has up of shape {up}, where a kernel of 1 is expected")
    if "mid" in module.parts:
        mid = module.shape("mid", dimensions=_WEIGHTS)
        module.agree(up[1], mid[0], what="the rank")
        module.agree(down[0], mid[1], what="the rank")
        if any(side != 1 for side in down[2:]):
            module.refuse(f"has down of shape {down} beside mid, where a kernel of 1 is expected")
        sides = mid[2:]
    else:
        module.agree(up[1], down[0], what="the rank")
        sides = down[2:]
    scale = _scale(module, down[0])
    shape = up[0], down[1] * math.prod(sides)
    return Update(module.name, module.parts, partial(_product, scale=scale), shape, down[0], scale), down[0]


def _product(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    up, down = parts["up"].flatten(1), parts["down"]
    if "mid" not in parts:
        return LowRank(up, down.flatten(1), scale)
    wide = float64(parts)
    return LowRank(wide["up"].flatten(1), core(wide["mid"], wide["down"].flatten(1)), scale)


def _loha(module: Module) -> tuple[Update, int]:
    tucker = "hada_t1" in module.parts or "hada_t2" in module.parts
    a1, b1, a2, b2 = (module.shape(f"hada_w{i}_{side}", dimensions=(2,)) for i in (1, 2) for side in "ab")
    outs = (a1[1], a2[1]) if tucker else (a1[0], a2[0])
    ranks = [b1[0], b2[0], a1[0] if tucker else a1[1], a2[0] if tucker else a2[1]]
    sides: tuple[int, ...] = ()
    if tucker:
        t1, t2 = (module.shape(f"hada_t{i}", dimensions=range(3, 6)) for i in (1, 2))
        ranks += [*t1[:2], *t2[:2]]
        sides = t1[2:]
        module.agree(math.prod(sides), math.prod(t2[2:]), what="the places of the kernel")
    rank = module.agree(*ranks, what="the rank")
    shape = module.agree(*outs, what="outputs"), module.agree(b1[1], b2[1], what="inputs") * math.prod(sides)
    scale = _scale(module, rank)
    told = rank**2 if rank**2 < min(shape) else None
    return Update(module.name, module.parts, partial(hadamard, scale=scale), shape, told, scale), rank


def _lokr(module: Module) -> tuple[Update, None]:
    first, rank_first = _factor(module, 1)
    second, rank_second = _factor(module, 2)
    ranks = [rank for rank in (rank_first, rank_second) if rank is not None]
    # LyCORIS sets alpha to the rank it was asked for where both factors are whole, so that the scale is 1.
    scale = _scale(module, module.agree(*ranks, what="the rank")) if ranks else 1.0
    shape = first[0] * second[0], first[1] * second[1]
    return Update(module.name, module.parts, partial(kronecker, scale=scale), shape, scale=scale), None


def _factor(module: Module, i: int) -> tuple[tuple[int, int], int | None]:
    """The shape of a factor, flattened, and its rank where it is a product."""
    whole, left, right, middle = f"lokr_w{i}", f"lokr_w{i}_a", f"lokr_w{i}_b", f"lokr_t{i}"
    if whole in module.parts:
        if {left, right, middle} & module.parts.keys():
            module.refuse(f"has {whole} both whole and as a product; only one can be meant")
        found = module.shape(whole, dimensions=(2,) if i == 1 else _WEIGHTS)
        return (found[0], math.prod(found[1:])), None
    a, b = module.shape(left, dimensions=(2,)), module.shape(right, dimensions=_WEIGHTS)
    if middle not in module.parts:
        return (a[0], math.prod(b[1:])), module.agree(a[1], b[0], what="the rank")
    t = module.shape(middle, dimensions=range(3, 6))
    return (a[1], b[1] * math.prod(t[2:])), module.agree(a[0], b[0], t[0], t[1], what="the rank")


def _glora(module: Module) -> tuple[Update, int]:
    """ΔW = s · (B₁ B₂ + W A₁ A₂), where A acts on the inputs of every place of a kernel alike."""
    a1, a2, b1, b2 = (module.shape(part, dimensions=_WEIGHTS) for part in ("a1", "a2", "b1", "b2"))
    ranks = [a1[1], a2[0], b1[1], b2[0]]
    if "bm" in module.parts:
        ranks += module.shape("bm", dimensions=_WEIGHTS)[:2]
    rank = module.agree(*ranks, what="the rank")
    module.agree(a1[0], a2[1], b2[1], what="inputs")
    scale = _scale(module, rank)
    build = partial(_generalised, scale=scale, refuse=module.refuse)
    sides = module.parts["bm" if "bm" in module.parts else "b2"].shape[2:]
    shape = b1[0], b2[1] * math.prod(sides)
    return Update(module.name, module.parts, build, shape, None, scale, needs_base=True), rank


def _generalised(parts: Parts, base: Tensor | None, *, scale: float, refuse: Callable[[str], object]) -> Operator:
    assert base is not None, "only for updates that need the base"
    wide, weight = float64(parts), widened(base, torch.float64)
    a1, a2, b1 = (wide[part].flatten(1) for part in ("a1", "a2", "b1"))
    b2 = core(wide["bm"], wide["b2"].flatten(1)) if "bm" in wide else wide["b2"].flatten(1)
    if weight.shape != (len(b1), b2.shape[1]):
        refuse(f"has an update of {len(b1), b2.shape[1]} for a base of {tuple(weight.shape)}; is this its base?")
    places = weight.shape[1] // len(a1)
    left = torch.einsum("oip,ij->ojp", weight.reshape(len(weight), len(a1), places), a1).flatten(1)
    right = torch.kron(a2, torch.eye(places, dtype=torch.float64, device=a2.device))
    return product(torch.cat([b1, left], 1), torch.cat([b2, right], 0), scale)


def _ia3(module: Module) -> tuple[Update, None]:
    """ΔW = W scaled by w, of every output or, with on_input, of every input."""
    if math.prod(module.shape("on_input", dimensions=range(5))) != 1:
        module.refuse("has on_input of several values, where one says what is scaled")
    module.shape("weight", dimensions=range(1, 6))
    return Update(module.name, module.parts, partial(_scaled, refuse=module.refuse), None, needs_base=True), None


def _scaled(parts: Parts, base: Tensor | None, *, refuse: Callable[[str], object]) -> Operator:
    assert base is not None, "only for updates that need the base"
    weight, factors = widened(base, torch.float64), widened(parts["weight"], torch.float64).flatten()
    by_input = bool(parts["on_input"].reshape(()).item())
    count = weight.shape[1 if by_input else 0]
    if count % len(factors) or (not by_input and count != len(factors)):
        refuse(f"has {len(factors)} factors for {count} {'inputs' if by_input else 'outputs'}; is this its base?")
    if by_input:
        return Scaled(Dense(weight), torch.ones_like(weight[:, 0]), factors.repeat_interleave(count // len(factors)))
    return Scaled(Dense(weight), factors, torch.ones_like(weight[0]))


def _full(module: Module) -> tuple[Update, None]:
    found = module.shape("diff", dimensions=_WEIGHTS)
    return Update(module.name, module.parts, _difference, (found[0], math.prod(found[1:]))), None


def _difference(parts: Parts, _base: Tensor | None) -> Operator:
    return Dense(parts["diff"].flatten(1))


def _row(name: str, marks: str, more: str, update: Callable[[Module], tuple[Update, int | None]]) -> Algorithm:
    return Algorithm(name, frozenset(marks.split()), frozenset((marks + " " + more).split()), update)


ALGORITHMS = (
    _row("LoRA", "up down", "mid", _lora),
    _row("LoHa", "hada_w1_a hada_w1_b hada_w2_a hada_w2_b", "hada_t1 hada_t2", _loha),
    _row("LoKr", "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b", "lokr_t2", _lokr),
    _row("GLoRA", "a1 a2 b1 b2", "bm", _glora),
    _row("IA3", "on_input", "weight", _ia3),
    _row("OFT", "oft_blocks", "rescale", oft),
    _row("full", "diff", "", _full),
)
