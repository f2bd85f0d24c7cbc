"""The fields of adapter_config.json that the maths of LoRA depends on, and those that nobody here knows."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from wanalyze.adapters.patterns import first_match
from wanalyze.adapters.peft import Finite, PeftConfig, Positive
from wanalyze.checkpoints import AdapterFiles
from wanalyze.errors import AdapterError

Index = Annotated[int, Field(ge=0, strict=True)]
TokenIndices = list[Index] | dict[str, list[Index]]

# Fields of a variant, each with the name users know; peft accepts one of them at a time.
_VARIANTS = {
    "use_dora": "DoRA",
    "kasa_config": "KaSA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "aLoRA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
}
# Values of init_lora_weights that leave the base as it is.
HARMLESS_STARTS = frozenset({"true", "false", "gaussian", "eva", "orthogonal", "mica"})
# Those of peft 0.2 to 0.21 that change no update, or are read elsewhere. What is new may change the maths.
_KNOWN_OPTIONS = {
    *("use_rslora", "use_dora", "use_qalora", "use_bdlora", "megatron_config", "loftq_config", "runtime_config"),
    *("eva_config", "corda_config", "arrow_config", "lora_ga_config", "velora_config", "monteclora_config"),
    "kasa_config",
}


class BlockDiagonal(BaseModel):
    """BD-LoRA: of which modules A, or B, is stored as the blocks of a block-diagonal matrix."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    nblocks: Positive = 1
    target_modules_bd_a: list[str] | None = None
    target_modules_bd_b: list[str] | None = None

    def side(self, module: str) -> Literal["lora_A", "lora_B"] | None:
        """Which factor of a module is one; peft looks for the patterns anywhere in the name."""
        in_a = any(pattern in module for pattern in self.target_modules_bd_a or ())
        in_b = any(pattern in module for pattern in self.target_modules_bd_b or ())
        if in_a and in_b:
            raise AdapterError(f"adapter_config.json: use_bdlora makes both factors of {module[:80]!r} block-diagonal")
        return "lora_A" if in_a else "lora_B" if in_b else None


class LoraConfig(PeftConfig):
    """The fields of adapter_config.json that the maths of LoRA depends on."""

    r: Positive
    lora_alpha: Finite
    use_rslora: bool = False
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    alpha_pattern: dict[str, Finite] = Field(default_factory=dict)
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | str = True
    use_dora: bool = False
    lora_bias: bool = False
    use_qalora: bool = False
    qalora_group_size: Positive = 16
    use_bdlora: BlockDiagonal | None = None
    kasa_config: dict[str, object] | None = None
    alora_invocation_tokens: list[Index] = Field(default_factory=list)
    enable_lora: list[bool] = Field(default_factory=list, max_length=8)
    layer_replication: list[tuple[Index, Index]] = Field(default_factory=list, max_length=4096)
    target_parameters: list[str] = Field(default_factory=list, max_length=4096)
    trainable_token_indices: TokenIndices = Field(default_factory=list)
    ensure_weight_tying: bool = False

    def rank(self, module: str) -> int:
        return first_match(self.rank_pattern, module, self.r, field="rank_pattern")

    def scale(self, module: str, rank: int) -> float:
        alpha = first_match(self.alpha_pattern, module, self.lora_alpha, field="alpha_pattern")
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def variant_of(files: AdapterFiles) -> str | None:
    """The name of the one variant of LoRA that the config asks for; AdapterError for a mixture and for Arrow."""
    asked = [name for field, name in _VARIANTS.items() if _is_set(files.config.get(field), field)]
    if len(asked) > 1:
        raise AdapterError(f"{files.name}: adapter_config.json asks for {' and '.join(asked)} at once, peft knows one")
    if asked == ["Arrow"]:
        raise AdapterError(
            f"{files.name}: is an Arrow router, which chooses among other adapters for every token (arrow_config); "
            "it has no one update of a weight, so compare the adapters it chooses from"
        )
    return asked[0] if asked else None


def _is_set(value: object, field: str) -> bool:
    return value is not None if field == "kasa_config" else bool(value)


def refuse_unknown(files: AdapterFiles) -> None:
    """Refuse an option that is switched on and unknown: a variant of LoRA that came after this was written."""
    for field, value in files.config.items():
        is_option = field.startswith("use_") or field.endswith("_config")
        if is_option and value and field not in _KNOWN_OPTIONS:
            raise AdapterError(
                f"{files.name}: adapter_config.json sets {field[:80]!r}, an option of LoRA that is not known here; its "
                "update may be more than s·B·A, so it is not compared"
            )
