"""One of the two checkpoints that are paired, with all that its names and its config say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from wanalyze.checkpoints import TensorEntry
from wanalyze.naming import module_name
from wanalyze.pairing.architecture import Architecture
from wanalyze.pairing.names import Names

Entries: TypeAlias = Mapping[str, TensorEntry]

# GPT-2's Conv1D stores (in, out).
CONV1D = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})


@dataclass(frozen=True)
class Side:
    """The tensors of the base or of the tuned; `names` know the styles of both.

    `has_conv1d` says that weights of GPT-2's kind are stored (in, out), `is_partial` that what is missing is unchanged.
    """

    whose: Literal["base", "tuned"]
    entries: Entries
    architecture: Architecture
    names: Names
    has_conv1d: bool = False
    is_partial: bool = False

    def is_conv1d(self, entry: TensorEntry) -> bool:
        return self.has_conv1d and last(entry.name) in CONV1D

    def module(self, name: str) -> str:
        """The canonical name of the module that a tensor belongs to."""
        return module_name(self.names.canonical(name))

    @cached_property
    def stacked(self) -> dict[str, TensorEntry]:
        """Tensors of three dimensions by the canonical names of their modules."""
        return {self.module(name): entry for name, entry in self.entries.items() if len(entry.shape) == 3}


def conv1d_of(base: Entries, tuned: Entries) -> tuple[bool, bool]:
    """Of base and tuned, whether weights of GPT-2's kind are stored (in, out).

    It shows in c_attn, which is (d, 3 d) there and (3 d, d) as a linear layer. A side that has none, because it is
    split or only a part, is as the other is if their c_fc are alike.
    """
    before, after = _conv1d(base), _conv1d(tuned)
    alike = not (_shapes(base, "c_fc") and _shapes(tuned, "c_fc")) or _shapes(base, "c_fc") == _shapes(tuned, "c_fc")
    return (
        before if before is not None else bool(after and alike),
        after if after is not None else bool(before and alike),
    )


def _conv1d(entries: Entries) -> bool | None:
    shapes = _shapes(entries, "c_attn")
    return any(shape[1] == 3 * shape[0] for shape in shapes) if shapes else None


def _shapes(entries: Entries, kind: str) -> set[tuple[int, ...]]:
    end = f"{kind}.weight"
    return {entry.shape for name, entry in entries.items() if name.endswith(end) and len(entry.shape) == 2}


def last(tensor: str) -> str:
    """The last part of the name of a tensor's module."""
    return module_name(tensor).rpartition(".")[2]


def part_of(name: str, label: str) -> str:
    """The name of a part of a tensor, so that its module's name ends in the label.

    >>> part_of("layers.0.qkv_proj.weight", "q"), part_of("mlp.experts.down_proj", "3")
    ('layers.0.qkv_proj[q].weight', 'mlp.experts.down_proj[3]')
    """
    module = module_name(name)
    return f"{module}[{label}]{name[len(module) :]}"
