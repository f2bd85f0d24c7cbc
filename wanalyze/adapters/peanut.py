"""PEANuT: ΔWᵀ = s · f(Wᵀ) Bᵀ, f a small network that ends in r numbers for each input, so of rank r at most."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import wide
from wanalyze.adapters.layout import product, sides, sizes
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_F = torch.nn.functional
# The names of transformers.activations.ACT2FN.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "relu": torch.relu,
        "gelu": _F.gelu,
        "gelu_new": partial(_F.gelu, approximate="tanh"),
        "gelu_pytorch_tanh": partial(_F.gelu, approximate="tanh"),
        "leaky_relu": _F.leaky_relu,
        "linear": torch.clone,
        "mish": _F.mish,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "relu2": lambda x: torch.relu(x) ** 2,
        "relu6": _F.relu6,
        "sigmoid": torch.sigmoid,
        "silu": _F.silu,
        "swish": _F.silu,
        "tanh": torch.tanh,
    }
)
_DEEPEST = 64


class _Config(PeftConfig):
    r: Positive = 32
    depth: Annotated[int, Field(ge=0, le=_DEEPEST, strict=True)] = 0
    act_fn: str = "relu"
    scaling: Finite = 1.0


def parse_peanut(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT PEANuT adapter of any depth."""
    config = config_of(files, _Config)
    if config.act_fn not in ACTIVATIONS:
        raise AdapterError(
            f"{files.name}: act_fn {config.act_fn[:40]!r} is not supported yet; known: {', '.join(ACTIVATIONS)}"
        )
    tensors = sorted_tensors(files, _stems(config.depth), kind="PEANuT", marker="peanut_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    method = f"PEANuT r={config.r}, depth {config.depth}"
    return adapter_of(files, config, updates, tensors, kind="PEANUT", method=method)


def _stems(depth: int) -> dict[str, str]:
    layers = [f"peanut_{side}coders.{i}" for side in ("en", "de") for i in range(depth)]
    return {name: re.sub(r"^peanut_", "", name) for name in ("peanut_A", "peanut_B", *layers)}


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    layers = [name for name in _stems(config.depth).values() if name not in "AB"]
    layout = {"A": "r out", "B": "out r"} | dict.fromkeys(layers, "r r")
    sizes(parts, layout, module=module, where=where, r=config.r)
    build = partial(_product, config=config, module=module)
    return Update(module, parts, build, None, config.r, config.scaling, needs_base=True)


def _product(parts: Parts, base: Tensor | None, *, config: _Config, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    sides(weight, module=module, out=len(found["B"]))
    return product(found["B"], _hidden(weight, found, config).mT, config.scaling)


def _hidden(weight: Tensor, parts: Parts, config: _Config) -> Tensor:
    """(inp, r): through the encoders and back through the decoders, with a bridge from each to its opposite."""
    act = ACTIVATIONS[config.act_fn]
    state = act(weight.mT @ parts["A"].mT)
    bridges = []
    for i in range(config.depth):
        bridges.append(state)
        state = act(state @ parts[f"encoders.{i}"].mT)
    for i in range(config.depth):
        state = act(state @ parts[f"decoders.{i}"].mT) + bridges.pop()
    return state
