"""Adapters of diffusion models: kohya's scripts, LyCORIS, diffusers old and new, ai-toolkit and ComfyUI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Shift, Update
from wanalyze.adapters.dora import Side, directed
from wanalyze.adapters.foreign.algorithms import ALGORITHMS, Algorithm
from wanalyze.adapters.foreign.assembly import assembled
from wanalyze.adapters.foreign.components import local, resolved
from wanalyze.adapters.foreign.diffusers import scales_in
from wanalyze.adapters.foreign.grammar import Modules, sorted_modules
from wanalyze.adapters.foreign.module import Changes, Module
from wanalyze.adapters.foreign.scales import numbers
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import widened

if TYPE_CHECKING:
    from torch import Tensor

# Parts that are added to a vector of the base, and which.
_ADDED = {"w_norm": "weight", "b_norm": "bias", "diff_b": "bias"}
_MAGNITUDES = ("dora_scale", "magnitude")
# What LyCORIS adds to the norm, which it takes in float32; peft, MLX and torchtune add nothing.
_LYCORIS_EPS = 2.0**-23
# Names of models that are no diffusion models, whose adapters come from peft and have a scale in its config.
_LANGUAGE_MODEL = re.compile(r"transformer\.(?:h|wte|wpe|word_embeddings|encoder\.layers)\b")
_WEIGHTS_OF_DIFFUSERS = "pytorch_lora_weights.safetensors"
_RULES = {
    "diffusers": "alpha / r, of the file's metadata or tensors; 1 where it has no alpha, as diffusers reads it",
    "others": "alpha / r, alpha as a tensor of each module; 1 where it has none",
    "LoKr": "LoKr: 1 where both factors are whole",
    "OFT": "OFT: alpha is a bound, no scale",
    "BOFT": "BOFT: alpha is a bound, no scale",
}
_WITHOUT_SCALE = {"OFT", "BOFT", "IA3", "full"}
_ABOUT = ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture")


def parse_diffusion(files: AdapterFiles, base: Checkpoint | None, tool: str) -> Adapter:
    """The updates of such an adapter; names of modules are the base's where a base is given and has them."""
    found, notes = sorted_modules(files)
    names = resolved(found, base, where=files.name)
    alphas = numbers({name: parts["alpha"] for name, parts in found.items() if "alpha" in parts}, where=files.name)
    said = scales_in(files)
    if said is None:
        _check_scale_known(files, found, alphas, tool)
    changes = Changes()
    for raw, parts in sorted(found.items()):
        name = names[raw]
        entry = base.entries.get(f"{name}.weight") if base else None
        alpha = alphas.get(raw)
        if said is not None and "down" in parts:
            alpha = said.alpha(raw, rank=parts["down"].shape[0] if parts["down"].shape else 0, stored=alpha)
        used = {part: tensor for part, tensor in parts.items() if part != "alpha"}
        _add(changes, Module(files.name, name, used, alpha, entry.shape if entry else None))
    return assembled(
        files,
        changes,
        tool=_tool(files, tool),
        scale_rule=_rule(changes, tool),
        base_model=next((text for key in _ABOUT if (text := _metadata(files, key))), None),
        notes=notes,
    )


def _add(changes: Changes, module: Module) -> None:
    """What one module changes: its weight, its bias, or a norm."""
    parts = dict(module.parts)
    _add_vectors(changes, module, parts)
    magnitudes = {part: parts.pop(part) for part in _MAGNITUDES if part in parts}
    bias = parts.pop("bias", None)
    if not parts:
        if magnitudes or bias:
            module.refuse(f"has {', '.join(module.parts)} and no update; save the adapter again")
        return
    algorithm = _algorithm(module, parts)
    update, rank = algorithm.update(replace(module, parts=parts))
    if bias is not None:
        changes.shifts.append(_shift(module, bias, "bias", scale=1.0 if update.scale is None else update.scale))
    if len(magnitudes) > 1:
        module.refuse(f"has {' and '.join(magnitudes)}; only one magnitude can be meant")
    for part, entry in magnitudes.items():
        update = _decomposed(module, update, part, entry)
    changes.updates.append(update)
    changes.algorithms.append((_named(algorithm.name, parts, magnitudes), rank))


def _add_vectors(changes: Changes, module: Module, parts: dict[str, TensorEntry]) -> None:
    """What is added to a vector, or saved whole; taken out of `parts`."""
    if "reshape_weight" in parts:
        module.refuse("gives the weight another shape (reshape_weight), which is no update of the base's")
    if (whole := parts.pop("set_weight", None)) is not None:
        changes.replaced[f"{module.name}.weight"] = whole
    for part, target in _ADDED.items():
        if (entry := parts.pop(part, None)) is not None:
            changes.shifts.append(_shift(module, entry, target))
    if "diff" in parts and len(parts["diff"].shape) == 1:
        changes.shifts.append(_shift(module, parts.pop("diff"), "weight"))


