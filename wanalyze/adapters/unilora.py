"""Uni-LoRA: ΔW = B A, whose every entry is one of a short shared vector, scaled. Li et al., 2025."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import float64, positions, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {f"unilora_{part}_{side}": f"{side}_{part}" for part in ("scales", "indices") for side in "AB"}
_LAYOUT = {"theta": "d", "A_scales": "r inp", "A_indices": "r inp", "B_scales": "out r", "B_indices": "out r"}


class _Config(PeftConfig):
    r: Positive
    theta_d_length: Positive


def parse_unilora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT Uni-LoRA adapter that was saved with its indices; AdapterError without them."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="Uni-LoRA", marker="unilora_", shared={"unilora_theta_d": "theta"})
    if tensors.shared and not tensors.modules:
        raise AdapterError(
            f"{files.name}: its indices were not saved, and peft draws them in the order in which the model's code "
            "defines its modules, which is in no file; save it with save_indices=True"
        )
    updates = [
        _update(files.name, module, {**parts, **tensors.shared}, config)
        for module, parts in sorted(tensors.modules.items())
    ]
    return adapter_of(files, config, updates, tensors, kind="UNILORA", method=f"Uni-LoRA r={config.r}")


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    found = sizes(parts, _LAYOUT, module=module, where=where, r=config.r, d=config.theta_d_length)
    ordered = {name: parts[name] for name in _LAYOUT}
    return Update(module, ordered, partial(_product, module=module), (found["out"], found["inp"]), config.r)


def _product(parts: Parts, _base: Tensor | None, *, module: str) -> Operator:
    wide = float64({name: tensor for name, tensor in parts.items() if not name.endswith("indices")})
    at = {side: positions(parts[f"{side}_indices"], len(wide["theta"]), module=module) for side in "AB"}
    a, b = (wide["theta"][at[side]] * wide[f"{side}_scales"] for side in "AB")
    return LowRank(b, a)
