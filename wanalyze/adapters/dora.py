"""DoRA of any update: W' = m V / ‖V‖ with V = W + ΔV, the norm by outputs or by inputs. Liu et al., 2024."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from wanalyze.adapters.adapter import Build, Parts
from wanalyze.errors import AdapterError, NumericsError
from wanalyze.operators import Dense, LowRank, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

Side: TypeAlias = Literal["outputs", "inputs"]


def directed(
    parts: Parts, base: Tensor | None, *, inner: Build, magnitude: str, norm_of: Side, module: str, eps: float = 0.0
) -> Operator:
    """ΔW = W' − W of what `inner` makes, and the part called `magnitude`: a number for every output, or input.

    An input of a kernel is as many columns in a row as the kernel has places. Of full rank: every row, or column, of
    W is scaled as well.
    """
    assert base is not None, "only for updates that need the base"
    weight = widened(base, torch.float64)
    direction = _direction(weight, inner(parts, base), module)
    wanted, count = widened(parts[magnitude], torch.float64).flatten(), weight.shape[0 if norm_of == "outputs" else 1]
    if len(wanted) == 0 or count % len(wanted) or (norm_of == "outputs" and count != len(wanted)):
        raise AdapterError(f"{module[:80]!r}: {len(wanted)} magnitudes for {count} {norm_of}; is this its base?")
    if norm_of == "outputs":
        factors = (wanted / (torch.linalg.vector_norm(direction, dim=1) + eps))[:, None]
    else:
        norms = torch.linalg.vector_norm(direction.reshape(len(weight), len(wanted), -1), dim=(0, 2))
        factors = (wanted / (norms + eps)).repeat_interleave(count // len(wanted))
    if not factors.isfinite().all():
        raise NumericsError(f"{module[:80]!r}: a magnitude over the norm of its weights is not finite")
    return Dense(direction.mul_(factors).sub_(weight))


def _direction(weight: Tensor, update: Operator, module: str) -> Tensor:
    """W + ΔV, in memory of its own."""
    if tuple(update.shape) != tuple(weight.shape):
        raise AdapterError(
            f"{module[:80]!r}: an update of {tuple(update.shape)} for a base of {tuple(weight.shape)}; is it its base?"
        )
    wide = update.map(lambda tensor: widened(tensor, torch.float64))
    if isinstance(wide, LowRank):
        return torch.addmm(weight, wide.left, wide.right, alpha=wide.scale)
    return weight + wide.dense()
