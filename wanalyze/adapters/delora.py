"""DeLoRA: ΔW = B diag(λ / (r ‖b_i‖ ‖a_i‖)) A diag(norms of the base's columns). Bini et al., 2025."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import float64, sizes
from wanalyze.adapters.patterns import first_match
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_LAYOUT = {"A": "r inp", "B": "out r", "lambda": "one", "w_norm": "inp"}
_LEAST_NORM = 1e-4  # peft's


class _Config(PeftConfig):
    r: Positive
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)


def parse_delora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT DeLoRA adapter, which stores the norms of the base that it is scaled by."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, {f"delora_{part}": part for part in _LAYOUT}, kind="DeLoRA", marker="delora_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    ranks = spread([update.rank for update in updates if update.rank is not None] or [config.r])
    return adapter_of(files, config, updates, tensors, kind="DELORA", method=f"DeLoRA r={ranks}")


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    rank = first_match(config.rank_pattern, module, config.r, field="rank_pattern")
    found = sizes(parts, _LAYOUT, module=module, where=where, r=rank, one=1)
    return Update(module, {name: parts[name] for name in _LAYOUT}, _product, (found["out"], found["inp"]), rank)


def _product(parts: Parts, _base: Tensor | None) -> Operator:
    wide = float64(parts)
    a, b = wide["A"], wide["B"]
    norms = a.norm(dim=1).clamp(min=_LEAST_NORM) * b.norm(dim=0).clamp(min=_LEAST_NORM)
    return LowRank(b * (wide["lambda"] / (len(a) * norms)), a * wide["w_norm"])
