"""RoAd: W' = R W and b' = R b, where R turns and stretches pairs of outputs. Liao and Monz, 2024."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Shift, Update
from wanalyze.adapters.based import may_have_bias, wide
from wanalyze.adapters.layout import float64, sides, sizes
from wanalyze.adapters.peft import PeftConfig, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {"road_theta": "road_theta", "road_alpha": "road_alpha"}
_HALVES_OF_OUTPUTS = {"road_1": 1, "road_2": 2, "road_4": 4}  # how many angles there are for two outputs


class _Config(PeftConfig):
    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    group_size: Annotated[int, Field(gt=0, multiple_of=2, strict=True)] = 64


def parse_road(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT RoAd adapter, and the biases that it turns with the outputs."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="RoAd", marker="road_")
    modules = sorted(tensors.modules.items())
    updates = [_update(files.name, module, parts, config) for module, parts in modules]
    shifts = [
        Shift(f"{module}.bias", parts, partial(_turn_bias, config=config, module=module))
        for module, parts in modules
        if may_have_bias(base, module)
    ]
    return adapter_of(files, config, updates, tensors, kind="ROAD", method=f"RoAd ({config.variant})", shifts=shifts)


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    found = sizes(parts, {name: "angles" for name in _STEMS}, module=module, where=where)
    out, rest = divmod(2 * found["angles"], _HALVES_OF_OUTPUTS[config.variant])
    if rest or out % config.group_size:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {found['angles']} angles, which are no whole groups of "
            f"{config.group_size} outputs (variant and group_size in adapter_config.json)"
        )
    return Update(module, parts, partial(_turn, config=config, out=out, module=module), None, needs_base=True)


def _turn(parts: Parts, base: Tensor | None, *, config: _Config, out: int, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    sides(weight, module=module, out=out)
    return Dense(_turned(weight, found, config) - weight)


def _turn_bias(parts: Parts, base: Tensor, *, config: _Config, module: str) -> Tensor:
    angles = parts["road_theta"].numel()
    if base.ndim != 1 or 2 * angles != _HALVES_OF_OUTPUTS[config.variant] * len(base):
        raise AdapterError(f"{module[:80]!r}: {angles} angles for a bias of shape {tuple(base.shape)}")
    return _turned(widened(base, torch.float64)[:, None], float64(parts), config)[:, 0]


def _turned(weight: Tensor, parts: Parts, config: _Config) -> Tensor:
    """R · weight, `weight` of any number of columns: output i is paired with i + group / 2 of its group."""
    own, other = _entries(parts["road_theta"], parts["road_alpha"], config)
    first, second = weight.reshape(-1, 2, config.group_size // 2, weight.shape[1]).unbind(1)
    crossed = torch.stack([-second, first], dim=1).reshape(weight.shape)
    return own[:, None] * weight + other[:, None] * crossed


def _entries(theta: Tensor, alpha: Tensor, config: _Config) -> tuple[Tensor, Tensor]:
    """Of every row of R, the entry on the diagonal and that of the output it is paired with."""
    if config.variant == "road_1":  # one angle for both outputs of a pair
        theta, alpha = (
            part.reshape(-1, 1, config.group_size // 2).expand(-1, 2, -1).flatten() for part in (theta, alpha)
        )
    if config.variant == "road_4":  # one for each entry
        angles, stretches = (part.reshape(-1, 2, config.group_size) for part in (theta, alpha))
        own, other = stretches[:, 0] * angles[:, 0].cos(), stretches[:, 1] * angles[:, 1].sin()
        return own.flatten(), other.flatten()
    return alpha * theta.cos(), alpha * theta.sin()
