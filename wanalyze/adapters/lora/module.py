"""One module of a LoRA adapter: its tensors checked against the config, and its update put together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from wanalyze.adapters.adapter import Shift, Update
from wanalyze.adapters.dora import directed
from wanalyze.adapters.lora import build
from wanalyze.adapters.lora.config import LoraConfig
from wanalyze.adapters.lora.initial import taken_by
from wanalyze.adapters.lora.layer import Layer, layer_of
from wanalyze.adapters.lora.names import Place, place_of, stored_shape
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.errors import AdapterError

MAGNITUDE, BIAS, DIAGONAL = "lora_magnitude_vector", "lora_B.bias", "lora_diag"
# Parts that a field of the config asks for, and that are nothing without it.
_ASKED = {MAGNITUDE: "use_dora", BIAS: "lora_bias", DIAGONAL: "kasa_config"}
IN_PROJ = "in_proj_weight"


@dataclass(frozen=True)
class Context:
    """What all modules of an adapter share: `start` is the initialisation that the base undoes, if any."""

    where: str
    config: LoraConfig
    start: str | None
    modules: Collection[str]
    base: Checkpoint | None


@dataclass(frozen=True)
class Made:
    """What a module does, and the rank that the config gives it, whatever that of its update is."""

    update: Update
    rank: int
    shifts: tuple[Shift, ...] = ()
    has_bias: bool = False
    is_grouped: bool = False


def made_of(module: str, parts: Mapping[str, TensorEntry], context: Context) -> Made:
    """The update of one module, and of its bias where that has one."""
    config, where = context.config, context.where
    place = place_of(where, module, context.modules)
    rank = config.rank(place.key)
    scale = config.scale(place.key, rank)
    layer = layer_of(where, module, parts, rank, config)
    _check(where, module, parts, layer, rank, config)
    own = {name: entry for name, entry in parts.items() if name != BIAS}
    plain = partial(build.product, factors=layer.factors, scale=scale)
    update = Update(place.module, own, plain, layer.shape, layer.rank, scale, parameter=place.parameter)
    update = _with_start(update, layer, rank, scale, context)
    update = _pooled(update, layer, scale, config)
    update = _with_direction(update, layer, where)
    update = _beside(update, layer, context)
    return Made(update, rank, _shifts(place, parts, scale), BIAS in parts, layer.is_grouped)


def _check(
    where: str, module: str, parts: Mapping[str, TensorEntry], layer: Layer, rank: int, config: LoraConfig
) -> None:
    """Every part that the config asks for is there, no other, and all of the right size."""
    is_asked = {
        MAGNITUDE: config.use_dora,
        BIAS: config.lora_bias and layer.kind != "embedding",
        DIAGONAL: config.kasa_config is not None,
    }
    sizes = {MAGNITUDE: layer.magnitudes, BIAS: layer.shape[0], DIAGONAL: rank}
    for part, field in _ASKED.items():
        if (part in parts) != is_asked[part]:
            what = f"{part}, which needs {field}" if part in parts else f"no {part} in spite of {field}"
            raise AdapterError(f"{where}: module {module[:80]!r} has {what} in adapter_config.json; one must be mended")
        if part in parts and not max(parts[part].shape, default=1) == math.prod(parts[part].shape) == sizes[part]:
            raise AdapterError(
                f"{where}: module {module[:80]!r} has a {part} of shape {parts[part].shape}, {sizes[part]} numbers are "
                "needed; save it again"
            )


def _with_start(update: Update, layer: Layer, rank: int, scale: float, context: Context) -> Update:
    if context.start is None:
        return update
    if layer.kind != "linear" or update.parameter != "weight":
        raise AdapterError(
            f"{context.where}: module {update.module[:80]!r} is no linear layer, for which peft has no {context.start}"
        )
    built = partial(build.started, factors=layer.factors, scale=scale, taken=taken_by(context.start), rank=rank)
    total = layer.rank + rank
    return replace(update, build=built, rank=total if total < min(layer.shape) else None, needs_base=True)


def _pooled(update: Update, layer: Layer, scale: float, config: LoraConfig) -> Update:
    if not config.use_qalora or layer.kind != "linear":
        return update
    built = partial(build.pooled, scale=scale, group=config.qalora_group_size, module=update.module)
    return replace(update, build=built, shape=None, needs_base=True)


def _with_direction(update: Update, layer: Layer, where: str) -> Update:
    if MAGNITUDE not in update.parts:
        return update
    if layer.kind == "merged" or update.parameter != "weight":
        raise AdapterError(f"{where}: module {update.module[:80]!r} is of a kind for which peft has no DoRA")
    built = partial(directed, inner=update.build, magnitude=MAGNITUDE, norm_of=layer.norm_of, module=update.module)
    return replace(update, build=built, rank=None, needs_base=True)


def _beside(update: Update, layer: Layer, context: Context) -> Update:
    """With the copy of the base's weight that peft saves beside the update of an embedding."""
    if "whole" not in update.parts:
        return update
    stored = update.parts["whole"].shape
    flat = (stored[0], math.prod(stored[1:]))
    is_turned = context.config.fan_in_fan_out and layer.kind == "linear" and flat[0] == flat[1]
    if flat != update.shape or is_turned:
        raise AdapterError(
            f"{context.where}: module {update.module[:80]!r} has an update of shape {update.shape} and a whole weight "
            f"of shape {stored}; only one can be meant"
        )
    of_base = stored_shape(context.base, update.target) or flat
    shape = (min(of_base[0], flat[0]), flat[1])
    built = partial(build.beside, inner=update.build, module=update.module)
    note = "its base was saved beside it: what that differs by counts"
    return replace(update, build=built, shape=shape, needs_base=True, note=note)


def _shifts(place: Place, parts: Mapping[str, TensorEntry], scale: float) -> tuple[Shift, ...]:
    if BIAS not in parts or place.parameter == IN_PROJ:  # which peft saves and never applies
        return ()
    return (Shift(f"{place.module}.bias", {BIAS: parts[BIAS]}, partial(build.moved, scale=scale)),)
