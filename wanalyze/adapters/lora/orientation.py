"""Which parameter a wrapped module of peft means, and which of its sides A is for.

Neither is in the names of the tensors. Of a stack (experts, d1, d2) A is for d1 up to peft 0.18 and for the inputs
since 0.19.1; peft 0.19.0 had it for the outputs. Two parameters of one module are wrapped one around the other, in
the order of the module. Shapes tell where they can, the version of peft where they cannot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from wanalyze.adapters.lora.names import stored_shape
from wanalyze.checkpoints import Checkpoint
from wanalyze.checkpoints.experts import IN_FIRST
from wanalyze.errors import AdapterError

_UP, _DOWN = "gate_up_proj", "down_proj"
_ORDER = ("gate_up_proj", "gate_proj", "w1", "up_proj", "w3", "down_proj", "w2")  # in which modules define them
_MOST_WRAPPED = 4


@dataclass(frozen=True)
class Wrapped:
    """A module of the adapter: the columns of its A and the rows of its B."""

    module: str
    columns: int
    rows: int

    def sides(self, outputs_in_a: bool | None) -> tuple[int, int]:
        """(out, in)."""
        return (self.columns, self.rows) if outputs_in_a else (self.rows, self.columns)


@dataclass(frozen=True)
class Owner:
    """A module of the base with raw parameters: their names, and the shapes that the base stores them in.

    `in_first` says that it stores (experts, in, out), `loaded_in_first` that the model, as peft sees it, does: of
    gpt-oss the 4-bit blocks on disk lie the other way round.
    """

    name: str
    wrapped: tuple[Wrapped, ...]  # the innermost first
    parameters: tuple[str, ...]
    stored: Mapping[str, tuple[int, ...]]
    in_first: bool | None
    loaded_in_first: bool | None


@dataclass(frozen=True)
class Reading:
    """A way to understand an owner: the parameter of each wrapped module, and what A is for."""

    parameters: tuple[str, ...]
    outputs_in_a: bool


@dataclass(frozen=True)
class Settled:
    """What a wrapped module is for; `outputs_in_a` is None where neither shapes nor version tell."""

    owner: Owner
    wrapped: Wrapped
    parameter: str
    outputs_in_a: bool | None

    @property
    def key(self) -> str:
        return f"{self.owner.name}.{self.parameter}"

    @property
    def stored(self) -> tuple[int, ...] | None:
        return self.owner.stored.get(self.parameter)


def owner_of(name: str, wrapped: Sequence[Wrapped], parameters: Sequence[str], base: Checkpoint | None) -> Owner:
    ordered = sorted(set(parameters), key=lambda p: (_ORDER.index(p) if p in _ORDER else len(_ORDER), p))
    shapes = {p: stored_shape(base, f"{name}.{p}") for p in {*ordered, _UP, _DOWN}}
    stored = {p: shape for p, shape in shapes.items() if shape is not None and len(shape) in (2, 3)}
    by_shape, by_type = _by_shape(stored), _by_type(base)
    in_first, loaded = (by_type if by_shape is None else by_shape), (by_shape if by_type is None else by_type)
    return Owner(name, tuple(wrapped), tuple(ordered), stored, in_first, loaded)


def _by_shape(stored: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether stacks are (experts, in, out): gate and up lie beside each other along the outputs."""
    up, down = stored.get(_UP, ()), stored.get(_DOWN, ())
    if len(up) == len(down) == 3:
        if up[1] == 2 * down[2] and up[2] == down[1]:
            return False
        if up[2] == 2 * down[1] and up[1] == down[2]:
            return True
    return None


def _by_type(base: Checkpoint | None) -> bool | None:
    kind = None if base is None else base.config.get("model_type")
    return kind in IN_FIRST if isinstance(kind, str) else None  # peft takes every other for (experts, out, in)


def settle(where: str, owners: Sequence[Owner], version: str | None) -> list[Settled]:
    """Understand all wrapped modules of an adapter; AdapterError where their shapes fit nothing."""
    found = {owner.name: list(_readings(owner)) for owner in owners}
    for owner in owners:
        if not found[owner.name]:
            raise AdapterError(
                f"{where}: module {owner.name[:80]!r} has LoRA for sides "
                f"{', '.join(f'{w.rows} and {w.columns}' for w in owner.wrapped)}, which fits none of its parameters "
                f"{', '.join(owner.parameters)[:100]} (target_parameters); is this its base?"
            )
    sides = set.intersection(*({reading.outputs_in_a for reading in each} for each in found.values()))
    outputs_in_a = sides.pop() if len(sides) == 1 else by_version(version, owners[0].loaded_in_first)
    return [
        Settled(owner, wrapped, parameter, outputs_in_a)
        for owner in owners
        for wrapped, parameter in zip(
            owner.wrapped, _chosen(where, owner, found[owner.name], outputs_in_a), strict=True
        )
    ]


def by_version(version: str | None, in_first: bool | None) -> bool | None:
    """Whether A is for the outputs, by the peft that wrote the adapter; before 0.18 it did not sign.

    >>> by_version("0.19.1", None), by_version("0.19.0", None), by_version(None, False), by_version("0.18.1", None)
    (False, True, True, None)
    """
    found = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", version or "0.17.0")
    number = tuple(map(int, found.groups())) if found else (0, 17, 0)
    if number >= (0, 19, 1):
        return False
    if number >= (0, 19, 0):
        return True
    return None if in_first is None else not in_first


def _readings(owner: Owner) -> Iterator[Reading]:
    """All that fit the shapes, those in the order of the module first."""
    if len(owner.wrapped) > _MOST_WRAPPED or len(owner.parameters) > 2 * _MOST_WRAPPED:
        raise AdapterError(f"module {owner.name[:80]!r} has LoRA on more than {_MOST_WRAPPED} parameters; refused")
    for parameters in permutations(owner.parameters, len(owner.wrapped)):
        for outputs_in_a in (False, True):
            sides = {p: w.sides(outputs_in_a) for p, w in zip(parameters, owner.wrapped, strict=True)}
            fits = all(_fits(size, owner.stored.get(p), owner.in_first, outputs_in_a) for p, size in sides.items())
            if fits and _agree(sides):
                yield Reading(parameters, outputs_in_a)


def _fits(sides: tuple[int, int], stored: tuple[int, ...] | None, in_first: bool | None, outputs_in_a: bool) -> bool:
    if stored is None:
        return True
    if len(stored) == 2:
        return sides == stored and not outputs_in_a
    if in_first is None:
        return sorted(sides) == sorted(stored[1:])
    return sides == (stored[:0:-1] if in_first else stored[1:])


def _agree(sides: Mapping[str, tuple[int, int]]) -> bool:
    """Gate and up are twice as many outputs as down has inputs."""
    if _UP not in sides or _DOWN not in sides:
        return True
    (wide, inp), (out, narrow) = sides[_UP], sides[_DOWN]
    return wide == 2 * narrow and inp == out


def _chosen(where: str, owner: Owner, readings: Sequence[Reading], outputs_in_a: bool | None) -> tuple[str, ...]:
    left = [reading.parameters for reading in readings if outputs_in_a in (None, reading.outputs_in_a)]
    if not left:
        raise AdapterError(f"{where}: the shapes of {owner.name[:80]!r} contradict those of other modules of its kind")
    if len(set(left)) > 1 and not set(owner.parameters) <= set(_ORDER):
        raise AdapterError(
            f"{where}: which of {', '.join(owner.parameters)[:100]} of {owner.name[:80]!r} each LoRA is for is not "
            "in the file, and their shapes are alike"
        )
    return left[0]
