"""DEFT: ΔW = Q (s R − Q'ᵀ W), a subspace of the outputs rewritten; PaRa, its form without R, removes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import wide
from wanalyze.adapters.layout import product, sides, sizes
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {"deft_P": "deft_P", "deft_R": "deft_R"}


class _Config(PeftConfig):
    r: Positive = 8
    decomposition_method: Literal["relu", "qr"] = "relu"
    para: bool = False
    alpha: Finite | None = None


def parse_deft(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT DEFT or PaRa adapter."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="DEFT", marker="deft_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    ranks = spread([update.rank for update in updates if update.rank is not None] or [config.r])
    method = f"{'PaRa' if config.para else 'DEFT'} ({config.decomposition_method}) r={ranks}"
    return adapter_of(files, config, updates, tensors, kind="DEFT", method=method)


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    outputs = parts["deft_P"].shape[0] if "deft_P" in parts and parts["deft_P"].shape else config.r
    rank = min(config.r, outputs)  # no subspace is larger
    layout = {"deft_P": "out r"} | ({} if config.para else {"deft_R": "r inp"})
    found = sizes(parts, layout, module=module, where=where, r=rank)
    shape = None if config.para else (found["out"], found["inp"])
    scale = config.alpha / rank if config.alpha else 1.0
    build = partial(_rewritten, method=config.decomposition_method, scale=scale, module=module)
    return Update(module, parts, build, shape, rank, None if config.para else scale, needs_base=True)


def _rewritten(
    parts: Parts, base: Tensor | None, *, method: Literal["relu", "qr"], scale: float, module: str
) -> Operator:
    found, weight = wide(parts, base, module=module)
    p = found["deft_P"]
    sides(weight, module=module, out=len(p))
    written, read = (p, torch.relu(p)) if method == "relu" else (torch.linalg.qr(p).Q,) * 2
    removed = read.mT @ weight
    if "deft_R" not in found:
        return product(written, -removed)
    sides(weight, module=module, inp=found["deft_R"].shape[1])
    return product(written, scale * found["deft_R"] - removed)
