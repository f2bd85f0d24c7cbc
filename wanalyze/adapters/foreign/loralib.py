"""Adapters of loralib: `<module>.lora_A` and `.lora_B`, whose scale the file does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from wanalyze.adapters.adapter import Adapter
from wanalyze.adapters.foreign.assembly import assembled
from wanalyze.adapters.foreign.configs import Fields, Number, fields_of
from wanalyze.adapters.foreign.endings import by_endings
from wanalyze.adapters.foreign.groups import grouped
from wanalyze.adapters.foreign.module import Changes, Module
from wanalyze.adapters.foreign.products import by_tokens, is_embedding, product_of
from wanalyze.adapters.peft import Positive
from wanalyze.checkpoints import AdapterFiles, Checkpoint
from wanalyze.errors import AdapterError

if TYPE_CHECKING:
    from wanalyze.adapters.adapter import Update

_ENDINGS = {".lora_A": "down", ".lora_B": "up"}


class _Config(Fields):
    r: Positive
    lora_alpha: Number
    enable_lora: list[bool] = Field(default_factory=list, max_length=16)


def parse_loralib(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a state dict of loralib; an adapter_config.json written for it has r, lora_alpha, enable_lora."""
    if "lora_alpha" not in files.config or "r" not in files.config:
        raise AdapterError(
            f"{files.name}: an adapter of loralib, which stores no alpha, so its scale alpha / r is unknown; put an "
            'adapter_config.json such as {"r": 8, "lora_alpha": 16} beside it'
        )
    config = fields_of(files.config, _Config, where=f"{files.name}: adapter_config.json")
    modules, rest = by_endings(files, _ENDINGS)
    changes = Changes(replaced=dict(rest))  # biases, as lora_state_dict saves them when asked
    for name, parts in modules.items():
        entry = base.entries.get(f"{name}.weight") if base else None
        changes.updates.append(_update(Module(files.name, name, parts, weight=entry.shape if entry else None), config))
        changes.algorithms.append(("LoRA", config.r))
    return assembled(files, changes, tool="loralib", scale_rule="alpha / r, both from adapter_config.json")


def _update(module: Module, config: _Config) -> Update:
    up, down = (module.shape(part, dimensions=(2,)) for part in ("up", "down"))
    scale = config.lora_alpha / config.r
    if up[1] != config.r:
        module.refuse(f"has lora_B {up}, adapter_config.json gives it rank {config.r}; one must be mended")
    if not _is_merged(module, up[0], down[0], config):
        return by_tokens(module, scale) if is_embedding(module.name) else product_of(module, scale)
    count = sum(config.enable_lora)
    if not count or down[0] != count * config.r or up[0] % count:
        module.refuse(
            f"has lora_A {down} and lora_B {up}: of a MergedLinear, enable_lora in adapter_config.json must say which "
            "parts of the weight have an update; kernels (ConvLoRA) are not read"
        )
    size = up[0] // count
    return grouped(module, scale, [size if is_on else -size for is_on in config.enable_lora], config.r)


def _is_merged(module: Module, rows: int, ranks: int, config: _Config) -> bool:
    """Whether the weight is one of several parts; if only one of them was trained, the base's rows tell."""
    if ranks != config.r or sum(config.enable_lora) != 1:
        return ranks != config.r
    return module.weight is not None and rows not in module.weight
