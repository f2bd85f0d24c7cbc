"""The configs of peft that diffusers keeps in a file's metadata, one for each component of the pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from wanalyze.adapters.foreign.components import local
from wanalyze.adapters.foreign.configs import Fields, Number, fields_of
from wanalyze.adapters.lora.config import HARMLESS_STARTS
from wanalyze.adapters.patterns import first_match
from wanalyze.adapters.peft import Positive
from wanalyze.checkpoints import AdapterFiles
from wanalyze.checkpoints.strict_json import parse_object
from wanalyze.errors import AdapterError

_KEY = "lora_adapter_metadata"


class _Config(Fields):
    r: Positive
    lora_alpha: Number
    use_rslora: bool = False
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    alpha_pattern: dict[str, Number] = Field(default_factory=dict)
    init_lora_weights: bool | str = True


@dataclass(frozen=True)
class Scales:
    """Configs by component, whose names are those that modules begin with."""

    where: str
    configs: Mapping[str, _Config]

    def alpha(self, module: str, *, rank: int, stored: float | None) -> float | None:
        """The alpha that gives the module the scale of its config; None where there is neither config nor tensor."""
        component = module.partition(".")[0]
        config = self.configs.get(component)
        if config is None:
            return stored
        name = local(module).name
        expected = first_match(config.rank_pattern, name, config.r, field="rank_pattern")
        if expected != rank:
            raise AdapterError(
                f"{self.where}: module {module[:80]!r} has rank {rank}, {_KEY} gives it {expected}; "
                "the scale would be wrong, so one of the two must be mended"
            )
        alpha = first_match(config.alpha_pattern, name, config.lora_alpha, field="alpha_pattern")
        alpha *= math.sqrt(rank) if config.use_rslora else 1.0
        if stored is not None and not math.isclose(stored, alpha, rel_tol=1e-3):
            raise AdapterError(
                f"{self.where}: module {module[:80]!r} has alpha {stored:g}, {_KEY} gives it {alpha:g}; "
                "one of the two must be mended"
            )
        return alpha


def scales_in(files: AdapterFiles) -> Scales | None:
    """What the metadata of a file says of its scales; None where it says nothing."""
    text = files.weights.metadata.get(_KEY)
    if text is None:
        return None
    where = f"{files.name}: {_KEY}"
    grouped: dict[str, dict[str, object]] = {}
    for key, value in parse_object(text.encode("utf-8"), where=where).items():
        component, dot, field = key.partition(".")
        if dot:
            grouped.setdefault(component, {})[field] = value
    configs = {name: fields_of(values, _Config, where=f"{where}: {name[:40]}") for name, values in grouped.items()}
    for config in configs.values():
        start = str(config.init_lora_weights).lower()
        if start not in HARMLESS_STARTS:
            raise AdapterError(
                f"{where}: init_lora_weights {start[:40]!r} changes the base, so its ΔW is not s·B·A alone; convert it "
                "with peft's path_initial_model_for_weight_conversion"
            )
    return Scales(files.name, configs)
