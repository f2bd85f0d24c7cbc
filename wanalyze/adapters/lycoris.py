"""What LoHa and LoKr have in common: s = alpha / r, with r and alpha by module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from wanalyze.adapters.patterns import first_match
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, spread

if TYPE_CHECKING:
    from torch import Tensor


class LycorisConfig(PeftConfig):
    """The fields of adapter_config.json that the maths of LoHa and LoKr depends on."""

    r: Positive
    alpha: Finite
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    alpha_pattern: dict[str, Finite] = Field(default_factory=dict)

    def rank(self, module: str) -> int:
        return first_match(self.rank_pattern, module, self.r, field="rank_pattern")

    def scale(self, module: str) -> float:
        return first_match(self.alpha_pattern, module, self.alpha, field="alpha_pattern") / self.rank(module)

    def ranks(self, modules: Iterable[str]) -> str:
        return spread([self.rank(module) for module in modules] or [self.r])

    @property
    def facts(self) -> dict[str, object]:
        return {"alpha": self.alpha, "scale_rule": "alpha / r"}


def core(middle: Tensor, inputs: Tensor) -> Tensor:
    """The kernel (r, s, …) of a Tucker product with its `inputs` (s, inp) multiplied in: (r, inp · …)."""
    return torch.einsum("rs...,si->ri...", middle, inputs).flatten(1)
