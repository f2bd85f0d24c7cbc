"""DoRA of any update: W' = m V / ‖V‖ with V = W + ΔV, the norm by outputs or by inputs. Liu et al., 2024."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from wanalyze.adapters.adapter import Build, Parts
from wanalyze.errors import AdapterError, NumericsError
from wanalyze.operators import Dense, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

# What LyCORIS adds to the norm, which it takes in float32; peft, MLX and torchtune add nothing.
LYCORIS_EPS = 2.0**-23


def directed(
    parts: Parts,
    base: Tensor | None,
    *,
    inner: Build,
    magnitude: str,
    norm_of: Literal["outputs", "inputs"],
    eps: float,
    module: str,
) -> Operator:
    """ΔW = W' − W of what `inner` makes, and the part called `magnitude`: a number for every output, or input.

    An input of a kernel is as many columns in a row as the kernel has places. Of full rank: every row, or column, of
    W is scaled as well.
    """
    assert base is not None, "only for updates that need the base"
    weight = widened(base, torch.float64)
    moved = inner(parts, base).map(lambda tensor: widened(tensor, torch.float64)).dense()
    if moved.shape != weight.shape:
        raise AdapterError(f"{module[:80]!r}: an update of {tuple(moved.shape)} for a base of {tuple(weight.shape)}")
    direction, wanted = weight + moved, widened(parts[magnitude], torch.float64).flatten()
    count = weight.shape[0 if norm_of == "outputs" else 1]
    if len(wanted) == 0 or count % len(wanted) or (norm_of == "outputs" and count != len(wanted)):
        raise AdapterError(f"{module[:80]!r}: {len(wanted)} magnitudes for {count} {norm_of}; is this its base?")
    if norm_of == "outputs":
        factors = (wanted / (direction.norm(dim=1) + eps))[:, None]
    else:
        squares = direction.square().sum(0).reshape(len(wanted), -1).sum(1)
        factors = (wanted / (squares.sqrt() + eps)).repeat_interleave(count // len(wanted))
    if not factors.isfinite().all():
        raise NumericsError(f"{module[:80]!r}: a magnitude over the norm of its weights is not finite")
    return Dense(direction * factors - weight)
