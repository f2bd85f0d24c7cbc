"""HRA: W' = W ∏ (I − 2 uᵢ uᵢᵀ), a chain of r reflections, so ΔW has rank r at most. Yuan et al., 2024."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import wide
from wanalyze.adapters.layout import product, sides, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import NumericsError

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator


class _Config(PeftConfig):
    r: Positive = 8
    apply_GS: bool = False


def parse_hra(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT HRA adapter."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, {"hra_u": "hra_u"}, kind="HRA", marker="hra_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    return adapter_of(files, config, updates, tensors, kind="HRA", method=f"HRA r={config.r}")


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    sizes(parts, {"hra_u": "inp r"}, module=module, where=where, r=config.r)
    build = partial(_reflect, is_orthogonal=config.apply_GS, module=module)
    return Update(module, parts, build, None, config.r, needs_base=True)


def _reflect(parts: Parts, base: Tensor | None, *, is_orthogonal: bool, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    u = found["hra_u"]
    sides(weight, module=module, inp=len(u))
    norms = torch.linalg.vector_norm(u, dim=0)
    if not norms.all():
        raise NumericsError(f"{module[:80]!r}: a column of its hra_u is zero, which is no direction to reflect along")
    if is_orthogonal:
        q = torch.linalg.qr(u).Q
        return product(weight @ q, q.mT, -2.0)
    u = u / norms
    return product(weight @ _chained(u), u.mT)


def _chained(u: Tensor) -> Tensor:
    """C of ∏ (I − 2 uᵢ uᵢᵀ) = I + C Uᵀ, column by column."""
    found = torch.zeros_like(u)
    for i in range(u.shape[1]):
        found[:, i] = -2 * (u[:, i] + found[:, :i] @ (u[:, :i].mT @ u[:, i]))
    return found
