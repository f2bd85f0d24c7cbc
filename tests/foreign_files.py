"""Adapters of other tools as they lie on disk, and what our reading of them does to a base."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import wanalyze
from tests.conftest import normal
from wanalyze.adapters import Adapter, parse_adapter
from wanalyze.checkpoints import AdapterFiles, open_source

Tensors = dict[str, Tensor]

# A linear layer, a kernel, a square layer whose orientation only values show, and a norm.
BASE = {
    "down.0.proj_in.weight": normal(6, 4, seed=90),
    "conv.weight": normal(6, 4, 3, 2, seed=91),
    "square.weight": normal(5, 5, seed=92),
    "norm.weight": normal(6, seed=93),
    "norm.bias": normal(6, seed=94),
}
LINEAR, CONV, SQUARE = "lora_unet_down_0_proj_in", "lora_unet_conv", "lora_unet_square"
UP, DOWN = normal(6, 2, seed=1), normal(2, 4, seed=2)
# What parts are called after their module, where that is not the part's own name.
_ENDS = {
    **{part: f"lora_{part}.weight" for part in ("up", "down", "mid")},
    **{part: f"{part}.weight" for part in ("a1", "a2", "b1", "b2")},
}


def of(module: str, **parts: Tensor) -> Tensors:
    """The tensors of a module as kohya's scripts and LyCORIS call them."""
    return {f"{module}.{_ENDS.get(name, name)}": tensor for name, tensor in parts.items()}


def number(value: float) -> Tensor:
    return torch.tensor(value)


def written(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Safetensors saves no tensor twice, so each gets a storage of its own.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(own, path, metadata)
    return path


def parsed(path: Path, base: Path | None = None) -> Adapter:
    source = open_source(path)
    assert isinstance(source, AdapterFiles)
    return parse_adapter(source, None if base is None else wanalyze.open_checkpoint(base))


def deltas(adapter: Adapter, base: Tensors) -> Tensors:
    """ΔW of every update, by the name of the tensor that it changes, in that tensor's shape."""
    found: Tensors = {}
    for update in adapter.updates:
        stored = base[update.target] if update.index is None else base[update.target][update.index]
        flat = stored.double().flatten(1)
        delta = update.read(flat).map(lambda tensor: tensor.double()).dense()
        assert delta.shape == flat.shape
        assert update.shape in (None, tuple(flat.shape))
        name = update.target if update.index is None else f"{update.target}[{update.index}]"
        found[name] = delta.reshape(stored.shape)
    return found
