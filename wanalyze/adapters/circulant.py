"""C3A: ΔW of circulant blocks, divided by the number of inputs. Chen et al., 2025."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import bounded, one_of, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.operators import Dense, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator


class _Config(PeftConfig):
    block_size: Positive
    block_size_pattern: dict[str, Positive] = Field(default_factory=dict)


def parse_c3a(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT C3A adapter."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, {"c3a_kernel": "kernel"}, kind="C3A", marker="c3a_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    blocks = spread([update.parts["kernel"].shape[2] for update in updates] or [config.block_size])
    return adapter_of(files, config, updates, tensors, kind="C3A", method=f"C3A (blocks of {blocks})")


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    found = sizes(parts, {"kernel": "rows columns size"}, module=module, where=where)
    known = {config.block_size, *config.block_size_pattern.values()}
    one_of(found["size"], known, field="block_size", module=module, where=where)
    shape = found["rows"] * found["size"], found["columns"] * found["size"]
    bounded(math.prod(shape), "a matrix of circulant blocks", module=module)
    return Update(module, parts, _circulant, shape)


def _circulant(parts: Parts, _base: Tensor | None) -> Operator:
    kernel = widened(parts["kernel"], torch.float64)
    rows, columns, size = kernel.shape
    steps = torch.arange(size, device=kernel.device)
    blocks = kernel[:, :, (steps - steps[:, None]) % size]  # entry (i, j) of a block is kernel[j − i]
    return Dense(blocks.permute(0, 2, 1, 3).reshape(rows * size, columns * size) / (columns * size))
