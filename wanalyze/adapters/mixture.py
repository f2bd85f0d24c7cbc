"""A weighted sum of adapters: W0 + Σ wᵢ ΔWᵢ, of the updates themselves and not of their factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, TypeAlias

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Shift, Update
from wanalyze.adapters.layout import product
from wanalyze.checkpoints import TensorEntry, decimal
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, Kronecker, LowRank, Operator, widened

if TYPE_CHECKING:
    from torch import Tensor

_FEW = 4  # terms that a method is named by

Updates: TypeAlias = Sequence[tuple[float, Update]]
Shifts: TypeAlias = Sequence[tuple[float, Shift]]


@dataclass(frozen=True)
class Mixture:
    """Adapters, each with its weight; AdapterError where they are for different stacks of layers."""

    name: str
    terms: tuple[tuple[float, Adapter], ...]

    def __post_init__(self) -> None:
        first, *others = (adapter for _, adapter in self.terms)
        for other in others:
            if other.layers != first.layers:
                raise AdapterError(
                    f"{first.name} and {other.name} run the base's layers in different orders (layer_replication), so "
                    "they make models of different shapes, which have no sum; compare each on its own"
                )

    @property
    def method(self) -> str:
        said = [_said(weight, adapter) for weight, adapter in self.terms]
        if len(said) > _FEW:
            return f"mix of {len(said)} adapters"
        return f"mix of {', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else said[0]

    @property
    def trained_parameters(self) -> int:
        return sum(adapter.trained_parameters for _, adapter in self.terms)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of every adapter, and whether they were made for one base."""
        found = tuple(f"{_said(weight, adapter)}: {note}" for weight, adapter in self.terms for note in adapter.notes)
        bases = dict.fromkeys(filter(None, (base_named(adapter) for _, adapter in self.terms)))
        return (*found, f"its adapters name different bases: {', '.join(bases)}") if len(bases) > 1 else found


def _said(weight: float, adapter: Adapter) -> str:
    return f"{decimal(weight)} × {adapter.method}"


def base_named(adapter: Adapter) -> str | None:
    """The base that an adapter says it was made for; of a path on another machine its last part.

    >>> base_named(Adapter("", "", (), {}, {"base_model": "/home/me/llama"}, 0))
    'llama'
    """
    said = adapter.facts.get("base_model")
    if not isinstance(said, str):
        return None
    path = PureWindowsPath(said)  # which knows both slashes
    return (path.name if path.root or path.drive else said)[:200]


def mixed_update(module: str, shape: tuple[int, int], terms: Updates) -> Update:
    """Σ wᵢ ΔWᵢ of one matrix."""
    return Update(
        module,
        _parts([update for _, update in terms]),
        partial(_summed, terms=terms),
        shape,
        needs_base=any(update.needs_base for _, update in terms),
    )


def mixed_shift(target: str, terms: Shifts) -> Shift:
    """A vector of the base and Σ wᵢ of what each term adds to it."""
    return Shift(target, _parts([shift for _, shift in terms]), partial(_shifted, terms=terms))


def replacement(module: str, entry: TensorEntry) -> Update:
    """What a matrix that is saved whole, rows as outputs, is as an update: its difference from the base's."""
    return Update(module, {"whole": entry}, _difference, None, needs_base=True)


def replaced_vector(target: str, entry: TensorEntry) -> Shift:
    return Shift(target, {"whole": entry}, _whole)


def weighted_sum(terms: Sequence[tuple[float, Operator]]) -> Operator:
    """Σ wᵢ Mᵢ in float64: products of factors as one of all their factors, one Kronecker product as itself.

    peft's `add_weighted_adapter` agrees with it for `combination_type="cat"`. Its "linear" is another sum: it adds up
    the factors, each times the root of its weight, so that their product has cross terms of different adapters.

    >>> two = [(2.0, LowRank(torch.ones(3, 1), torch.ones(1, 3))), (-0.5, LowRank(torch.ones(3, 1), torch.eye(3)[:1]))]
    >>> weighted_sum(two).dense()[0]
    tensor([1.5000, 2.0000, 2.0000], dtype=torch.float64)
    """
    products = [(weight, matrix) for weight, matrix in terms if isinstance(matrix, LowRank)]
    if len(products) == len(terms):
        left = [weight * matrix.scale * widened(matrix.left, torch.float64) for weight, matrix in products]
        return product(torch.cat(left, 1), torch.cat([widened(m.right, torch.float64) for _, m in products], 0))
    weight, matrix = terms[0]
    if len(terms) == 1 and isinstance(matrix, Kronecker):
        return replace(matrix, scale=weight * matrix.scale)
    total = weight * matrix.columns(slice(0, matrix.shape[1]), torch.float64)
    for weight, matrix in terms[1:]:
        total.add_(matrix.columns(slice(0, matrix.shape[1]), torch.float64), alpha=weight)
    return Dense(total)


def _parts(terms: Sequence[Update | Shift]) -> dict[str, TensorEntry]:
    """The tensors of all terms, named by the place of their term."""
    return {f"{place}.{name}": entry for place, term in enumerate(terms) for name, entry in term.parts.items()}


def _own(parts: Parts, place: int, term: Update | Shift) -> Parts:
    return {name: parts[f"{place}.{name}"] for name in term.parts}


def _summed(parts: Parts, base: Tensor | None, *, terms: Updates) -> Operator:
    built = [_built(update, _own(parts, place, update), base) for place, (_, update) in enumerate(terms)]
    return weighted_sum([(weight, matrix) for (weight, _), matrix in zip(terms, built, strict=True)])


def _built(update: Update, parts: Parts, base: Tensor | None) -> Operator:
    """ΔW of one term, where the base lies."""
    if base is None or update.needs_base:
        return update.build(parts, base)
    # Where no base is needed, random numbers may be: those of the CPU, beside which the parts must lie.
    alone = update.build({name: tensor.cpu() for name, tensor in parts.items()}, None)
    return alone.map(lambda tensor: tensor.to(base.device))


def _shifted(parts: Parts, base: Tensor, *, terms: Shifts) -> Tensor:
    before = widened(base, torch.float64)
    after = before.clone()
    for place, (weight, shift) in enumerate(terms):
        after += weight * (widened(shift.build(_own(parts, place, shift), base), torch.float64) - before)
    return after


def _difference(parts: Parts, base: Tensor | None) -> Dense:
    assert base is not None, "only for updates that need the base"
    whole = parts["whole"].flatten(1)[: len(base)]
    return Dense(widened(whole, torch.float64) - widened(base, torch.float64))


def _whole(parts: Parts, _base: Tensor) -> Tensor:
    return parts["whole"]
