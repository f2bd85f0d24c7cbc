"""LoKr: ΔW = s · W₁ ⊗ W₂ with s = alpha / r, each factor whole or a product itself. Yeh et al., LyCORIS, 2024."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import float64, sizes
from wanalyze.adapters.lycoris import LycorisConfig, core
from wanalyze.adapters.peft import adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.operators import Dense, Kronecker, LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_NAMES = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
_FIRST_PRODUCT = {"lokr_w1_a": "a r", "lokr_w1_b": "r c"}
_SECOND_PRODUCT = {"lokr_w2_a": "b r", "lokr_w2_b": "r d"}
_SECOND_TUCKER = {"lokr_t2": "r r height width", "lokr_w2_a": "r b", "lokr_w2_b": "r d"}
_SECOND_WHOLE = {2: "b d", 3: "b d height", 4: "b d height width"}


def parse_lokr(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT LoKr adapter. LyCORIS itself scales by 1 where both factors are whole; PEFT does not."""
    config = config_of(files, LycorisConfig)
    tensors = sorted_tensors(files, {name: name for name in _NAMES}, kind="LoKr", marker="lokr_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    return adapter_of(files, config, updates, tensors, kind="LOKR", method="LoKr", facts=config.facts)


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: LycorisConfig) -> Update:
    found = sizes(parts, _layout(parts), module=module, where=where, r=config.rank(module))
    kernel = found.get("height", 1) * found.get("width", 1)
    shape = found["a"] * found["b"], found["c"] * found["d"] * kernel
    scale = config.scale(module)
    return Update(module, parts, partial(_product, scale=scale), shape, scale=scale)


def _layout(parts: Mapping[str, TensorEntry]) -> dict[str, str]:
    first = {"lokr_w1": "a c"} if "lokr_w1" in parts else _FIRST_PRODUCT
    if "lokr_w2" in parts:
        return first | {"lokr_w2": _SECOND_WHOLE.get(len(parts["lokr_w2"].shape), "b d")}
    return first | (_SECOND_TUCKER if "lokr_t2" in parts else _SECOND_PRODUCT)


def _product(parts: Parts, base: Tensor | None, *, scale: float) -> Operator:
    if "lokr_w2" in parts and parts["lokr_w2"].ndim == 3:
        wide = float64(parts)
        return _line(_factor(wide, 1), wide["lokr_w2"], scale)
    return kronecker(parts, base, scale=scale)


def kronecker(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    """The product s · W₁ ⊗ W₂, each whole or a product itself, the second of kernels perhaps by a Tucker product."""
    # The sides of a kernel follow the inputs of the second factor, so the flat product is a Kronecker product as well.
    wide = float64(parts)
    return Kronecker(_factor(wide, 1), _factor(wide, 2), scale)


def _factor(parts: Mapping[str, Tensor], i: int) -> Operator:
    if f"lokr_w{i}" in parts:
        return Dense(parts[f"lokr_w{i}"].flatten(1))
    a, b = parts[f"lokr_w{i}_a"], parts[f"lokr_w{i}_b"]
    return LowRank(a.mT, core(parts[f"lokr_t{i}"], b)) if f"lokr_t{i}" in parts else LowRank(a, b.flatten(1))


def _line(first: Operator, second: Tensor, scale: float) -> Operator:
    # For a Conv1d with a whole second factor (b, d, k) peft multiplies a and c into d and k instead, in training as in
    # merging, and reads the result as the kernel: this is what the tuned model does.
    return Dense(scale * torch.kron(first.dense()[None], second).reshape(first.shape[0] * len(second), -1))
