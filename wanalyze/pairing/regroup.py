"""Tensors that one side stores together and the other apart: experts, queries with keys and values, gate with up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wanalyze.checkpoints import TensorEntry
from wanalyze.naming import module_name
from wanalyze.pairing import experts, fused
from wanalyze.pairing.atom import Atom, Composite
from wanalyze.pairing.pair import Pair, Skipped
from wanalyze.pairing.side import Side


@dataclass
class Regrouped:
    """Pairs of parts, parts without a counterpart, and the tensors on each side that are thereby accounted for."""

    pairs: list[Pair] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    base: set[str] = field(default_factory=set)
    tuned: set[str] = field(default_factory=set)


@dataclass
class Loose:
    """Tensors of one side that found no counterpart by name."""

    side: Side
    composites: list[Composite] = field(default_factory=list)
    single: dict[str, TensorEntry] = field(default_factory=dict)

    def keys(self) -> set[str]:
        return {key for composite in self.composites for key in composite.keys}


@dataclass
class _Parts:
    """Atoms of one side, and the reasons of those that could not be had."""

    atoms: dict[str, Atom] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def regroup(base: Side, tuned: Side, base_left: Iterable[str], tuned_left: Iterable[str]) -> Regrouped:
    """Pair what is left over on both sides by the smallest matrices that either stores.

    Only a tensor that holds several of them is taken apart, and only if the other side has one of its parts. What a
    tuned of a few tensors lacks (`is_partial`) is as it is in the base.
    """
    before, after = loose(base, tuned, base_left), loose(tuned, base, tuned_left)
    done = Regrouped()
    here = _parts(before, after, done.base, done.skipped)
    there = _parts(after, before, done.tuned, done.skipped)
    for key, atom in here.atoms.items():
        other = there.atoms.get(key)
        if other is None and tuned.is_partial and key not in there.refused:
            done.pairs.append(Pair(atom.entry, None, transposed=atom.transposed))
        elif other is None:
            reason = there.refused.get(key, "missing in tuned")
            done.skipped.append(Skipped(module_name(atom.entry.name), reason))
        else:
            done.pairs.append(Pair(atom.entry, other.stored_as(atom), transposed=atom.transposed))
    for key, atom in there.atoms.items():
        if key not in here.atoms:
            reason = here.refused.get(key, "missing in base")
            done.skipped.append(Skipped(module_name(atom.entry.name), reason))
    return done


def loose(side: Side, other: Side, left: Iterable[str]) -> Loose:
    """The tensors of these names, those that hold several matrices apart from those that are one."""
    found = Loose(side)
    for name in left:
        entry = side.entries[name]
        if (composite := _composite(side, other, entry)) is not None:
            found.composites.append(composite)
        else:
            found.single.setdefault(fused.key_of(side.names.canonical(name)), entry)
    return found


def _composite(side: Side, other: Side, entry: TensorEntry) -> Composite | None:
    if experts.is_stack(side, entry):
        return experts.composite(side, other, entry)
    return fused.composite(side, other, entry)


def _parts(loose: Loose, other: Loose, done: set[str], skipped: list[Skipped]) -> _Parts:
    """The atoms of one side that may have a counterpart on the other."""
    parts, theirs = _Parts(), other.keys()
    for key, entry in loose.single.items():
        if key not in theirs:
            continue
        # What is cut from a Conv1D is (in, out); what stands in its place is so if the other Conv1Ds beside it are.
        parts.atoms[key] = Atom(key, entry, loose.side.has_conv1d and len(entry.shape) == 2)
        done.add(entry.name)
    for composite in loose.composites:
        if not any(key in theirs or key in other.single for key in composite.keys):
            continue
        done.add(composite.entry.name)
        found = composite.cut()
        if isinstance(found, str):
            skipped.append(Skipped(module_name(composite.entry.name), found))
            parts.refused.update(dict.fromkeys(composite.keys, found))
        else:
            _take(found, parts, skipped)
    return parts


def _take(found: list[Atom], parts: _Parts, skipped: list[Skipped]) -> None:
    for atom in found:
        if (taken := parts.atoms.setdefault(atom.key, atom)) is not atom:
            reason = f"another tensor already stands for {taken.entry.name}"
            skipped.append(Skipped(module_name(atom.entry.name), reason))
