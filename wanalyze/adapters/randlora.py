"""RandLoRA: ΔW = s · Σ B_b diag(λ_b) A diag(γ_b), full-rank by design. Albert et al., 2025."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import float64, sides, sizes
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

# peft also writes the shared bases once more for every layer.
_STEMS = {"randlora_lambda": "lambda", "randlora_gamma": "gamma", "randlora_A": "A", "randlora_B": "B"}
_SHARED = {"randlora_A": "A", "randlora_B": "B"}
_LAYOUT = {"lambda": "r bases", "gamma": "bases short", "A": "r one shortest", "B": "longest most r"}


class _Config(PeftConfig):
    r: Positive
    randlora_alpha: Finite


def parse_randlora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT RandLoRA adapter."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="RandLoRA", marker="randlora_", shared=_SHARED)
    if tensors.modules and set(tensors.shared) != {"A", "B"}:
        raise AdapterError(
            f"{files.name}: its random bases were not saved, and peft draws them in a dtype that depends on the "
            "machine; save it with save_projection=True"
        )
    scale = config.randlora_alpha / config.r
    updates = [
        _update(files.name, module, {**parts, **tensors.shared}, config.r, scale)
        for module, parts in sorted(tensors.modules.items())
    ]
    facts = {"alpha": config.randlora_alpha, "scale_rule": "alpha / r"}
    return adapter_of(files, config, updates, tensors, kind="RANDLORA", method="RandLoRA", facts=facts)


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], rank: int, scale: float) -> Update:
    found = sizes(parts, _LAYOUT, module=module, where=where, r=rank, one=1)
    if found["bases"] != math.ceil(found["short"] / rank) or found["bases"] > found["most"]:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {found['bases']} bases of rank {rank} for a side of {found['short']} "
            f"and {found['most']} are stored; a base for every {rank} of its short side is needed"
        )
    build = partial(_product, module=module, scale=scale)
    return Update(module, {name: parts[name] for name in _LAYOUT}, build, None, scale=scale, needs_base=True)


def _product(parts: Parts, base: Tensor | None, *, module: str, scale: float) -> Operator:
    out, inp = sides(base, module=module)
    wide = float64(parts)
    bases, short = wide["gamma"].shape
    a, b = wide["A"][:, :1, :short], wide["B"][: max(out, inp), :bases]
    if (min(out, inp), max(out, inp)) != (short, len(b)) or a.shape[2] != short:
        raise AdapterError(
            f"{module[:80]!r}: the base's weight is {out} x {inp}, but the adapter is for a short side of {short} and "
            f"a long one of at most {len(b)}; is this its base?"
        )
    # B counts (base, rank) and A (rank, base) along their common side: so peft multiplies them, in training as well.
    scaled = (wide["lambda"][:, :, None] * a * wide["gamma"]).flatten(0, 1)
    found = scale * (b.flatten(1) @ scaled)
    return Dense(found if short == inp else found.mT)
