"""Pairing a weighted sum of adapters with its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class _Term:
    """What one adapter does: every tensor of the base that it sees, by the name of its pair."""

    weight: float
    pairs: Mapping[str, Pair]


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
    terms = [_Term(weight, _by_name(draft)) for (weight, _), draft in zip(mixture.terms, drafts, strict=True)]
    skipped = dict.fromkeys(item for draft in drafts for item in draft.skipped)
    gone = {item.name for item in skipped}
    found = [item for item in _sums(terms, mixture.name) if item.name not in gone]
    pairs = [item for item in found if isinstance(item, Pair)]
    return finished(
        [pair for pair in pairs if not _is_vector(pair)],
        [pair for pair in pairs if _is_vector(pair)],
        [*skipped, *(item for item in found if isinstance(item, Skipped))],
        mixture.name,
        base.name,
    )


def _by_name(draft: Draft) -> dict[str, Pair]:
    return {pair.name: pair for pair in (*draft.matrices, *draft.vectors)}


def _is_vector(pair: Pair) -> bool:
    return len(pair.base.shape) == 1


def _sums(terms: Sequence[_Term], where: str) -> Iterator[Pair | Skipped]:
    for name in dict.fromkeys(name for term in terms for name in term.pairs):
        found = [(term.weight, term.pairs[name]) for term in terms if name in term.pairs]
        touched = [(weight, pair) for weight, pair in found if pair.tuned is not None]
        if touched:
            _check_alone(touched[0][1], [term for term in terms if name not in term.pairs], where)
            yield _sum(touched, where)
        elif len(found) == len(terms):  # what a term lacks, it changes in parts
            yield found[0][1]


def _check_alone(pair: Pair, others: Sequence[_Term], where: str) -> None:
    """Refuse a sum of the parts that one adapter makes of a tensor and the whole that another changes."""
    if isinstance(pair.tuned, Update) and pair.tuned.replica is not None:  # a run of a layer, which is no other's part
        return
    for other in (other for term in others for other in term.pairs.values() if other.tuned is not None):
        if _overlap(pair, other):
            raise PairingError(
                f"{where}: one adapter changes {pair.name!r} and another {other.name!r}, which the base stores in one "
                "place; how the two add up is not known, so compare each on its own"
            )


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
    if len({pair.transposed for _, pair in touched}) > 1:
        raise PairingError(
            f"{where}: by one adapter the base stores {first.name!r} as (in, out), by another as (out, in) "
            "(fan_in_fan_out); one of the two must be mended"
        )
    rows = min((pair.rows for _, pair in touched if pair.rows is not None), default=None)
    if rows not in (None, first.base.shape[0]) and any(isinstance(pair.tuned, Update) for _, pair in touched):
        return Skipped(first.name, f"one adapter updates all its rows, another replaces the first {rows}")
    pair = replace(first, rows=rows, note=_note(touched))
    shape = (pair.shape[0], pair.shape[1])
    return replace(pair, tuned=mixed_update(pair.name, shape, [(weight, _as_update(pair)) for weight, pair in touched]))


def _note(touched: Weighted) -> str | None:
    notes = [pair.note for _, pair in touched]
    notes += [_REPLACED for _, pair in touched if isinstance(pair.tuned, TensorEntry)]
    return "; ".join(dict.fromkeys(filter(None, notes))) or None


def _as_update(pair: Pair) -> Update:
    if isinstance(pair.tuned, TensorEntry):
        entry = TensorEntry(pair.tuned.name, turned(pair.tuned.content)) if pair.transposed else pair.tuned
        return replacement(pair.name, entry)
    assert isinstance(pair.tuned, Update)
    return pair.tuned


def _as_shift(pair: Pair) -> Shift:
    if isinstance(pair.tuned, TensorEntry):
        return replaced_vector(pair.base.name, pair.tuned)
    assert isinstance(pair.tuned, Shift)
    return pair.tuned
