"""What an adapter does to a weight. One file per family, one row of KINDS each; opens no files itself."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from wanalyze.adapters.adapter import Adapter, Shift, Update
from wanalyze.adapters.lora import parse_lora
from wanalyze.checkpoints import AdapterFiles, Checkpoint
from wanalyze.errors import AdapterError

__all__ = ["KINDS", "Adapter", "Shift", "Update", "parse_adapter"]

KINDS: MappingProxyType[str, Callable[[AdapterFiles, Checkpoint | None], Adapter]] = MappingProxyType(
    {"LORA": parse_lora}
)

_WITHOUT_UPDATE = {
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "ADAPTION_PROMPT",
    "CPT",
    "CARTRIDGE",
    "XLORA",
    "POLY",
}


def parse_adapter(files: AdapterFiles, base: Checkpoint | None = None) -> Adapter:
    """Understand an adapter by the row of its peft_type; AdapterError for every other kind, by name.

    Some kinds need the names or shapes of the base's weights: without a `base` they say so.
    """
    kind = files.config.get("peft_type")
    if not isinstance(kind, str):
        raise AdapterError(
            f"{files.name}: adapter_config.json has no peft_type; only adapters saved by peft are supported yet"
        )
    if kind in _WITHOUT_UPDATE:
        raise AdapterError(f"{files.name}: peft_type {kind} has no update of a weight, so there is nothing to compare")
    if kind not in KINDS:
        raise AdapterError(f"{files.name}: peft_type {kind[:40]} is not supported yet; known: {', '.join(KINDS)}")
    return KINDS[kind](files, base)
