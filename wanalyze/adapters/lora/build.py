"""ΔW from the factors of a module: s·B·A, freed of what the initialisation took."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch

from wanalyze.adapters.adapter import Build, Parts
from wanalyze.adapters.layout import sides
from wanalyze.adapters.lora.layer import Factors
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank, Sum, column_blocks, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator


class Taken(Protocol):
    """What an initialisation takes out of the base's weight, of `rank`, when it starts with `scale`."""

    def __call__(self, base: Tensor, rank: int, scale: float) -> LowRank: ...


def product(parts: Parts, _base: Tensor | None, *, factors: Factors, scale: float) -> LowRank:
    """The product s · B A."""
    return LowRank(*factors(parts), scale)


def started(parts: Parts, base: Tensor | None, *, factors: Factors, scale: float, taken: Taken, rank: int) -> LowRank:
    """The product, less what was taken out of the base before the training began."""
    assert base is not None, "only for updates that need the base"
    left, right = (widened(factor, torch.float64) for factor in factors(parts))
    start = taken(widened(base, torch.float64), rank, scale)
    return LowRank(torch.cat([scale * left, -start.scale * start.left], 1), torch.cat([right, start.right], 0))


def beside(parts: Parts, base: Tensor | None, *, inner: Build, module: str) -> Operator:
    """The update of a weight that was itself saved, as peft saves embeddings that it adapts.

    Mostly that is a copy of the base's. If it is not, or has rows for more tokens, its own change counts too, over
    the rows that the base has.
    """
    assert base is not None, "only for updates that need the base"
    whole = parts["whole"].flatten(1)
    if len(whole) < len(base) or whole.shape[1] != base.shape[1]:
        raise AdapterError(
            f"{module[:80]!r}: the adapter's own copy of the weight is {tuple(whole.shape)}, that of the base "
            f"{tuple(base.shape)}; is this its base?"
        )
    update = _rows(inner(parts, whole), len(base))
    kept = whole[: len(base)]
    if all(torch.equal(_wide(kept, block), _wide(base, block)) for block in column_blocks(Dense(base))):
        return update
    return Sum(update, Sum(Dense(kept), Dense(base), -1.0))


def _wide(matrix: Tensor, block: slice) -> Tensor:
    return widened(matrix[:, block], torch.float64)


def _rows(update: Operator, count: int) -> Operator:
    if isinstance(update, LowRank):
        return replace(update, left=update.left[:count])
    assert isinstance(update, Dense)
    return Dense(update.matrix[:count])


def pooled(parts: Parts, base: Tensor | None, *, scale: float, group: int, module: str) -> LowRank:
    """QALoRA: A sees the means of `group` neighbouring inputs, times the number of groups; Xu et al., 2023.

    On a base that is not quantised by GPTQ peft ignores the option, which shows in the width of A.
    """
    left, right = parts["lora_B"], parts["lora_A"]
    _, inputs = sides(base, module=module, out=len(left))
    if right.shape[1] == inputs:
        return LowRank(left, right, scale)
    if right.shape[1] * group != inputs:
        raise AdapterError(
            f"{module[:80]!r}: lora_A has {right.shape[1]} columns for groups of {group} inputs, the base's weight has "
            f"{inputs} inputs; is this its base?"
        )
    return LowRank(left, right.repeat_interleave(group, dim=1), scale * inputs / group**2)


def moved(parts: Parts, base: Tensor, *, scale: float) -> Tensor:
    """A bias plus s times that of lora_B."""
    return widened(base, torch.float64) + scale * widened(parts["lora_B.bias"], torch.float64)
