"""Pairing a weighted sum of adapters with its base."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TypeAlias

from wanalyze.adapters import Mixture, Shift, Update
from wanalyze.adapters.mixture import mixed_shift, mixed_update, replaced_vector, replacement
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.checkpoints.content import turned
from wanalyze.errors import PairingError
from wanalyze.pairing.adapters import draft_adapter
from wanalyze.pairing.draft import Draft, finished
from wanalyze.pairing.mapping import NameMap
from wanalyze.pairing.pair import Pair, Pairing, Skipped
from wanalyze.pairing.selection import Selection

_REPLACED = "saved whole: its difference from the base counts, times its weight"

Weighted: TypeAlias = Sequence[tuple[float, Pair]]
Owner: TypeAlias = Callable[[Pair], str]


@dataclass(frozen=True)
class _Term:
    """How one adapter pairs: by the names of its pairs, and by the tensor of the base that each lies in."""

    weight: float
    pairs: Mapping[str, Pair]
    within: Mapping[str, Sequence[Pair]]

    def others(self, pair: Pair, owner: str) -> Iterator[Pair]:
        """Where this adapter does not know a pair by its name: what it pairs in that place, parts or a whole."""
        if pair.name not in self.pairs:
            yield from (other for other in self.within.get(owner, ()) if _overlap(pair, other))


def pair_mixture(
    base: Checkpoint,
    mixture: Mixture,
    selection: Selection,
    name_map: NameMap | None = None,
    *,
    allow_unmatched: bool,
) -> Pairing:
    """Pair each adapter as if it were alone, and add up what they do to each tensor.

    A tensor that one of them skips is skipped: its sum would lack a term.
    """
    drafts = [draft_adapter(base, a, selection, name_map, allow_unmatched=allow_unmatched) for _, a in mixture.terms]
    owner_of = _owners(base)
    terms = [_term(weight, draft, owner_of) for (weight, _), draft in zip(mixture.terms, drafts, strict=True)]
    skipped = dict.fromkeys(item for draft in drafts for item in draft.skipped)
    gone = {item.name for item in skipped}
    found = [item for item in _sums(terms, owner_of, mixture.name) if item.name not in gone]
    pairs = [item for item in found if isinstance(item, Pair)]
    return finished(
        [pair for pair in pairs if not _is_vector(pair)],
        [pair for pair in pairs if _is_vector(pair)],
        [*skipped, *(item for item in found if isinstance(item, Skipped))],
        mixture.name,
        base.name,
    )


def _owners(base: Checkpoint) -> Owner:
    """Finds the tensor of the base in which a pair lies: a part of it, or the whole under whichever name."""
    starts: dict[int, list[tuple[int, str]]] = {}
    for name, entry in base.entries.items():
        for file, (start, _) in entry.content.pieces:
            starts.setdefault(id(file), []).append((start, name))
    for found in starts.values():
        found.sort()

    def owner_of(pair: Pair) -> str:
        file, (start, _) = pair.base.content.pieces[0]
        return starts[id(file)][bisect_right(starts[id(file)], start, key=itemgetter(0)) - 1][1]

    return owner_of


def _term(weight: float, draft: Draft, owner_of: Owner) -> _Term:
    pairs = {pair.name: pair for pair in (*draft.matrices, *draft.vectors)}
    within: dict[str, list[Pair]] = {}
    for pair in pairs.values():
        within.setdefault(owner_of(pair), []).append(pair)
    return _Term(weight, pairs, within)


def _is_vector(pair: Pair) -> bool:
    return len(pair.base.shape) == 1


def _sums(terms: Sequence[_Term], owner_of: Owner, where: str) -> Iterator[Pair | Skipped]:
    for name in dict.fromkeys(name for term in terms for name in term.pairs):
        found = [(term.weight, term.pairs[name]) for term in terms if name in term.pairs]
        touched = [(weight, pair) for weight, pair in found if pair.tuned is not None]
        first = (touched or found)[0][1]
        others = [other for term in terms for other in term.others(first, owner_of(first))]
        if touched:
            _check_alone(first, others, where)
            yield _sum(touched, where)
        elif not any(other.tuned is not None or _count(other) <= _count(first) for other in others):
            yield first


def _check_alone(pair: Pair, others: Sequence[Pair], where: str) -> None:
    """Refuse a sum of parts of a tensor that one adapter changes and the whole of it that another changes."""
    if isinstance(pair.tuned, Update) and pair.tuned.replica is not None:  # a run of a layer, beside its other runs
        return
    for other in others:
        if other.tuned is not None:
            raise PairingError(
                f"{where}: one adapter changes {pair.name!r} and another {other.name!r}, which the base stores in one "
                "place; how the two add up is not known, so compare each on its own"
            )


def _count(pair: Pair) -> int:
    return math.prod(pair.base.shape)


def _overlap(one: Pair, other: Pair) -> bool:
    return any(
        file is same and start < end + size and end < start + length
        for file, (start, length) in one.base.content.pieces
        for same, (end, size) in other.base.content.pieces
    )


def _sum(touched: Weighted, where: str) -> Pair | Skipped:
    weight, first = touched[0]
    if len(touched) == 1 and weight == 1:
        return first
    if _is_vector(first):
        shifts = [(weight, _as_shift(pair)) for weight, pair in touched]
        return replace(first, tuned=mixed_shift(first.base.name, shifts))
    return _sum_of_matrices(touched, where)


def _sum_of_matrices(touched: Weighted, where: str) -> Pair | Skipped:
    first, name = touched[0][1], touched[0][1].name
    # What is saved whole lies as the base's does, whichever way that is: updates must say which.
    ways = {pair.transposed for _, pair in touched if isinstance(pair.tuned, Update)}
    if len(ways) > 1:
        raise PairingError(
            f"{where}: by one adapter the base stores {name!r} as (in, out), by another as (out, in) (fan_in_fan_out); "
            "one of the two must be mended"
        )
    rows = min((pair.rows for _, pair in touched if pair.rows is not None), default=None)
    if ways and rows not in (None, first.base.shape[0]):
        return Skipped(name, f"one adapter updates all its rows, another replaces the first {rows}")
    whole = replace(first, rows=rows, transposed=first.transposed if not ways else True in ways, note=_note(touched))
    updates = [(weight, _as_update(pair, whole.transposed)) for weight, pair in touched]
    return replace(whole, tuned=mixed_update(name, (whole.shape[0], whole.shape[1]), updates))


def _note(touched: Weighted) -> str | None:
    notes = [pair.note for _, pair in touched]
    notes += [_REPLACED for _, pair in touched if isinstance(pair.tuned, TensorEntry)]
    return "; ".join(dict.fromkeys(filter(None, notes))) or None


def _as_update(pair: Pair, transposed: bool) -> Update:
    if isinstance(pair.tuned, TensorEntry):
        entry = TensorEntry(pair.tuned.name, turned(pair.tuned.content)) if transposed else pair.tuned
        return replacement(pair.name, entry)
    assert isinstance(pair.tuned, Update)
    return pair.tuned


def _as_shift(pair: Pair) -> Shift:
    if isinstance(pair.tuned, TensorEntry):
        return replaced_vector(pair.base.name, pair.tuned)
    assert isinstance(pair.tuned, Shift)
    return pair.tuned
