"""IA3: outputs, or the inputs of feed-forward modules, scaled one by one. Liu et al., 2022."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Shift, Update
from wanalyze.adapters.based import beside, may_have_bias, wide
from wanalyze.adapters.layout import sides
from wanalyze.adapters.patterns import matches
from wanalyze.adapters.peft import PeftConfig, adapter_of, config_of, need, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, Scaled, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator


class _Config(PeftConfig):
    feedforward_modules: list[str] | str = Field(default_factory=list)

    def scales_inputs(self, module: str) -> bool:
        if isinstance(self.feedforward_modules, str):
            return matches(self.feedforward_modules, module, field="feedforward_modules")
        return any(module.endswith(name) for name in self.feedforward_modules)


def parse_ia3(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT IA3 adapter, and the biases that it scales with the outputs."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, {"ia3_l": "ia3_l"}, kind="IA3", marker="ia3_")
    modules = sorted(tensors.modules.items())
    updates = [_update(files.name, module, parts, config, base) for module, parts in modules]
    shifts = [
        Shift(f"{module}.bias", parts, partial(_scale_bias, module=module))
        for module, parts in modules
        if not config.scales_inputs(module) and may_have_bias(base, module)
    ]
    return adapter_of(files, config, updates, tensors, kind="IA3", method="IA3", shifts=shifts)


def _update(
    where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config, base: Checkpoint | None
) -> Update:
    need(parts, ("ia3_l",), module=module, where=where)
    inputs = config.scales_inputs(module)
    shape = parts["ia3_l"].shape
    count = math.prod(shape)
    expected = (1, count) if inputs or len(shape) != 2 else (count, 1)
    if shape != expected + (1,) * (len(shape) - 2):
        raise AdapterError(
            f"{where}: module {module[:80]!r} has an ia3_l of shape {shape}, but by feedforward_modules in "
            f"adapter_config.json it scales {'inputs' if inputs else 'outputs'}; one must be mended"
        )
    if not inputs:
        return Update(module, parts, partial(_scale_outputs, module=module), None, needs_base=True)
    weight = beside(base, f"{module}.weight")
    kernel = () if len(shape) == 2 else None if weight is None else weight.shape[2:]
    return Update(module, parts, partial(_scale_inputs, kernel=kernel, module=module), None, needs_base=True)


def _scale_outputs(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    factors = found["ia3_l"].flatten()
    sides(weight, module=module, out=len(factors))
    return Scaled(Dense(weight), factors - 1, torch.ones_like(weight[0]))


def _scale_inputs(parts: Parts, base: Tensor | None, *, kernel: tuple[int, ...] | None, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    if kernel is None:
        raise AdapterError(f"{module[:80]!r}: the base has no weight of this name, whose kernel must be known")
    factors = found["ia3_l"].flatten().repeat_interleave(math.prod(kernel))
    groups = len(factors) // weight.shape[1]
    if not kernel or groups * weight.shape[1] != len(factors) or len(weight) % groups:
        groups = 1
    sides(weight, module=module, inp=len(factors) // groups)
    if groups == 1:
        return Scaled(Dense(weight), torch.ones_like(weight[:, 0]), factors - 1)
    # A grouped kernel: each group of outputs has inputs of its own.
    by_output = factors.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return Dense(weight * (by_output - 1))


def _scale_bias(parts: Parts, base: Tensor, *, module: str) -> Tensor:
    factors = widened(parts["ia3_l"].flatten(), torch.float64)
    if factors.shape != base.shape:
        raise AdapterError(f"{module[:80]!r}: {len(factors)} factors for a bias of shape {tuple(base.shape)}")
    return factors * widened(base, torch.float64)
