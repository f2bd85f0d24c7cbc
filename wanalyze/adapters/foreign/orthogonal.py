"""diag-OFT and BOFT of LyCORIS, and OFT of kohya's scripts: the outputs of a weight turned, and perhaps rescaled."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Parts, Update
from wanalyze.adapters.foreign.module import Module
from wanalyze.adapters.layout import float64
from wanalyze.adapters.rotations import cayley
from wanalyze.errors import AdapterError, NumericsError
from wanalyze.operators import Dense, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator


def oft(module: Module) -> tuple[Update, None]:
    """With R = (I + Q)(I − Q)⁻¹ of Q = M − Mᵀ, W' = Rᵀ W block by block, or by butterflies (BOFT) R W factor by factor.

    alpha · outputs is the most that the norm of all Q together may be; LyCORIS writes 0 for no bound.
    """
    blocks = module.shape("oft_blocks", dimensions=(3, 4))
    *factors, count, side, _ = blocks
    module.agree(*blocks[-2:], what="the side of a block")
    out = count * side
    if "rescale" in module.parts:
        module.agree(out, math.prod(module.shape("rescale", dimensions=range(1, 6))), what="outputs")
    if factors and (factors[0] > count.bit_length() or count % 2 ** (factors[0] - 1) or side % 2):
        module.refuse(f"has {factors[0]} factors of {count} blocks of {side}, which no butterfly connects")
    bound = (module.alpha or 0.0) * out
    if bound < 0:
        module.refuse(f"has alpha {module.alpha}, but no norm is below 0")
    return Update(
        module.name, module.parts, partial(_turned, bound=bound, module=module.name), None, needs_base=True
    ), None


def _turned(parts: Parts, base: Tensor | None, *, bound: float, module: str) -> Operator:
    assert base is not None, "only for updates that need the base"
    wide, weight = float64(parts), widened(base, torch.float64)
    skew = wide["oft_blocks"] - wide["oft_blocks"].mT
    norm = float(skew.norm())
    if not math.isfinite(norm):
        raise NumericsError(f"{module[:80]!r}: its oft_blocks hold NaN or infinity")
    if 0 < bound < norm:
        skew = skew * (bound / norm)
    found = _by_blocks(weight, skew, module) if skew.ndim == 3 else _by_butterflies(weight, skew, module)
    if "rescale" in wide:
        found = wide["rescale"].reshape(-1, 1) * found
    return Dense(found - weight)


def _by_blocks(weight: Tensor, skew: Tensor, module: str) -> Tensor:
    rows = _blocks(weight, skew, module)
    return (cayley(skew) @ rows).reshape(weight.shape)  # of Q it is what (I + Q)(I − Q)⁻¹ is, transposed


def _by_butterflies(weight: Tensor, skew: Tensor, module: str) -> Tensor:
    _blocks(weight, skew[0], module)
    found, half = weight, skew.shape[-1] // 2
    for level, factor in enumerate(cayley(-skew)):
        step = 2**level * half
        paired = found.reshape(-1, 2, step, weight.shape[1]).transpose(1, 2)
        turned = factor @ paired.reshape(len(factor), -1, weight.shape[1])
        found = turned.reshape(-1, step, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    return found


def _blocks(weight: Tensor, skew: Tensor, module: str) -> Tensor:
    count, side, _ = skew.shape
    if len(weight) != count * side:
        raise AdapterError(f"{module[:80]!r}: {count} blocks of {side} for {len(weight)} outputs; is this its base?")
    return weight.reshape(count, side, -1)
