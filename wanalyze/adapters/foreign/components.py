"""Modules of diffusion models: which component each belongs to, and what the base calls it. By lookup, never guessed.

A name whose dots became underscores cannot be read backwards. So every name of the base is written as the tools write
it, and theirs are looked up among those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from wanalyze.adapters.foreign.sgm import UNet
from wanalyze.checkpoints import Checkpoint
from wanalyze.errors import AdapterError

_DENOISER, _SECOND = "denoiser", "second denoiser"
_ENCODERS = ("text encoder", "text encoder 2", "text encoder 3")

# What a module's name begins with, the longest first.
_JOINED = {
    "lora_unet_": _DENOISER,
    "lora_transformer_": _DENOISER,
    "lora_te1_": _ENCODERS[0],
    "lora_te2_": _ENCODERS[1],
    "lora_te3_": _ENCODERS[2],
    "lora_te_": _ENCODERS[0],
    "lycoris_": None,
}
_DOTTED = {
    "model.diffusion_model.": _DENOISER,
    "diffusion_model.": _DENOISER,
    "unet.": _DENOISER,
    "transformer.": _DENOISER,
    "transformer_2.": _SECOND,
    "text_encoder.": _ENCODERS[0],
    "text_encoder_2.": _ENCODERS[1],
    "text_encoder_3.": _ENCODERS[2],
}
# What the names of a base begin with that holds several components in one file.
_WITHIN = {
    "model.diffusion_model.": _DENOISER,
    "cond_stage_model.transformer.": _ENCODERS[0],
    "conditioner.embedders.0.transformer.": _ENCODERS[0],
    "text_encoders.clip_l.transformer.": _ENCODERS[0],
    "text_encoders.clip_g.transformer.": _ENCODERS[1],
    "text_encoders.t5xxl.transformer.": _ENCODERS[2],
}
_FOLDERS = {
    "unet": _DENOISER,
    "transformer": _DENOISER,
    "transformer_2": _SECOND,
    "text_encoder": _ENCODERS[0],
    "text_encoder_2": _ENCODERS[1],
    "text_encoder_3": _ENCODERS[2],
}


class Local(NamedTuple):
    """A module's name within its component; None where nothing says which that is."""

    component: str | None
    name: str


def local(module: str) -> Local:
    """A module of an adapter, without what tells its component.

    >>> local("lora_te2_text_model_encoder")
    Local(component='text encoder 2', name='text_model_encoder')
    >>> local("transformer.blocks.0.attn1.to_q")
    Local(component='denoiser', name='blocks.0.attn1.to_q')
    """
    return _without(module, _DOTTED if "." in module else _JOINED)


def _without(name: str, prefixes: Mapping[str, str | None]) -> Local:
    for prefix, component in prefixes.items():
        if name.startswith(prefix):
            return Local(component, name.removeprefix(prefix))
    return Local(None, name)


@dataclass
class BaseNames:
    """The modules of a base, by every name that a tool may have for them."""

    base: Checkpoint
    _modules: set[str] = field(init=False)
    _known: dict[str, list[tuple[str | None, str]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._modules = {name.rpartition(".")[0] for name in self.base.entries if name.endswith((".weight", ".bias"))}
        folder = _component_of(self.base.name)
        places = {module: _without(module, _WITHIN) for module in self._modules}
        for module, (component, name) in places.items():
            self._add(name, component or folder, module)
        by_local = {place.name: (place.component or folder, module) for module, place in places.items()}
        if (net := UNet.of(by_local)) is not None:
            for alias, name in net.names(by_local):
                self._add(alias, *by_local[name])

    def _add(self, name: str, component: str | None, module: str) -> None:
        for written in {name, name.replace(".", "_")}:
            self._known.setdefault(written, []).append((component, module))

    def find(self, module: str, *, where: str) -> str | None:
        """The base's module; None where it has none, AdapterError where the name may mean several."""
        if module in self._modules:
            return module
        component, name = local(module)
        found = sorted(
            {
                target
                for theirs, target in self._known.get(name, ())
                if None in (component, theirs) or component == theirs
            }
        )
        if len(found) > 1:
            raise AdapterError(
                f"{where}: module {module[:80]!r} may mean {found[0][:80]!r} or {found[1][:80]!r} of the base; "
                "save the adapter with dots in its names"
            )
        return found[0] if found else None


def _component_of(reference: str) -> str | None:
    """What the folder of a base says it is."""
    parts = reference.replace("\\", "/").rstrip("/").split("/")
    return next((_FOLDERS[part] for part in reversed(parts[-2:]) if part in _FOLDERS), None)


def resolved(modules: Iterable[str], base: Checkpoint | None, *, where: str) -> dict[str, str]:
    """What the base calls each module; one that it does not have keeps its name, and so do all without a base."""
    if base is None:
        return {module: module for module in modules}
    names, found, taken = BaseNames(base), dict[str, str](), dict[str, str]()
    for module in modules:
        target = names.find(module, where=where)
        if target is not None and (other := taken.setdefault(target, module)) != module:
            raise AdapterError(
                f"{where}: modules {other[:80]!r} and {module[:80]!r} both mean {target[:80]!r} of the base; pass the "
                f"base by a folder that says which component it is, as {', '.join(list(_FOLDERS)[3:5])}"
            )
        found[module] = target or module
    return found
