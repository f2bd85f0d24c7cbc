"""What all kinds that peft saves have in common: names of tensors, the config, the facts that are shown."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wanalyze.adapters.adapter import Adapter, Shift, Update
from wanalyze.checkpoints import AdapterFiles, TensorEntry
from wanalyze.checkpoints.dtypes import Holds
from wanalyze.errors import AdapterError

_PREFIX = re.compile(r"^(?:base_model\.model\.|base_model\.|module\.)")
_COMPILED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_WRAPPER = re.compile(r"\.(?:base_layer|token_adapter|modules_to_save\.[^.]+|modules_to_save(?=\.[^.]+$))(?=\.)")
_BASE_LAYER = ".base_layer."

# No side of a tensor is longer, and a float can be divided by it.
Positive = Annotated[int, Field(gt=0, lt=2**31, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**62, strict=True)]  # of a torch.Generator
Config = TypeVar("Config", bound="PeftConfig")


class PeftConfig(BaseModel):
    """The fields of adapter_config.json that every kind has; a kind adds those its maths depends on."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    base_model_name_or_path: str | None = None
    peft_version: str | None = None
    fan_in_fan_out: bool = False
    modules_to_save: list[str] = []


def config_of(files: AdapterFiles, model: type[Config]) -> Config:
    """The config as `model`; AdapterError with field, value and rule where it is not."""
    # peft writes null for what was left at its default, and some versions leave such fields out.
    given = {key: value for key, value in files.config.items() if value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])
        value = "" if first["type"] == "missing" else f" is {str(first['input'])[:60]!r}"
        raise AdapterError(
            f"{files.name}: adapter_config.json: {name[:200]}{value}: {first['msg'][:1].lower()}{first['msg'][1:]}; "
            "the scale of the update depends on it"
        ) from None


@dataclass(frozen=True)
class Tensors:
    """An adapter's tensors, sorted: by module and part, those all modules share, and those saved whole."""

    modules: dict[str, dict[str, TensorEntry]] = field(default_factory=dict)
    shared: dict[str, TensorEntry] = field(default_factory=dict)
    replaced: dict[str, TensorEntry] = field(default_factory=dict)


def sorted_tensors(
    files: AdapterFiles,
    stems: Mapping[str, str],
    *,
    kind: str,
    marker: str,
    shared: Mapping[str, str] | None = None,
    ignored: Sequence[str] = (),
    whole: bool = False,
) -> Tensors:
    """Sort the tensors of an adapter by the names of its kind.

    `stems` maps a tensor's name after its module (`lora_A`, `lora_B.bias`) to the name of its part, `shared` does so
    for those of the whole model. A name that holds `marker` and is neither is refused: it would change the maths;
    unless it holds one of `ignored`. With `whole`, the weight under an update may be saved beside it, as peft does
    with embeddings: it becomes the part `whole` of its module.
    """
    known = re.compile(
        rf"(?P<module>.+)\.(?P<stem>{_alternatives(stems)})(?:\.(?!weight$|bias$)[^.]+)?(?P<end>\.weight|\.bias)?"
    )
    common = {**(shared or {})}
    found = Tensors()
    for plain, entry in _read_names(files, ignored):
        match = known.fullmatch(plain)
        stem = match["stem"] + (".bias" if match["end"] == ".bias" else "") if match else ""
        if match and stem in stems:
            _put(found.modules.setdefault(match["module"], {}), stems[stem], entry, files.name)
        elif (part := common.get(re.sub(r"\.(?:default|weight)$", "", plain))) is not None:
            _put(found.shared, part, entry, files.name)
        elif marker in plain:
            raise AdapterError(f"{files.name}: tensor {entry.name[:80]!r} is no part of {kind} that wanalyze knows")
        else:
            _put(found.replaced, _WRAPPER.sub("", plain), entry, files.name)
    for module in sorted(found.modules.keys() & {name.removesuffix(".weight") for name in found.replaced}):
        entry = found.replaced.pop(f"{module}.weight")
        if not (whole and _BASE_LAYER in entry.name):
            raise AdapterError(f"{files.name}: {module[:80]!r} has an update and a whole weight; only one can be meant")
        found.modules[module]["whole"] = entry
    return found


def _read_names(files: AdapterFiles, ignored: Sequence[str]) -> Iterator[tuple[str, TensorEntry]]:
    """Names without wrappers; not those `ignored`, nor peft's copies of what a saved module replaces."""
    for name, entry in files.weights.entries.items():
        plain = unwrapped(name)
        if not any(part in plain for part in (*ignored, ".original_module.")):
            yield plain, entry


