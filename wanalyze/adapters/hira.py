"""HiRA: ΔW = W ⊙ (B A), of full rank whatever r is. Huang et al., 2025."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import wide
from wanalyze.adapters.layout import one_of, sides, sizes
from wanalyze.adapters.patterns import first_match
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.operators import Dense

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {name: name for name in ("hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B")}
_KERNEL = ["height", "width", "depth"]


class _Config(PeftConfig):
    r: Positive = 32
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)

    def ranks(self, module: str) -> set[int]:
        """Peft 0.21 reads rank_pattern and then takes r all the same; no scale hangs on it."""
        return {self.r, first_match(self.rank_pattern, module, self.r, field="rank_pattern")}


def parse_hira(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT HiRA adapter."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="HiRA", marker="hira_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    ranks = spread([next(iter(update.parts.values())).shape[0] for update in updates] or [config.r])
    return adapter_of(files, config, updates, tensors, kind="HIRA", method=f"HiRA r={ranks}")


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    if "hira_embedding_A" in parts:  # A is over the tokens
        layout = {"hira_embedding_A": "r out", "hira_embedding_B": "inp r"}
    else:
        kernel = _KERNEL[: len(parts["hira_A"].shape) - 2] if "hira_A" in parts else []
        layout = {"hira_A": " ".join(["r inp", *kernel]), "hira_B": " ".join(["out r", *("one" for _ in kernel)])}
    found = sizes(parts, layout, module=module, where=where, one=1)
    one_of(found["r"], config.ranks(module), field="r", module=module, where=where)
    shape = found["out"], found["inp"]
    for name in _KERNEL:
        shape = shape[0], shape[1] * found.get(name, 1)
    return Update(
        module, {name: parts[name] for name in layout}, partial(_modulate, module=module), shape, needs_base=True
    )


def _modulate(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    if "hira_embedding_A" in found:
        product = (found["hira_embedding_B"] @ found["hira_embedding_A"]).mT
    else:
        product = found["hira_B"].flatten(1) @ found["hira_A"].flatten(1)
    sides(weight, module=module, out=product.shape[0], inp=product.shape[1])
    return Dense(weight * product)
