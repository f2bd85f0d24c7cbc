"""One update for several parts of a fused weight: each has its own rows of A and of B, some parts have none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Parts, Update
from wanalyze.adapters.foreign.module import Module
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator


def grouped(module: Module, scale: float, sizes: Sequence[int], rank: int) -> Update:
    """The update of a weight whose rows are parts of these sizes, negative those of parts that have no update."""
    up, down = (module.shape(part, dimensions=(2,)) for part in ("up", "down"))
    on = [size for size in sizes if size > 0]
    module.agree(up[0], sum(on), what="rows with an update")
    module.agree(down[0], len(on) * rank, what="ranks of all parts")
    shape = sum(map(abs, sizes)), down[1]
    build = partial(_stacked, scale=scale, sizes=tuple(sizes), rank=rank)
    return Update(module.name, module.parts, build, shape, len(on) * rank, scale)


def _stacked(parts: Parts, _base: Tensor | None, *, scale: float, sizes: tuple[int, ...], rank: int) -> Operator:
    up, down = parts["up"], parts["down"]
    left = up.new_zeros(sum(map(abs, sizes)), len(down))
    row = taken = column = 0
    for size in sizes:
        if size > 0:
            left[row : row + size, column : column + rank] = up[taken : taken + size]
            taken, column = taken + size, column + rank
        row += abs(size)
    return LowRank(left, down, scale)