def unwrapped(name: str) -> str:
    """A tensor's name without what peft, torch.compile, DDP and FSDP put before it.

    >>> unwrapped("module._orig_mod.base_model.model.layers.0._fsdp_wrapped_module.q_proj.lora_A.weight")
    'layers.0.q_proj.lora_A.weight'
    """
    before, name = "", _COMPILED.sub("", name)
    while name != before:
        before, name = name, _PREFIX.sub("", name)
    return name


def _alternatives(stems: Iterable[str]) -> str:
    plain = {stem.removesuffix(".bias") for stem in stems}
    return "|".join(re.escape(stem) for stem in sorted(plain, key=len, reverse=True))


def _put(parts: dict[str, TensorEntry], part: str, entry: TensorEntry, where: str) -> None:
    if part in parts:
        raise AdapterError(f"{where}: {parts[part].name[:80]!r} and {entry.name[:80]!r} are the same part of a module")
    parts[part] = entry


def need(parts: Mapping[str, TensorEntry], names: Sequence[str], *, module: str, where: str) -> None:
    """Refuse a module that lacks one of its tensors, or has an empty one."""
    missing = next((name for name in names if name not in parts), None)
    if missing is not None:
        there = ", ".join(sorted(parts))
        raise AdapterError(f"{where}: module {module[:80]!r} has {there} but no {missing}; save it again")
    refuse_empty(parts.values(), where=where)


def refuse_empty(entries: Iterable[TensorEntry], *, where: str) -> None:
    """Name the cause of a tensor without a value."""
    empty = next((entry for entry in entries if 0 in entry.shape), None)
    if empty is not None:
        raise AdapterError(
            f"{where}: tensor {empty.name[:80]!r} is empty, as ZeRO-3 leaves it when weights are not gathered; "
            "save it again"
        )


def adapter_of(
    files: AdapterFiles,
    config: PeftConfig,
    updates: Iterable[Update],
    tensors: Tensors,
    *,
    kind: str,
    method: str,
    shifts: Iterable[Shift] = (),
    layers: Iterable[int] = (),
    facts: Mapping[str, object] | None = None,
    notes: Iterable[str] = (),
) -> Adapter:
    """Put an adapter together; AdapterError if it changes nothing."""
    found, moved = tuple(updates), tuple(shifts)
    for parts in (*(update.parts for update in found), *(shift.parts for shift in moved)):
        _refuse_integers(files.name, parts)
    if not (found or moved or tensors.replaced):
        raise AdapterError(f"{files.name}: holds no tensor of peft_type {kind}, so it changes nothing")
    refuse_empty(tensors.replaced.values(), where=files.name)
    return Adapter(
        name=files.name,
        method=method,
        updates=found,
        shifts=moved,
        replaced=tensors.replaced,
        input_first=config.fan_in_fan_out,
        facts={**_facts(found, tensors, config, kind), **(facts or {})},
        trained_parameters=sum(math.prod(entry.shape) for entry in files.weights.entries.values()),
        notes=(*files.weights.notes, *notes),
        layers=tuple(layers),
    )


def _refuse_integers(where: str, parts: Mapping[str, TensorEntry]) -> None:
    for name, entry in parts.items():
        if entry.dtype.holds is not Holds.real and not name.endswith("indices"):
            raise AdapterError(f"{where}: tensor {entry.name[:80]!r} is {entry.dtype.name}, real numbers are needed")


def _facts(updates: Sequence[Update], tensors: Tensors, config: PeftConfig, kind: str) -> dict[str, object]:
    ranks = Counter(update.rank for update in updates if update.rank is not None)
    scales = Counter(update.scale for update in updates if update.scale is not None)
    return {
        "kind": kind,
        **({"ranks": dict(sorted(ranks.items()))} if ranks else {}),
        **({"scales": dict(sorted(scales.items()))} if scales else {}),
        "modules": len({(update.module, update.parameter) for update in updates}),
        "saved_whole": sorted(tensors.replaced),
        "base_model": config.base_model_name_or_path,
        "peft_version": config.peft_version,
    }


def spread(values: Iterable[int]) -> str:
    """A number, or the least and the largest of several.

    >>> spread([8, 8]), spread([16, 4])
    ('8', '4–16')
    """
    found = sorted(set(values))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]}–{found[-1]}"
