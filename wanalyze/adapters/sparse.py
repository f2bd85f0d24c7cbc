"""Updates of a few chosen entries: SHiRA (Bhardwaj et al., 2024) and Super-tuning, which may add a LoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.layout import float64, positions, sides, sizes
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_SHIRA = {"weight": "count", "indices": "two count"}
_SUPER = {"values": "count", "indices": "count"}
_LORA = {"lora_A": "r inp", "lora_B": "out r"}


class _Super(PeftConfig):
    r: Positive | None = None
    lora_alpha: Finite | None = None

    @property
    def scale(self) -> float | None:
        if self.r is None:
            return None
        return (2 * self.r if self.lora_alpha is None else self.lora_alpha) / self.r


def parse_shira(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT SHiRA adapter."""
    config = config_of(files, PeftConfig)
    stems = {f"shira_{part}": part for part in _SHIRA}
    tensors = sorted_tensors(files, stems, kind="SHiRA", marker="shira_")
    updates = []
    for module, parts in sorted(tensors.modules.items()):
        sizes(parts, _SHIRA, module=module, where=files.name, two=2)
        ordered = {name: parts[name] for name in _SHIRA}
        updates.append(Update(module, ordered, partial(_by_pairs, module=module), None, needs_base=True))
    return adapter_of(files, config, updates, tensors, kind="SHIRA", method="SHiRA")


def parse_supertuning(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT Super-tuning adapter that was saved with its indices; AdapterError without them."""
    config = config_of(files, _Super)
    stems = {f"supertuning_{part}": part for part in (*_SUPER, *_LORA)}
    tensors = sorted_tensors(files, stems, kind="Super-tuning", marker="supertuning_")
    updates = [_super(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    method = "Super-tuning" if config.r is None else f"Super-tuning + LoRA r={config.r}"
    return adapter_of(files, config, updates, tensors, kind="SUPERTUNING", method=method)


def _super(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Super) -> Update:
    if "indices" not in parts:
        raise AdapterError(
            f"{where}: the indices of module {module[:80]!r} were not saved, and which of equally large weights torch "
            "picks first is in no file; save it with save_precomputed_indices=True"
        )
    layout = _SUPER if config.r is None else _SUPER | _LORA
    sizes(parts, layout, module=module, where=where, **({} if config.r is None else {"r": config.r}))
    build = partial(_by_places, module=module, scale=config.scale)
    return Update(module, {name: parts[name] for name in layout}, build, None, scale=config.scale, needs_base=True)


def _by_pairs(parts: Parts, base: Tensor | None, *, module: str) -> Operator:
    out, inp = sides(base, module=module)
    rows, columns = (
        positions(row, size, module=module) for row, size in zip(parts["indices"], (out, inp), strict=True)
    )
    return Dense(_scattered(parts, "weight", rows * inp + columns, (out, inp)))


def _by_places(parts: Parts, base: Tensor | None, *, module: str, scale: float | None) -> Operator:
    shape = sides(base, module=module)
    found = _scattered(parts, "values", positions(parts["indices"], math.prod(shape), module=module), shape)
    if scale is None:
        return Dense(found)
    wide = float64({name: parts[name] for name in _LORA})
    sides(base, module=module, out=len(wide["lora_B"]), inp=wide["lora_A"].shape[1])
    return Dense(found.addmm(wide["lora_B"], wide["lora_A"], alpha=scale))


def _scattered(parts: Parts, name: str, places: Tensor, shape: tuple[int, int]) -> Tensor:
    values = float64({name: parts[name]})[name]
    return values.new_zeros(math.prod(shape)).index_add_(0, places, values).reshape(shape)
