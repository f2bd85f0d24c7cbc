"""A tensor's name without what wrappers, heads and versions of a library make of it, and finding it by that."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from wanalyze.pairing.renames import Renamer

_COMPILED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OUTER = re.compile(r"^(?:base_model\.model\.|base_model\.|module\.)+")
_DEEPEST = 16  # wrappers within wrappers; a name may be a megabyte long
# What peft puts around a module and its parameters in the state dict of a whole model.
_INNER = re.compile(
    r"\.(?:base_layer|original_module|token_adapter|modules_to_save\.[^.]+|modules_to_save(?=\.[^.]+$))(?=\.)"
)
_DEFAULT = re.compile(r"\.default(?=\.(?:weight|bias)$)")
# A quick look: few names have any of it.
_WRAPPED = re.compile(
    r"^(?:base_model|module)\.|_orig_mod\.|_wrapped_module\."
    r"|\.(?:base_layer|original_module|token_adapter|modules_to_save|default)\."
)
_REPLACED = ".original_module."  # peft's copy of what a saved module stands for now
_HEADS = ("model", "transformer", "language_model", "backbone")
# Where the name of the bare model within one with a head is not its type.
_BARE = {
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "audio-spectrogram-transformer": "audio_spectrogram_transformer",
}


def unwrapped(name: str) -> str:
    """A name without what torch.compile, DDP, FSDP, activation checkpointing and peft add to it.

    >>> unwrapped("module._orig_mod.base_model.model.score.modules_to_save.default.weight")
    'score.weight'
    """
    for _ in range(_DEEPEST):
        if not _WRAPPED.search(name):
            break
        name = _OUTER.sub("", _COMPILED.sub("", name))
        name = _DEFAULT.sub("", _INNER.sub("", name))
    return name


def is_replaced(name: str) -> bool:
    """Whether a tensor is peft's copy of what a module was before it was trained."""
    return _REPLACED in name


class Names:
    """The names of models of `types`."""

    def __init__(self, types: frozenset[str]) -> None:
        heads = (*_HEADS, *(_BARE.get(kind, kind.replace("-", "_")) for kind in sorted(types)))
        self._heads = re.compile(rf"^(?:(?:{'|'.join(map(re.escape, heads))})\.)+")
        self._renamer = Renamer(types)
        self._canonical: dict[str, str] = {}

    def headless(self, name: str) -> str:
        """A name without wrappers, and without what tells a bare model from one with a head.

        >>> Names(frozenset({"bert"})).headless("bert.encoder.layer.0.output.dense.weight")
        'encoder.layer.0.output.dense.weight'
        """
        return self._heads.sub("", unwrapped(name))

    def canonical(self, name: str) -> str:
        """The name that checkpoints of one family have in common, whichever version wrote them."""
        if (found := self._canonical.get(name)) is None:
            found = self._canonical[name] = self._heads.sub("", self._renamer(unwrapped(name)))
        return found


class Lookup:
    """Find a tensor among `names`, the most exact way first; a way in which two are alike finds neither."""

    def __init__(self, names: Iterable[str], style: Names) -> None:
        self._names = tuple(names)
        self._ways: tuple[Callable[[str], str], ...] = (str, unwrapped, style.headless, style.canonical)
        self._known: list[dict[str, str]] = []

    @property
    def ways(self) -> range:
        return range(len(self._ways))

    def find(self, name: str) -> str | None:
        return next((found for way in self.ways if (found := self.find_by(way, name)) is not None), None)

    def find_by(self, way: int, name: str) -> str | None:
        """Find in one way only: 0 exactly, 1 without wrappers, 2 without heads, 3 by the canonical name."""
        while len(self._known) <= way:
            self._known.append(_unique(self._ways[len(self._known)], self._names))
        return self._known[way].get(self._ways[way](name))


def _unique(way: Callable[[str], str], names: Iterable[str]) -> dict[str, str]:
    """Names by what `way` makes of them, where that is of one name only; replaced copies count for nothing."""
    if way is str:
        return {name: name for name in names}
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(way(name), []).append(name)
    kept = {key: [name for name in alike if not is_replaced(name)] or alike for key, alike in found.items()}
    return {key: alike[0] for key, alike in kept.items() if len(alike) == 1}


@dataclass
class Matches:
    """Tensors of the tuned by those of the base they belong to; `doubles` want one that is taken."""

    found: dict[str, str] = field(default_factory=dict)
    doubles: dict[str, str] = field(default_factory=dict)


def match(lookup: Lookup, names: Iterable[str], taken: Iterable[str] = ()) -> Matches:
    """Which of the names in `lookup` each of `names` means; exact ones choose first, then unwrapped ones, and so on."""
    matches, gone = Matches(), set(taken)
    waiting = sorted(names, key=is_replaced)
    for way in lookup.ways:
        left = []
        for name in waiting:
            target = lookup.find_by(way, name)
            if target is None:
                left.append(name)
            elif target in gone:
                matches.doubles[name] = target
            else:
                gone.add(target)
                matches.found[name] = target
        waiting = left
    return matches
