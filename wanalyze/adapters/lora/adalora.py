"""AdaLoRA: ΔW = s · B diag(E) A with s = alpha / (init_r + 1e-5), whatever rank is left. Zhang et al., 2023."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.lora.build import beside
from wanalyze.adapters.peft import (
    Finite,
    PeftConfig,
    Positive,
    adapter_of,
    config_of,
    need,
    refuse_empty,
    sorted_tensors,
    spread,
)
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank, widened

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = ("lora_A", "lora_B", "lora_E")
_EPS = 1e-5  # what peft adds to the rank it divides by


class _Config(PeftConfig):
    init_r: Positive = 12
    lora_alpha: Finite = 8.0
    rank_pattern: dict[str, list[bool]] = Field(default_factory=dict)
    use_dora: bool = False

    @property
    def scale(self) -> float:
        """Of every module: peft divides by the rank it began with, and takes that for an alpha of 0."""
        return (self.lora_alpha if self.lora_alpha > 0 else float(self.init_r)) / (self.init_r + _EPS)

    def ranks(self) -> dict[str, int]:
        """What is left of modules that were pruned; the keys may end in the tensor and the adapter."""
        return {key.partition(".lora_E")[0]: sum(mask) for key, mask in self.rank_pattern.items()}


def parse_adalora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT AdaLoRA adapter."""
    config = config_of(files, _Config)
    if config.use_dora:
        raise AdapterError(f"{files.name}: use_dora in adapter_config.json, which AdaLoRA does not have")
    stems = {name: name for name in _PARTS}
    tensors = sorted_tensors(files, stems, kind="AdaLoRA", marker="lora_", ignored=("ranknum",), whole=True)
    left = config.ranks()
    updates = [
        _update(files.name, module, parts, left.get(module, config.init_r), config)
        for module, parts in sorted(tensors.modules.items())
    ]
    return adapter_of(
        files,
        config,
        updates,
        tensors,
        kind="ADALORA",
        method=f"AdaLoRA r={spread(u.rank or 0 for u in updates) if updates else config.init_r}",
        facts={"alpha": config.lora_alpha, "scale_rule": "alpha / (init_r + 1e-5)", "init_r": config.init_r},
    )


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], rank: int, config: _Config) -> Update:
    _check(where, module, parts, rank)
    shape = parts["lora_B"].shape[0], parts["lora_A"].shape[1]
    build = partial(_product, scale=config.scale)
    update = Update(module, parts, build, shape, rank, config.scale)
    if "whole" not in parts:
        return update
    return Update(
        module, parts, partial(beside, inner=build, module=module), shape, rank, config.scale, needs_base=True
    )


def _check(where: str, module: str, parts: Mapping[str, TensorEntry], rank: int) -> None:
    if rank:
        need(parts, _PARTS, module=module, where=where)
    refuse_empty([entry for entry in parts.values() if not (rank == 0 and len(entry.shape) == 2)], where=where)
    a, b, e = (parts[name].shape if name in parts else () for name in _PARTS)
    if len(a) != 2 or len(b) != 2 or (a[0], b[1], e) != (rank, rank, (rank, 1)):
        raise AdapterError(
            f"{where}: module {module[:80]!r} has lora_A {a}, lora_B {b} and lora_E {e}, but adapter_config.json "
            f"leaves it rank {rank} (init_r, rank_pattern); one of the two must be mended"
        )


def _product(parts: Parts, _base: Tensor | None, *, scale: float) -> LowRank:
    left, right, values = (widened(parts[name], torch.float64) for name in ("lora_B", "lora_A", "lora_E"))
    if right.shape[0] == 0:  # all of it pruned: no change, which a product of no terms is not for every routine
        return LowRank(left.new_zeros(len(left), 1), right.new_zeros(1, right.shape[1]))
    return LowRank(left, right * values, scale)
