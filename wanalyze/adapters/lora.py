"""PEFT LoRA on linear layers: ΔW = s · B A with s = alpha / r, or alpha / sqrt(r) for rsLoRA."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wanalyze.adapters.adapter import Adapter
from wanalyze.adapters.patterns import first_match
from wanalyze.checkpoints import AdapterFiles, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.[^.]+)?\.weight")
_PREFIX = "base_model.model."
_WRAPPER = re.compile(r"\.(?:base_layer|modules_to_save\.[^.]+|modules_to_save)(?=\.[^.]+$)")

# Parts of LoRA that change the maths and are not read yet: refused rather than ignored.
_UNSUPPORTED_FIELDS = {
    "use_dora": "DoRA",
    "lora_bias": "a bias on lora_B",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "aLoRA, active only after its invocation tokens,",
    "arrow_config": "an Arrow router",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "target_parameters": "LoRA on raw parameters (target_parameters)",
    "trainable_token_indices": "trainable tokens",
    "enable_lora": "the grouped LoRA of peft 0.2 (enable_lora)",
    "loftq_config": "LoftQ, which changes the base,",
    "corda_config": "CorDA, which changes the base,",
    "lora_ga_config": "LoRA-GA, which changes the base,",
}
_UNSUPPORTED_TENSORS = {
    "lora_embedding_": "LoRA on an embedding",
    "lora_magnitude_vector": "DoRA",
    "lora_B.bias": "a bias on lora_B",
    "lora_diag": "KaSA",
    "trainable_tokens": "trainable tokens",
}
_HARMLESS_INITS = {"gaussian", "eva", "orthogonal", "mica", "true", "false"}

_Positive = Annotated[int, Field(gt=0, strict=True)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Config(BaseModel):
    """The fields of adapter_config.json that the maths of LoRA depends on."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    r: _Positive
    lora_alpha: _Finite
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, _Positive] = {}
    alpha_pattern: dict[str, _Finite] = {}
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: list[str] = []
    init_lora_weights: bool | str = True
    base_model_name_or_path: str | None = None
    peft_version: str | None = None

    def scale(self, module: str, rank: int) -> float:
        alpha = first_match(self.alpha_pattern, module, self.lora_alpha, field="alpha_pattern")
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class LoraUpdate:
    """The factors of one module: `b` (out, r), `a` (r, in)."""

    module: str
    b: TensorEntry
    a: TensorEntry
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def dtype(self) -> str:
        return self.a.dtype.name

    @property
    def size(self) -> int:
        return self.a.size + self.b.size

    def read(self) -> LowRank:
        return LowRank(self.b.read(), self.a.read(), self.scale)


def parse_lora(files: AdapterFiles) -> Adapter:
    """The updates of a PEFT LoRA adapter; AdapterError where config and tensors contradict each other."""
    _refuse_unsupported(files)
    config = _config(files)
    factors, replaced = _sorted_tensors(files)
    updates = tuple(_update(files.name, module, pair, config) for module, pair in sorted(factors.items()))
    if not updates:
        raise AdapterError(f"{files.name}: holds no lora_A and lora_B tensors, so it changes nothing")
    return Adapter(
        name=files.name,
        method=_method(updates, config),
        updates=updates,
        replaced=replaced,
        input_first=config.fan_in_fan_out,
        facts=_facts(updates, replaced, config),
        trained_parameters=sum(math.prod(entry.shape) for entry in files.weights.entries.values()),
    )


def _refuse_unsupported(files: AdapterFiles) -> None:
    for field, what in _UNSUPPORTED_FIELDS.items():
        if files.config.get(field):
            raise AdapterError(f"{files.name}: {what} is not supported yet ({field} in adapter_config.json)")
    init = files.config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _HARMLESS_INITS:
        raise AdapterError(
            f"{files.name}: init_lora_weights {init[:40]!r} changes the base, so its ΔW is not s·B·A alone; "
            "not supported yet (peft can convert it: path_initial_model_for_weight_conversion)"
        )
    for name in files.weights.entries:
        for sign, what in _UNSUPPORTED_TENSORS.items():
            if sign in name:
                raise AdapterError(f"{files.name}: {what} is not supported yet (tensor {name!r})")


