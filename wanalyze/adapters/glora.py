"""GLoRA: ΔW = W ⊙ A + B and Δb = b ⊙ D + E + W C, each of the five a path of its own form. Chavan et al., 2023."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Shift, Update
from wanalyze.adapters.based import beside, wide
from wanalyze.adapters.layout import float64, sides, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError, NumericsError
from wanalyze.operators import Dense, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {f"glora_{path}.{part}": f"{path}.{part}" for path in "ABCDE" for part in ("X", "Xd", "Xu")}
_EMPTY = [f"glora_{path}.zeros" for path in "ABCDE"]  # what peft saves of a path that is not used
_OF_WEIGHTS: dict[str, dict[str, str]] = {
    "lora": {"A.Xd": "out r", "A.Xu": "r inp", "B.Xd": "out r", "B.Xu": "r inp"},
    "vector": {"A.X": "out one", "B.X": "out one"},
    "constant": {"A.X": "one", "B.X": "one"},
    "none": {},
}
_OF_INPUTS: dict[str, dict[str, str]] = {
    "lora": {"C.Xd": "inp r", "C.Xu": "r one"},
    "vector": {"C.X": "inp one"},
    "none": {},
}
_OF_BIASES: dict[str, dict[str, str]] = {
    "vector": {"D.X": "out", "E.X": "out"},
    "constant": {"D.X": "one", "E.X": "one"},
    "none": {},
}


class _Config(PeftConfig):
    r: Positive = 8
    config_A_B: Literal["lora", "vector", "constant", "none"] = "lora"
    config_C: Literal["lora", "vector", "none"] = "lora"
    config_D_E: Literal["vector", "constant", "none"] = "constant"

    @property
    def bias_layout(self) -> dict[str, str]:
        return _OF_INPUTS[self.config_C] | _OF_BIASES[self.config_D_E]


def parse_glora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT GLoRA adapter, and the biases of modules that have one."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="GLoRA", marker="glora_", ignored=_EMPTY)
    for module, parts in tensors.modules.items():
        _check(files.name, module, parts, config)
    modules = sorted(tensors.modules.items())
    updates = [_update(module, parts, config) for module, parts in modules if config.config_A_B != "none"]
    shifts = [
        Shift(f"{module}.bias", of_bias, partial(_shifted, module=module))
        for module, parts in modules
        if (of_bias := _bias_parts(module, parts, base))
    ]
    paths = f"A, B {config.config_A_B}; C {config.config_C}; D, E {config.config_D_E}; r={config.r}"
    return adapter_of(files, config, updates, tensors, kind="GLORA", method=f"GLoRA ({paths})", shifts=shifts)


def _check(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> None:
    """That a module has the paths that the config names; those of a bias are absent where it has none."""
    has_bias = any(name[0] in "CDE" for name in parts)
    layout = _OF_WEIGHTS[config.config_A_B] | (config.bias_layout if has_bias else {})
    sizes(parts, layout, module=module, where=where, r=config.r, one=1)


def _update(module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    used = {name: parts[name] for name in _OF_WEIGHTS[config.config_A_B]}
    shape = (used["A.Xd"].shape[0], used["A.Xu"].shape[1]) if config.config_A_B == "lora" else None
    return Update(module, used, partial(_modulate, module=module), shape, needs_base=True)


def _modulate(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    a, b = (_path(found, path) for path in "AB")
    if a.ndim == 2:
        sides(weight, module=module, out=len(a), **({"inp": a.shape[1]} if a.shape[1] > 1 else {}))
    return Dense(weight * a + b)


def _path(parts: Parts, path: str) -> Tensor:
    return parts[f"{path}.X"] if f"{path}.X" in parts else parts[f"{path}.Xd"] @ parts[f"{path}.Xu"]


def _bias_parts(module: str, parts: Mapping[str, TensorEntry], base: Checkpoint | None) -> Mapping[str, TensorEntry]:
    """What the new bias is made of, the base's weight among it where it is known."""
    used = {name: entry for name, entry in parts.items() if name[0] in "CDE"}
    weight = beside(base, f"{module}.weight")
    return used if not used or weight is None or len(weight.shape) != 2 else {**used, "weight": weight}


def _shifted(parts: Parts, base: Tensor, *, module: str) -> Tensor:
    wide = float64(parts)
    bias = widened(base, torch.float64)
    lengths = {len(wide[name]) for name in ("D.X", "E.X") if name in wide}
    if bias.ndim != 1 or not lengths <= {1, len(bias)}:
        raise AdapterError(
            f"{module[:80]!r}: the base's bias of shape {tuple(base.shape)} is not what its paths are for"
        )
    found = bias + bias * wide["D.X"] + wide["E.X"] if lengths else bias
    if not any(name[0] == "C" for name in parts):
        return found
    if "weight" not in wide:
        raise NumericsError(f"{module[:80]!r}: its new bias follows from a weight that is not in the base by this name")
    coupling = _path(wide, "C")
    sides(wide["weight"], module=module, out=len(bias), inp=len(coupling))
    return found + (wide["weight"] @ coupling)[:, 0]
