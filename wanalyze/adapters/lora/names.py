"""Which tensor of the base a module of the adapter means."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from wanalyze.checkpoints import Checkpoint
from wanalyze.errors import AdapterError

_OUT_PROJ = ".base_layer.out_proj"


@dataclass(frozen=True)
class Place:
    """A parameter of a module of the base; `key` is the name that patterns of the config are held against."""

    module: str
    key: str
    parameter: str = "weight"


def place_of(where: str, module: str, modules: Collection[str]) -> Place:
    """The place that a module's tensors are for. Only torch's attention hides its two projections in one module."""
    if f"{module}{_OUT_PROJ}" in modules:
        return Place(module, module, "in_proj_weight")
    if module.endswith(_OUT_PROJ):
        owner = module.removesuffix(_OUT_PROJ)
        return Place(f"{owner}.out_proj", owner)
    if module.endswith(".base_layer"):
        raise AdapterError(
            f"{where}: module {module[:80]!r} is wrapped twice, as peft does for raw parameters, but target_parameters "
            "in adapter_config.json names none of it"
        )
    return Place(module, module)


def stored_shape(base: Checkpoint | None, target: str) -> tuple[int, ...] | None:
    """The shape of a tensor of the base: by its name, or the longest end of it that all its bearers share a shape of.

    The adapter may be made for the bare model or for one with a head; None where the shapes differ.
    """
    if base is None:
        return None
    if target in base.entries:
        return base.entries[target].shape
    last = target.rpartition(".")[2]
    alike = [name for name in base.entries if name.rpartition(".")[2] == last]
    end = target
    while end:
        shapes = {base.entries[name].shape for name in alike if name == end or name.endswith(f".{end}")}
        if shapes:
            return shapes.pop() if len(shapes) == 1 and "." in end else None
        end = end.partition(".")[2]
    return None


_LAYER = re.compile(r"(?P<before>(?:.*?\.)?(?:layers|layer|h)\.)(?P<index>\d+)(?P<after>\..*)")


def layer_in(name: str) -> tuple[str, int, str] | None:
    """A name cut at its layer.

    >>> layer_in("model.layers.4.mlp.experts.0.w1")
    ('model.layers.', 4, '.mlp.experts.0.w1')
    """
    found = _LAYER.fullmatch(name)
    return (found["before"], int(found["index"]), found["after"]) if found and len(found["index"]) < 10 else None