def _algorithm(module: Module, parts: Mapping[str, TensorEntry]) -> Algorithm:
    found = [row for row in ALGORITHMS if row.marks & parts.keys()]
    if not found:
        module.refuse(f"has only {', '.join(sorted(parts))}, of which no update can be made; save the adapter again")
    extra = sorted(parts.keys() - found[0].parts)
    if extra:
        module.refuse(f"has {extra[0]} beside the parts of {found[0].name}; only one algorithm can be meant")
    return found[0]


def _named(algorithm: str, parts: Mapping[str, TensorEntry], magnitudes: Mapping[str, TensorEntry]) -> str:
    """What users call it."""
    if "oft_blocks" in parts and len(parts["oft_blocks"].shape) == 4:
        return "BOFT"
    return algorithm if not magnitudes else "DoRA" if algorithm == "LoRA" else f"DoRA of {algorithm}"


def _shift(module: Module, entry: TensorEntry, target: str, *, scale: float = 1.0) -> Shift:
    if len(entry.shape) != 1:
        module.refuse(f"has {entry.name.rpartition('.')[2][:40]} of shape {entry.shape}, where a vector is expected")
    build = partial(_moved, scale=scale, module=module.name)
    return Shift(f"{module.name}.{target}", {"by": entry}, build)


def _moved(parts: Parts, base: Tensor, *, scale: float, module: str) -> Tensor:
    by = widened(parts["by"], torch.float64)
    if by.shape != base.shape:
        raise AdapterError(f"{module[:80]!r}: {len(by)} numbers for a vector of shape {tuple(base.shape)}")
    return widened(base, torch.float64) + scale * by


def _decomposed(module: Module, update: Update, part: str, entry: TensorEntry) -> Update:
    """DoRA around an update; LyCORIS's tells by its shape along which axis the norm is."""
    norm_of = _axis(module, update, entry)
    build = partial(
        directed,
        inner=update.build,
        magnitude=part,
        norm_of=norm_of,
        eps=_LYCORIS_EPS if part == "dora_scale" else 0.0,
        module=module.name,
    )
    parts = {**update.parts, part: entry}
    return Update(module.name, parts, build, update.shape, None, update.scale, needs_base=True)


def _axis(module: Module, update: Update, entry: TensorEntry) -> Side:
    if update.shape is None or update.needs_base:
        module.refuse(f"has {entry.name.rpartition('.')[2][:40]} beside an update that no tool decomposes")
    shape, (out, rest) = entry.shape, update.shape
    if shape[:1] == (out,) and all(side == 1 for side in shape[1:]):
        return "outputs"
    inputs = module.weight[1] if module.weight and len(module.weight) > 1 else None
    is_row = len(shape) > 1 and all(side == 1 for side in (shape[0], *shape[2:]))
    if not is_row or (rest % shape[1] if inputs is None else shape[1] != inputs):
        module.refuse(
            f"has a magnitude of shape {shape}, where (outputs, 1, …) or (1, inputs, …) of {out} outputs and "
            f"{inputs or rest} inputs is expected"
        )
    return "inputs"


def _check_scale_known(files: AdapterFiles, found: Modules, alphas: Mapping[str, float], tool: str) -> None:
    """Without any alpha, scale 1 is diffusers' and ComfyUI's convention; peft's own files have it in their config."""
    if tool != "diffusers" or alphas or files.weights.files[0].name.endswith(_WEIGHTS_OF_DIFFUSERS):
        return
    for module, parts in found.items():
        is_peft = "down" in parts and parts["down"].name.endswith((".lora_A.weight", ".lora_A.default.weight"))
        if is_peft and (local(module).component is None or _LANGUAGE_MODEL.match(module)):
            raise AdapterError(
                f"{files.name}: tensor {parts['down'].name[:80]!r} is named as peft does it, and nothing says its "
                "scale; call the file adapter_model.safetensors and put adapter_config.json beside it"
            )


def _rule(changes: Changes, tool: str) -> str:
    names = {name.removeprefix("DoRA of ") for name, _ in changes.algorithms}
    rules = [_RULES["diffusers" if tool == "diffusers" else "others"]] if names - _WITHOUT_SCALE else []
    rules += [_RULES[name] for name in ("LoKr", "OFT", "BOFT") if name in names]
    return "; ".join(rules) or "none: the tensors are the update as it is"


def _metadata(files: AdapterFiles, key: str) -> str:
    return files.weights.metadata.get(key, "")[:200]


def _tool(files: AdapterFiles, tool: str) -> str:
    """What the file's metadata says of its maker, else what its names are like."""
    network = _metadata(files, "ss_network_module")
    if network.startswith("lycoris"):
        return "LyCORIS"
    if "ai-toolkit" in _metadata(files, "software"):
        return "ai-toolkit"
    return "kohya" if network else tool
