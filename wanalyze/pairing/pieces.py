"""Updates of matrices that the base groups in another way: as parts of a fused weight or a stack, or apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from wanalyze.adapters import Update, rows_of
from wanalyze.checkpoints import TensorEntry
from wanalyze.naming import module_name
from wanalyze.pairing import experts, fused
from wanalyze.pairing.atom import Atom, Composite, Span
from wanalyze.pairing.pair import Pair
from wanalyze.pairing.regroup import Loose, loose
from wanalyze.pairing.side import Side


@dataclass
class Pieces:
    """The smallest matrices that a base holds, found by those of an update whose own name it does not have.

    `taken` are the tensors of the base that were taken apart for one, with all their parts.
    """

    base: Side
    tuned: Side
    taken: dict[str, list[Atom]] = field(default_factory=dict)
    _experts: dict[str, list[Pair] | str] = field(default_factory=dict)

    def pairs(self, update: Update) -> list[Pair] | str:
        """A pair for every matrix of the base that the update is for; the reason where there is none."""
        pieces = _pieces(update, self.base)
        if isinstance(pieces, str):
            return pieces
        found = []
        # What is one matrix on both sides has been looked for by its name; another way to write that would be a guess.
        may_be_single = update.index is not None or len(pieces) > 1
        for key, piece in pieces:
            atom = self._atom(key, may_be_single=may_be_single)
            if isinstance(atom, str):
                return atom
            pair = Pair(atom.entry, piece, transposed=atom.transposed)
            if piece.shape is not None and pair.shape != piece.shape:
                return f"other shape: {pair.shape} of {module_name(pair.name)} in the base, {piece.shape} in the update"
            found.append(pair)
        return found

    def experts(self, stack: TensorEntry) -> list[Pair] | str:
        """A pair for every expert of a tensor of the base; the reason where it cannot be taken apart."""
        if stack.name not in self._experts:
            is_stack = experts.is_stack(self.base, stack)
            self._experts[stack.name] = (
                experts.expert_pairs(self.base, self.tuned, stack, None) if is_stack else "no stack"
            )
        return self._experts[stack.name]

    def _atom(self, key: str, *, may_be_single: bool) -> Atom | str:
        single = self._loose.single.get(key)
        if single is not None and may_be_single:
            return Atom(key, single, self.base.is_conv1d(single))
        composite = self._composites.get(key)
        if composite is None:
            return "missing in base"
        name = composite.entry.name
        if name not in self.taken:
            atoms = composite.cut()
            if isinstance(atoms, str):
                return atoms
            self.taken[name] = atoms
        return next(atom for atom in self.taken[name] if atom.key == key)

    @cached_property
    def _loose(self) -> Loose:
        return loose(self.base, self.tuned, self.base.entries)

    @cached_property
    def _composites(self) -> dict[str, Composite]:
        return {key: composite for composite in self._loose.composites for key in composite.keys}


def _pieces(update: Update, base: Side) -> list[tuple[str, Update]] | str:
    """The keys of the matrices that an update is for, and what it does to each."""
    spans = _spans(update, base)
    if isinstance(spans, str):
        return spans
    if update.needs_base and len(spans) > 1:
        return "fused in the adapter, split in the base, and its update depends on the fused weight as a whole"
    return [(key, update if span is None else rows_of(update, *span)) for key, span in spans.items()]


def _spans(update: Update, base: Side) -> dict[str, Span | None] | str:
    module, rows = base.module(update.target), None if update.shape is None else update.shape[0]
    if update.index is None:
        return fused.spans_of(base, module, rows)
    return experts.spans_of(base, module, update.index, rows)