def _config(files: AdapterFiles) -> _Config:
    # peft writes null for what was left at its default, and some versions leave such fields out.
    given = {key: value for key, value in files.config.items() if value is not None}
    try:
        return _Config.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][:2])
        value = "" if first["type"] == "missing" else f" is {str(first['input'])[:60]!r}"
        raise AdapterError(
            f"{files.name}: adapter_config.json: {field}{value}: {first['msg'][:1].lower()}{first['msg'][1:]}; "
            "the scale of the update depends on it"
        ) from None


def _sorted_tensors(
    files: AdapterFiles,
) -> tuple[dict[str, dict[str, TensorEntry]], dict[str, TensorEntry]]:
    factors: dict[str, dict[str, TensorEntry]] = {}
    replaced: dict[str, TensorEntry] = {}
    for name, entry in files.weights.entries.items():
        plain = name.removeprefix(_PREFIX)
        if found := _FACTOR.fullmatch(plain):
            pair = factors.setdefault(found["module"], {})
            if found["factor"] in pair:
                raise AdapterError(f"{files.name}: two tensors are lora_{found['factor']} of {found['module']!r}")
            pair[found["factor"]] = entry
        elif "lora_" in plain:
            raise AdapterError(f"{files.name}: tensor {name!r} is no part of LoRA that wanalyze knows")
        elif ".original_module." not in plain:  # peft's copy of what a saved module replaces
            replaced[_WRAPPER.sub("", plain)] = entry
    both = next((module for module in factors if f"{module}.weight" in replaced), None)
    if both is not None:
        raise AdapterError(f"{files.name}: {both!r} has lora factors and a whole weight; only one can be meant")
    return factors, replaced


def _update(name: str, module: str, pair: Mapping[str, TensorEntry], config: _Config) -> LoraUpdate:
    for factor, other in (("A", "B"), ("B", "A")):
        if factor not in pair:
            raise AdapterError(f"{name}: module {module!r} has lora_{other} but no lora_{factor}; save it again")
    a, b = pair["A"], pair["B"]
    if 0 in (*a.shape, *b.shape):
        raise AdapterError(
            f"{name}: module {module!r} has an empty factor (lora_A {a.shape}, lora_B {b.shape}), as ZeRO-3 "
            "leaves when weights are not gathered; save it again"
        )
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise AdapterError(
            f"{name}: module {module!r} is no linear layer (lora_A {a.shape}, lora_B {b.shape}); not supported yet"
        )
    rank = first_match(config.rank_pattern, module, config.r, field="rank_pattern")
    if a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterError(
            f"{name}: module {module!r} has lora_A {a.shape} and lora_B {b.shape}, but adapter_config.json gives "
            f"it rank {rank}; the scale would be wrong, so one of the two must be mended"
        )
    return LoraUpdate(module, b, a, config.scale(module, rank))


def _method(updates: tuple[LoraUpdate, ...], config: _Config) -> str:
    ranks = sorted({update.rank for update in updates})
    spread = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"
    return f"{'rsLoRA' if config.use_rslora else 'LoRA'} r={spread}"


def _facts(updates: tuple[LoraUpdate, ...], replaced: Mapping[str, TensorEntry], config: _Config) -> dict[str, object]:
    return {
        "kind": "LORA",
        "ranks": dict(sorted(Counter(update.rank for update in updates).items())),
        "scales": dict(sorted(Counter(update.scale for update in updates).items())),
        "scale_rule": "alpha / sqrt(r)" if config.use_rslora else "alpha / r",
        "alpha": config.lora_alpha,
        "modules": len(updates),
        "saved_whole": sorted(replaced),
        "base_model": config.base_model_name_or_path,
        "peft_version": config.peft_version,
    }
