"""LoHa: ΔW = s · (A₁B₁) ⊙ (A₂B₂) with s = alpha / r. Hyeon-Woo et al., FedPara, 2022."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import are_smaller, float64, sizes
from wanalyze.adapters.lycoris import LycorisConfig, core
from wanalyze.adapters.peft import adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.operators import Dense, LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")}
_FLAT = {"hada_w1_a": "out r", "hada_w1_b": "r inp", "hada_w2_a": "out r", "hada_w2_b": "r inp"}
# A kernel as a Tucker product; peft gives that of a Conv1d a second side of 1.
_KERNEL = {name: f"r {'out' if name[-1] == 'a' else 'inp'}" for name in _FLAT}
_KERNEL |= {"hada_t1": "r r height width", "hada_t2": "r r height width"}


def parse_loha(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT LoHa adapter."""
    config = config_of(files, LycorisConfig)
    tensors = sorted_tensors(files, _STEMS, kind="LoHa", marker="hada_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    return adapter_of(
        files,
        config,
        updates,
        tensors,
        kind="LOHA",
        method=f"LoHa r={config.ranks(tensors.modules)}",
        facts=config.facts,
    )


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: LycorisConfig) -> Update:
    layout = _KERNEL if "hada_t1" in parts else _FLAT
    found = sizes(parts, layout, module=module, where=where, r=config.rank(module))
    shape = found["out"], found["inp"] * found.get("height", 1) * found.get("width", 1)
    scale = config.scale(module)
    rank = found["r"] ** 2
    return Update(module, parts, partial(hadamard, scale=scale), shape, rank if rank < min(shape) else None, scale)


def hadamard(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    """The product s · (A₁B₁) ⊙ (A₂B₂), as peft and LyCORIS have it; with `hada_t1` and `hada_t2` of Tucker products."""
    (a1, b1), (a2, b2) = (_factors(float64(parts), i) for i in (1, 2))
    if not are_smaller(a1.shape[1] * a2.shape[1], (len(a1), b1.shape[1])):
        return Dense(scale * (a1 @ b1) * (a2 @ b2))
    # Row by row (a₁ᵀB₁) ⊙ (a₂ᵀB₂) = (a₁ ⊗ a₂)ᵀ (B₁ ⊙ B₂ by columns): r² columns and no product of m x n.
    left = (a1[:, :, None] * a2[:, None, :]).flatten(1)
    return LowRank(left, (b1[:, None] * b2[None]).flatten(0, 1), scale)


def _factors(parts: Mapping[str, Tensor], i: int) -> tuple[Tensor, Tensor]:
    a, b = parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"]
    return (a.mT, core(parts[f"hada_t{i}"], b)) if f"hada_t{i}" in parts else (a, b)
