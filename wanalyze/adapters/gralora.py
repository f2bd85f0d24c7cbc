"""GraLoRA: a small LoRA for each of k x k blocks, and one for the whole where it is hybrid. Jung et al., 2025."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import are_smaller, float64, sizes
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {f"gralora_{name}": name for name in ("A", "B", "A_general", "B_general")}
_BLOCKS = {"A": "k inp_block r", "B": "k r out_block"}
_GENERAL = {"A_general": "hybrid_r inp", "B_general": "out hybrid_r"}


class _Config(PeftConfig):
    r: Positive
    alpha: Finite
    gralora_k: Positive
    hybrid_r: Annotated[int, Field(ge=0, strict=True)] = 0


def parse_gralora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT GraLoRA adapter."""
    config = config_of(files, _Config)
    if config.r % config.gralora_k:
        raise AdapterError(f"{files.name}: r is {config.r}, which gralora_k, {config.gralora_k}, does not divide")
    tensors = sorted_tensors(files, _STEMS, kind="GraLoRA", marker="gralora_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    blocks = f"{config.gralora_k} x {config.gralora_k} blocks"
    facts = {"alpha": config.alpha, "scale_rule": "alpha / (r + hybrid_r)"}
    return adapter_of(
        files, config, updates, tensors, kind="GRALORA", method=f"GraLoRA r={config.r} ({blocks})", facts=facts
    )


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    layout = _BLOCKS | _GENERAL if config.hybrid_r else _BLOCKS
    found = sizes(parts, layout, module=module, where=where, r=config.r, k=config.gralora_k, hybrid_r=config.hybrid_r)
    shape = found["k"] * found["out_block"], found["k"] * found["inp_block"]
    if (found.get("out", shape[0]), found.get("inp", shape[1])) != shape:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has blocks for {shape[0]} x {shape[1]}, its general part is for "
            f"{found['out']} x {found['inp']}"
        )
    rank = config.gralora_k * config.r + config.hybrid_r
    scale = config.alpha / (config.r + config.hybrid_r)
    return Update(module, parts, partial(_product, scale=scale), shape, rank if rank < min(shape) else None, scale)


def _product(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    wide = float64(parts)
    k, inputs, rank = wide["A"].shape
    # Block (o, i) is (A_i[:, o's share of r] · B_o[i's share of r, :])ᵀ: one common side that counts (o, i, share).
    a, b = wide["A"].reshape(k, inputs, k, -1), wide["B"].reshape(k, k, rank // k, -1)
    shape = k * b.shape[3], k * inputs
    none = a.new_zeros(0)
    left, right = wide.get("B_general", none.reshape(shape[0], 0)), wide.get("A_general", none.reshape(0, shape[1]))
    if not are_smaller(k * rank + len(right), shape):
        blocks = torch.einsum("inoq,oiqm->omin", a, b).reshape(shape)
        return Dense(scale * (blocks + left @ right))
    one = torch.eye(k, dtype=torch.float64, device=a.device)
    rights = torch.einsum("inoq,im->oiqmn", a, one).flatten(0, 2).flatten(1)
    lefts = torch.einsum("oiqn,om->oiqmn", b, one).flatten(0, 2).flatten(1).mT
    return LowRank(torch.cat([lefts, left], 1), torch.cat([rights, right]), scale)
