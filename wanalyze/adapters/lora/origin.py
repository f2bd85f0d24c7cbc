"""Where an adapter comes from: what its config tells of the tool that wrote it."""

from __future__ import annotations

from collections.abc import Mapping

# The peft that introduced a field of the config. Since 0.18 it signs with its version.
_SINCE = (
    ("target_parameters", "0.17"),
    ("use_qalora", "0.16"),
    ("trainable_token_indices", "0.15"),
    ("exclude_modules", "0.14"),
    ("layer_replication", "0.10"),
    ("use_dora", "0.9"),
    ("use_rslora", "0.8"),
    ("loftq_config", "0.7"),
    ("rank_pattern", "0.6"),
    ("layers_to_transform", "0.4"),
    ("init_lora_weights", "0.3"),
)
_UNSLOTH = "unsloth"


def origin_of(config: Mapping[str, object]) -> dict[str, object]:
    """Facts on the training tool, as far as signs of it are left.

    >>> origin_of({"base_model_name_or_path": "unsloth/llama-3-8b-bnb-4bit", "use_rslora": False, "r": 8})
    {'trained_with': 'unsloth', 'peft_version': '0.8 or later, by the fields of its config'}
    """
    found: dict[str, object] = {}
    if _is_unsloth(config):
        found["trained_with"] = _UNSLOTH
    if config.get("peft_version") is None:
        newest = next((version for field, version in _SINCE if field in config), None)
        found |= {} if newest is None else {"peft_version": f"{newest} or later, by the fields of its config"}
    return found


def _is_unsloth(config: Mapping[str, object]) -> bool:
    mapping, base = config.get("auto_mapping"), config.get("base_model_name_or_path")
    is_patched = isinstance(mapping, Mapping) and bool(mapping.get("unsloth_fixed"))
    return is_patched or (isinstance(base, str) and base.startswith(f"{_UNSLOTH}/"))


def targets_of(config: Mapping[str, object]) -> dict[str, object]:
    """What the config asks to be adapted, as it puts it: names, or a pattern."""
    return {
        field: sorted(map(str, value))[:100] if isinstance(value, list) else str(value)[:200]
        for field in ("target_modules", "target_parameters")
        if (value := config.get(field))
    }
