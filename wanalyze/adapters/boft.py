"""BOFT: W' = s ⊙ (W Oᵀ), O a product of block-diagonal rotations with butterfly permutations. Liu et al., 2024."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import wide
from wanalyze.adapters.layout import one_of, sides, sizes
from wanalyze.adapters.peft import PeftConfig, adapter_of, config_of, sorted_tensors, spread
from wanalyze.adapters.rotations import cayley, halves, turned
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

# Versions before 0.14 saved boft_P as well, the permutations that follow from the shape of boft_R.
_STEMS = {"boft_R": "boft_R", "boft_s": "boft_s", "boft_P": "boft_P"}

_Count = Annotated[int, Field(ge=0, strict=True)]


class _Config(PeftConfig):
    boft_block_size: _Count = 4
    boft_block_num: _Count = 0


def parse_boft(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT BOFT adapter."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="BOFT", marker="boft_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    shapes = [update.parts["boft_R"].shape for update in updates] or [(0, 0, 0)]
    method = f"BOFT (blocks of {spread(shape[2] for shape in shapes)}, {spread(shape[0] for shape in shapes)} factors)"
    return adapter_of(files, config, updates, tensors, kind="BOFT", method=method)


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    used = {name: entry for name, entry in parts.items() if name != "boft_P"}
    kernel = "boft_s" in used and used["boft_s"].shape[:1] == (1,)
    layout = {"boft_R": "factors blocks side side", "boft_s": "one out" if kernel else "out one"}
    found = sizes(used, layout, module=module, where=where, one=1)
    if config.boft_block_size:
        one_of(found["side"], {config.boft_block_size}, field="boft_block_size", module=module, where=where)
    if config.boft_block_num:
        one_of(found["blocks"], {config.boft_block_num}, field="boft_block_num", module=module, where=where)
    _check_butterfly(found["factors"], found["blocks"], found["side"], f"{where}: module {module[:80]!r}")
    shape = found["out"], found["blocks"] * found["side"]
    return Update(module, used, partial(_turn, module=module), shape, needs_base=True)


def _check_butterfly(factors: int, blocks: int, side: int, what: str) -> None:
    # Bounds first: 2 to the power of a stranger's number.
    if factors > 1 and (factors > blocks.bit_length() or blocks % 2 ** (factors - 1) or side % 2):
        raise AdapterError(f"{what} has {factors} factors of {blocks} blocks of {side}, which no butterfly connects")


def _turn(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    rotations, scales = found["boft_R"], found["boft_s"].reshape(-1, 1)
    factors, blocks, side, _ = rotations.shape
    sides(weight, module=module, out=len(scales), inp=blocks * side)
    tuned = weight
    for i in range(factors):
        order = _butterfly(blocks, side, i).to(weight.device)
        # W (P R Pᵀ)ᵀ, where P puts input order[k] in place k.
        tuned = turned(tuned[:, order.argsort()], cayley(halves(rotations[i])))[:, order]
    return Dense(scales * tuned - weight)


def _butterfly(blocks: int, side: int, level: int) -> Tensor:
    """Which half block comes where: within each group of 2 ** level blocks the even halves, then the odd ones."""
    halves_ = torch.arange(blocks * side)
    if level == 0:
        return halves_
    grouped = halves_.reshape(-1, 2 ** (level + 1), side // 2)
    return torch.cat([grouped[:, 0::2], grouped[:, 1::2]], dim=1).flatten()
