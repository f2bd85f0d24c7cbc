"""TinyLoRA: ΔW = B (Σ vᵢ Pᵢ) A, of the base's leading triplets, random Pᵢ and a v that several modules share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import bounded, float64, one_of, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, Seed, Tensors, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {f"tinylora_{part}": part for part in "ABP"}
_VECTOR = re.compile(r"base_model\.(tinylora_v\.(?:0|[1-9][0-9]{0,5}))")
_SAME = 0.02  # of its norm: what two draws of one P may differ by, on other machines or rounded to 16 bits


class _Config(PeftConfig):
    r: Positive
    u: Positive
    weight_tying: Annotated[float, Field(ge=0, le=1)] = 0.0
    projection_seed: Seed = 42


@dataclass(frozen=True)
class _Groups:
    """Which v belongs to which module, counted as the model's code defines them."""

    modules: int
    count: int
    seed: int

    def of(self, module: int) -> int:
        return min(module // max(1, self.modules // self.count), self.count - 1)


def parse_tinylora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT TinyLoRA adapter; AdapterError where its files do not tell which v is whose."""
    config = config_of(files, _Config)
    names = [match[1] for name in files.weights.entries if (match := _VECTOR.fullmatch(name))]
    shared = {name: name.removeprefix("tinylora_") for name in names}
    tensors = sorted_tensors(files, _STEMS, kind="TinyLoRA", marker="tinylora_", shared=shared)
    groups = _groups(files.name, tensors, config)
    updates = [
        _update(files.name, module, {**parts, **tensors.shared}, config, groups)
        for module, parts in sorted(tensors.modules.items())
    ]
    ranks = spread([update.rank for update in updates if update.rank is not None] or [config.r])
    return adapter_of(files, config, updates, tensors, kind="TINYLORA", method=f"TinyLoRA r={ranks}")


def _groups(where: str, tensors: Tensors, config: _Config) -> _Groups:
    modules = len(tensors.modules)
    count = max(1, round(modules * (1 - config.weight_tying)))
    if modules and set(tensors.shared) != {f"v.{i}" for i in range(count)}:
        raise AdapterError(
            f"{where}: {modules} modules with weight_tying {config.weight_tying} share {count} vectors tinylora_v, "
            f"but it has {len(tensors.shared)}"
        )
    if modules > 1 and any("P" not in parts for parts in tensors.modules.values()):
        raise AdapterError(
            f"{where}: its projections were not saved, and peft draws them in the order in which the model's code "
            "defines its modules, which is in no file; save it with save_projection=True"
        )
    return _Groups(modules, count, config.projection_seed)


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config, groups: _Groups) -> Update:
    vectors = {f"v.{i}": "u" for i in range(groups.count)}
    layout = {"A": "r inp", "B": "out r", **({"P": "u r r"} if "P" in parts else {}), **vectors}
    found = sizes(parts, layout, module=module, where=where, u=config.u)
    shape = found["out"], found["inp"]
    one_of(found["r"], {min(config.r, *shape)}, field="r", module=module, where=where)
    ordered = {name: parts[name] for name in layout}
    return Update(module, ordered, partial(_product, module=module, groups=groups), shape, found["r"])


def _product(parts: Parts, _base: Tensor | None, *, module: str, groups: _Groups) -> Operator:
    wide = float64(parts)
    a, b = wide["A"], wide["B"]
    u, r = len(wide["v.0"]), len(a)
    bounded(u * r * r, "a random projection", module=module)
    stored = wide["P"] if "P" in wide else _projection(groups.seed, u, r).to(a)
    index = 0 if groups.count == 1 else _index(stored, groups, module)
    return LowRank(b @ torch.einsum("i,ijk->jk", wide[f"v.{groups.of(index)}"], stored), a)


def _index(stored: Tensor, groups: _Groups, module: str) -> int:
    """Which module it is, counted as the model's code does: peft seeds P with that number, so P tells it."""
    u, r, _ = stored.shape
    for index in range(groups.modules):
        if torch.dist(stored, _projection(groups.seed + index, u, r).to(stored)) < _SAME * stored.norm():
            return index
    raise AdapterError(
        f"{module[:80]!r}: its projection P is that of no seed from projection_seed on, so which of the vectors "
        "tinylora_v is its own cannot be told"
    )


def _projection(seed: int, u: int, r: int) -> Tensor:
    return torch.normal(0.0, r**-0.5, (u, r, r), generator=torch.Generator().manual_seed(seed))
