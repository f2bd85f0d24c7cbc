"""MiSS, which peft 0.14 to 0.18 called Bone: one block, tiled over the inputs. Kang and Yin, 2024."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import float64, product, sides, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator


class _Config(PeftConfig):
    r: Positive
    mini_r: Positive = 1
    init_weights: bool | Literal["bat", "mini"] = True


def parse_miss(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT MiSS adapter."""
    return _parse(files, "MISS", "MiSS")


def parse_bone(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT Bone adapter; its form `mini` came with the name MiSS."""
    return _parse(files, "BONE", "Bone")


def _parse(files: AdapterFiles, kind: str, name: str) -> Adapter:
    config = config_of(files, _Config)
    if kind == "BONE" and config.init_weights == "mini":
        raise AdapterError(f"{files.name}: init_weights 'mini' is a form of MiSS, not of Bone")
    stem = kind.lower()
    tensors = sorted_tensors(files, {f"{stem}_block": "block"}, kind=name, marker=f"{stem}_")
    make = _bat if config.init_weights == "bat" else _tiled
    updates = [make(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    method = f"{name}-bat (blocks of {config.r})" if config.init_weights == "bat" else f"{name} r={config.r}"
    return adapter_of(files, config, updates, tensors, kind=kind, method=method)


def _tiled(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    if config.init_weights == "mini":
        sizes(parts, {"block": "r mini_r"}, module=module, where=where, r=config.r, mini_r=config.mini_r)
        build, rank = partial(_mini, module=module), min(config.r, config.mini_r)
    else:
        sizes(parts, {"block": "r out"}, module=module, where=where, r=config.r)
        build, rank = partial(_plain, module=module), config.r
    return Update(module, parts, build, None, rank, needs_base=True)


def _plain(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    block = widened(parts["block"], torch.float64)
    _, inp = sides(base, module=module, out=block.shape[1])
    return _repeated(block.mT, inp)


def _mini(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    block = widened(parts["block"], torch.float64)
    out, inp = sides(base, module=module)
    if out % block.shape[1]:
        raise AdapterError(f"{module[:80]!r}: {out} outputs of the base's weight are no multiple of {block.shape[1]}")
    return _repeated(block.mT.repeat(out // block.shape[1], 1), inp)


def _repeated(left: Tensor, inp: int) -> Operator:
    """Column j is column j mod r of `left` (out, r)."""
    columns = torch.arange(inp, device=left.device)
    tiles = left.new_zeros(left.shape[1], inp)
    tiles[columns % left.shape[1], columns] = 1
    return product(left, tiles)


def _bat(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    sizes(parts, {"block": "row_blocks r r"}, module=module, where=where, r=config.r)
    return Update(module, parts, partial(_block_wise, module=module), None, needs_base=True)


def _block_wise(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    """W M + M for every r x r block of W, with one M for each row of blocks."""
    block = float64(parts)["block"]
    rows, r, _ = block.shape
    out, inp = sides(base, module=module, out=rows * r)
    if base is None or inp % r:
        raise AdapterError(f"{module[:80]!r}: {inp} inputs of the base's weight are no multiple of {r}")
    weight = widened(base, torch.float64).reshape(rows, r, inp // r, r)
    found = torch.einsum("apbq,aqs->apbs", weight, block) + block[:, :, None]
    return Dense(found.reshape(out, inp))
