"""Adapters that touch no matrix: norms saved whole (LN tuning), and vectors that are added to biases (BEFT)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Shift
from wanalyze.adapters.based import may_have_bias
from wanalyze.adapters.layout import sizes
from wanalyze.adapters.peft import PeftConfig, Tensors, adapter_of, config_of, need, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import widened

if TYPE_CHECKING:
    from torch import Tensor

_NORM = {"ln_tuning_layers": "weight", "ln_tuning_layers.bias": "bias"}


def parse_ln_tuning(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The norms of a PEFT LN-tuning adapter, which are copies trained in place of the base's."""
    config = config_of(files, PeftConfig)
    tensors = sorted_tensors(files, _NORM, kind="LN tuning", marker="ln_tuning_")
    for module, parts in tensors.modules.items():
        need(parts, (), module=module, where=files.name)
    norms = {f"{module}.{part}": entry for module, parts in tensors.modules.items() for part, entry in parts.items()}
    whole = Tensors(replaced={**tensors.replaced, **norms})
    return adapter_of(files, config, (), whole, kind="LN_TUNING", method="LN tuning")


def parse_beft(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The biases of a PEFT BEFT adapter."""
    config = config_of(files, PeftConfig)
    tensors = sorted_tensors(files, {"beft_bias": "beft_bias"}, kind="BEFT", marker="beft_")
    shifts = [_shift(files.name, module, parts) for module, parts in sorted(tensors.modules.items())]
    lacking = [module for module in sorted(tensors.modules) if not may_have_bias(base, module)]
    note = f"{len(lacking)} modules have no bias in the base to add to; the first is {(lacking or [''])[0][:80]!r}"
    notes = [note] if lacking else []
    return adapter_of(files, config, (), tensors, kind="BEFT", method="BEFT", shifts=shifts, notes=notes)


def _shift(where: str, module: str, parts: Mapping[str, TensorEntry]) -> Shift:
    sizes(parts, {"beft_bias": "one out"}, module=module, where=where, one=1)
    return Shift(f"{module}.bias", parts, partial(_added, module=module))


def _added(parts: Parts, base: Tensor, *, module: str) -> Tensor:
    added = widened(parts["beft_bias"].flatten(), torch.float64)
    if added.shape != base.shape:
        raise AdapterError(f"{module[:80]!r}: {len(added)} numbers to add to a bias of shape {tuple(base.shape)}")
    return widened(base, torch.float64) + added
