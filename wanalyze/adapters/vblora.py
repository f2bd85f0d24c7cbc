"""VB-LoRA: ΔW = B A, cut into pieces that are mixtures of a few vectors of one bank. Li et al., 2024."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import positions, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {
    f"vblora_logits_{side}{end}": f"{side}{end}" for side in "AB" for end in ("", "_topk_indices", "_topk_weights")
}
_FULL = {"A": "r inp_pieces bank", "B": "out_pieces r bank", "vectors": "bank length"}
_TOP = {
    **{f"A_topk_{part}": f"r inp_pieces {size}" for part, size in (("weights", "less"), ("indices", "topk"))},
    **{f"B_topk_{part}": f"out_pieces r {size}" for part, size in (("weights", "less"), ("indices", "topk"))},
    "vectors": "bank length",
}


class _Config(PeftConfig):
    r: Positive
    topk: Positive
    num_vectors: Positive
    vector_length: Positive
    save_only_topk_weights: bool = False


def parse_vblora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT VB-LoRA adapter, saved with all logits or with the top ones only."""
    config = config_of(files, _Config)
    if config.topk > config.num_vectors:
        raise AdapterError(f"{files.name}: topk is {config.topk}, but the bank has {config.num_vectors} vectors only")
    shared = {"vblora_vector_bank": "vectors"}
    tensors = sorted_tensors(files, _STEMS, kind="VB-LoRA", marker="vblora_", shared=shared)
    updates = [
        _update(files.name, module, {**parts, **tensors.shared}, config)
        for module, parts in sorted(tensors.modules.items())
    ]
    return adapter_of(files, config, updates, tensors, kind="VBLORA", method=f"VB-LoRA r={config.r}")


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    if config.topk == 1:  # the one weight is 1: peft saves what it leaves out, nothing
        parts = {name: entry for name, entry in parts.items() if not name.endswith("_topk_weights")}
    layout = {name: letters for name, letters in _layout(config).items() if "less" not in letters or config.topk > 1}
    given = {"r": config.r, "bank": config.num_vectors, "length": config.vector_length}
    given |= {"topk": config.topk, "less": config.topk - 1}
    found = sizes(parts, layout, module=module, where=where, **given)
    shape = found["out_pieces"] * found["length"], found["inp_pieces"] * found["length"]
    build = partial(_product, module=module, topk=config.topk)
    return Update(module, {name: parts[name] for name in layout}, build, shape, config.r)


def _layout(config: _Config) -> Mapping[str, str]:
    return _TOP if config.save_only_topk_weights else _FULL


def _product(parts: Parts, _base: Tensor | None, *, module: str, topk: int) -> Operator:
    a = _mixed(parts, "A", module, topk).flatten(1)
    b = _mixed(parts, "B", module, topk).mT.flatten(0, 1)
    return LowRank(b, a)


def _mixed(parts: Parts, side: str, module: str, topk: int) -> Tensor:
    """The pieces of A or B: (…, vector_length)."""
    vectors = widened(parts["vectors"], torch.float64)
    if side in parts:
        top = widened(parts[side], torch.float64).topk(topk, dim=-1)
        weights, indices = top.values.softmax(-1), top.indices
    else:
        indices = positions(parts[f"{side}_topk_indices"], len(vectors), module=module)
        known = parts.get(f"{side}_topk_weights", indices.new_empty(*indices.shape[:-1], 0))
        known = widened(known, torch.float64)
        weights = torch.cat([known, 1 - known.sum(-1, keepdim=True)], -1)
    return (weights[..., None] * vectors[indices]).sum(-2)
