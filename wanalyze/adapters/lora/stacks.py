"""LoRA on raw parameters (`target_parameters`): an update for every expert of a stack.

A holds the rows of each expert in turn, B the columns of all experts by turns: ΔW_e = s · B[:, e::E] A[e·r : (e+1)·r].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Build, Parts, Update
from wanalyze.adapters.lora.config import LoraConfig
from wanalyze.adapters.lora.orientation import Settled, Wrapped, owner_of, settle
from wanalyze.adapters.peft import need
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.checkpoints.content import picked, rows
from wanalyze.checkpoints.experts import MOST_EXPERTS
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

Modules = Mapping[str, Mapping[str, TensorEntry]]
_WRAPPER = ".base_layer"


@dataclass(frozen=True)
class Stacks:
    """Updates of parameters, and the modules of the adapter that they were made of."""

    updates: tuple[Update, ...] = ()
    modules: frozenset[str] = frozenset()


def stacks_of(where: str, modules: Modules, config: LoraConfig, base: Checkpoint | None) -> Stacks:
    """The updates of all parameters that `target_parameters` names."""
    groups = _groups(modules, config.target_parameters, base)
    if not groups:
        return Stacks()
    owners = [
        owner_of(owner, [_wrapped(where, module, modules[module]) for module in inner], parameters, base)
        for owner, (parameters, inner) in sorted(groups.items())
    ]
    settled = settle(where, owners, config.peft_version)
    updates = [update for each in settled for update in _updates(where, each, modules[each.wrapped.module], config)]
    return Stacks(tuple(updates), frozenset(each.wrapped.module for each in settled))


def _groups(
    modules: Modules, targets: Sequence[str], base: Checkpoint | None
) -> dict[str, tuple[list[str], list[str]]]:
    """For each owner, the parameters that the config may mean there and its wrapped modules, innermost first."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for module in sorted(modules, key=len, reverse=True):
        owner = module
        while owner.endswith(_WRAPPER):
            owner = owner.removesuffix(_WRAPPER)
        parameters = [p for target in targets if (p := _parameter(owner, target, base)) is not None]
        if parameters:
            found.setdefault(owner, (parameters, []))[1].append(module)
    return found


def _parameter(owner: str, target: str, base: Checkpoint | None) -> str | None:
    """The parameter that a target means in a module; one without a module means it wherever it is."""
    module, _, parameter = target.rpartition(".")
    if module:
        return parameter if owner == module or owner.endswith(f".{module}") else None
    is_there = owner.rpartition(".")[2] == "experts" or (base is not None and f"{owner}.{parameter}" in base.entries)
    return parameter if is_there else None


def _wrapped(where: str, module: str, parts: Mapping[str, TensorEntry]) -> Wrapped:
    need(parts, ("lora_A", "lora_B"), module=module, where=where)
    a, b = parts["lora_A"].shape, parts["lora_B"].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or len(parts) != 2:
        raise AdapterError(
            f"{where}: module {module[:80]!r} is LoRA on a parameter with {', '.join(sorted(parts))}, lora_A {a} and "
            f"lora_B {b}; peft writes (experts · r, n) and (m, experts · r) and nothing else"
        )
    return Wrapped(module, a[1], b[0])


def _updates(where: str, settled: Settled, parts: Mapping[str, TensorEntry], config: LoraConfig) -> Iterator[Update]:
    rank, rows_of_a = config.rank(settled.key), parts["lora_A"].shape[0]
    count = rows_of_a // rank if settled.stored is None else 1 if len(settled.stored) == 2 else settled.stored[0]
    if not 0 < count <= MOST_EXPERTS or rows_of_a != count * rank:
        raise AdapterError(
            f"{where}: {settled.key[:80]!r} has lora_A {parts['lora_A'].shape}, which is not rank {rank} "
            f"(adapter_config.json) for each of {count} experts; one of the two must be mended"
        )
    is_stack = count > 1 or (settled.stored is not None and len(settled.stored) == 3)
    for expert in range(count):
        yield Update(
            module=settled.owner.name,
            parts=_of_expert(parts, expert, rank) if is_stack else parts,
            build=_build(settled, config.scale(settled.key, rank)),
            shape=None if settled.outputs_in_a is None else settled.wrapped.sides(settled.outputs_in_a),
            rank=rank,
            scale=config.scale(settled.key, rank),
            needs_base=settled.outputs_in_a is None,
            parameter=settled.parameter,
            index=expert if is_stack else None,
        )


def _of_expert(parts: Mapping[str, TensorEntry], expert: int, rank: int) -> dict[str, TensorEntry]:
    a, b = parts["lora_A"], parts["lora_B"]
    return {
        "lora_A": TensorEntry(f"{a.name}[{expert}]", rows(a.content, expert * rank, (expert + 1) * rank)),
        "lora_B": TensorEntry(f"{b.name}[{expert}]", picked(b.content, rank, expert, expert + 1, axis=1)),
    }


def _build(settled: Settled, scale: float) -> Build:
    if settled.outputs_in_a is None:
        return partial(_unsettled, key=settled.key)
    return partial(_turned if settled.outputs_in_a else _plain, scale=scale)


def _plain(parts: Parts, _base: Tensor | None, *, scale: float) -> LowRank:
    return LowRank(parts["lora_B"], parts["lora_A"], scale)


def _turned(parts: Parts, _base: Tensor | None, *, scale: float) -> LowRank:
    return LowRank(parts["lora_A"].mT, parts["lora_B"].mT, scale)


def _unsettled(_parts: Parts, _base: Tensor | None, *, key: str) -> Operator:
    raise AdapterError(
        f"{key[:80]!r}: whether its lora_A is for inputs or outputs depends on the peft that wrote it and on how the "
        "base lays out its experts; give the base with its config.json"
    )
