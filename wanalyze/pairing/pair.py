"""What a pairing is made of: pairs of tensors, and tensors that have none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from wanalyze.adapters import Shift, Update
from wanalyze.checkpoints import TensorEntry
from wanalyze.naming import module_name

Tuned: TypeAlias = TensorEntry | Update | Shift


@dataclass(frozen=True)
class Pair:
    """A tensor of the base and what the tuned makes of it; None where an adapter leaves it alone.

    Either side may be a part of a tensor of its file: one expert of a stack, the queries of a fused weight. `rows`,
    where set, is how many leading rows are compared; `transposed` says that both sides store (in, out).
    """

    base: TensorEntry
    tuned: Tuned | None
    rows: int | None = None
    transposed: bool = False
    note: str | None = None

    @property
    def name(self) -> str:
        return module_name(self.base.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows are outputs; the kernel of a convolution is (out, in · k · k)."""
        stored = self.base.shape
        flat = (stored[0], math.prod(stored[1:])) if len(stored) > 2 else stored
        shape = flat[::-1] if self.transposed else flat
        return shape if self.rows is None else (self.rows, *shape[1:])


@dataclass(frozen=True)
class Skipped:
    """A tensor, or a part of one, that is not compared."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pairing:
    """Every tensor of base and tuned, once: in a pair, in the pairs of its parts, or as skipped."""

    matrices: tuple[Pair, ...]
    vectors: tuple[Pair, ...]
    skipped: tuple[Skipped, ...]
