"""PEFT LoRA on linear layers: ΔW = s · B A with s = alpha / r, or alpha / sqrt(r) for rsLoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.patterns import first_match
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, adapter_of, config_of, need, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {"lora_A": "lora_A", "lora_B": "lora_B"}

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


class _Config(PeftConfig):
    """The fields of adapter_config.json that the maths of LoRA depends on."""

    r: Positive
    lora_alpha: Finite
    use_rslora: bool = False
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    alpha_pattern: dict[str, Finite] = Field(default_factory=dict)
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | str = True

    def scale(self, module: str, rank: int) -> float:
        alpha = first_match(self.alpha_pattern, module, self.lora_alpha, field="alpha_pattern")
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def parse_lora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT LoRA adapter; AdapterError where config and tensors contradict each other."""
    _refuse_unsupported(files)
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="LoRA", marker="lora_")
    updates = tuple(_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items()))
    if not updates:
        raise AdapterError(f"{files.name}: holds no lora_A and lora_B tensors, so it changes nothing")
    return adapter_of(
        files,
        config,
        updates,
        tensors,
        kind="LORA",
        method=_method(updates, config),
        facts={
            "alpha": config.lora_alpha,
            "scale_rule": "alpha / sqrt(r)" if config.use_rslora else "alpha / r",
            "initialisation": str(config.init_lora_weights),
        },
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


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    need(parts, ("lora_A", "lora_B"), module=module, where=where)
    a, b = parts["lora_A"], parts["lora_B"]
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise AdapterError(
            f"{where}: module {module!r} is no linear layer (lora_A {a.shape}, lora_B {b.shape}); not supported yet"
        )
    rank = first_match(config.rank_pattern, module, config.r, field="rank_pattern")
    if a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterError(
            f"{where}: module {module!r} has lora_A {a.shape} and lora_B {b.shape}, but adapter_config.json gives "
            f"it rank {rank}; the scale would be wrong, so one of the two must be mended"
        )
    scale = config.scale(module, rank)
    return Update(module, parts, partial(_product, scale=scale), (b.shape[0], a.shape[1]), rank, scale)


def _product(parts: Parts, _base: Tensor | None, *, scale: float) -> Operator:
    return LowRank(parts["lora_B"], parts["lora_A"], scale)


def _method(updates: tuple[Update, ...], config: _Config) -> str:
    ranks = spread(update.rank for update in updates if update.rank is not None)
    return f"{'rsLoRA' if config.use_rslora else 'LoRA'} r={ranks}"
