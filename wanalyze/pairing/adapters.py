"""Pairing an adapter with its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from wanalyze.adapters import Adapter, Shift, Update
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.errors import PairingError
from wanalyze.naming import places
from wanalyze.pairing import mapping
from wanalyze.pairing.checkpoints import pair_tensors
from wanalyze.pairing.draft import Draft, drafted
from wanalyze.pairing.mapping import NameMap
from wanalyze.pairing.pair import Pair, Pairing, Skipped
from wanalyze.pairing.pieces import Pieces
from wanalyze.pairing.selection import Selection
from wanalyze.pairing.side import Side
from wanalyze.pairing.tied import embedding_for, tied_to


def pair_adapter(
    base: Checkpoint,
    adapter: Adapter,
    selection: Selection,
    name_map: NameMap | None = None,
    *,
    allow_unmatched: bool,
) -> Pairing:
    """Pair an adapter with the base: see `draft_adapter`; PairingError where nothing is left to compare."""
    draft = draft_adapter(base, adapter, selection, name_map, allow_unmatched=allow_unmatched)
    return draft.finish(adapter.name, base.name)


def draft_adapter(
    base: Checkpoint,
    adapter: Adapter,
    selection: Selection,
    name_map: NameMap | None = None,
    *,
    allow_unmatched: bool,
) -> Draft:
    """Pair an adapter's modules with the base's weights; what it leaves alone is a pair without a tuned side.

    A module without its weight is a PairingError unless `allow_unmatched`: servers that drop such modules
    silently serve the base.
    """
    replaced = {name: TensorEntry(name, entry.content) for name, entry in adapter.replaced.items()}
    draft = drafted(base, replaced, None, selection)
    said, rest = _said_of_updates(draft, adapter, name_map or NameMap())
    lost = _file_updates(adapter, draft, said)
    _check_lost(lost, adapter, base, allow_unmatched=allow_unmatched)
    draft.skipped += lost
    for shift in adapter.shifts:
        _file_shift(shift, draft)
    pair_tensors(draft, rest)
    for entry in draft.unseen():
        draft.whole(entry, None)
    return draft


def _file_updates(adapter: Adapter, draft: Draft, said: Mapping[str, TensorEntry]) -> list[Skipped]:
    """File what every update changes, and the rest of tensors changed in part; the updates that belong nowhere."""
    pieces, flag = Pieces(draft.base, draft.tuned), _flag_of(adapter, draft)
    lost, touched = [], _Touched()
    for update in adapter.updates:
        target = said.get(update.module) or _target_of(update, draft)
        found = pieces.pairs(update) if target is None else _pair(target, update, pieces, flag)
        if isinstance(found, str):
            lost.append(Skipped(update.module, found))
            continue
        for pair in found:
            name, index = (pair.base.name, None) if target is None else (target.name, update.index)
            if not touched.add(name, index, update.replica):
                raise PairingError(
                    f"{adapter.name}: two of its modules, {update.module!r} the second, mean {name!r}; "
                    "only one can be served"
                )
            draft.seen.add(name)
            draft.file(_as_replica(pair, update))
    if both := touched.parts.keys() & pieces.taken.keys():
        raise PairingError(f"{adapter.name}: changes {min(both)!r} as a whole and in parts; only one can be served")
    _leave_alone(touched, pieces, draft)
    return lost


@dataclass
class _Touched:
    """Which tensors of the base have an update, and of stacks which experts."""

    parts: dict[str, set[int | None]] = field(default_factory=dict)
    replicas: set[tuple[str, int | None, int]] = field(default_factory=set)

    def add(self, name: str, index: int | None, replica: int | None) -> bool:
        """False where that is taken already."""
        taken = self.parts.setdefault(name, set())
        if replica is not None:  # runs of one layer, each with an update of its own
            key = (name, index, replica)
            is_new = key not in self.replicas
            self.replicas.add(key)
        else:
            is_new = not (index in taken or (taken and (index is None or None in taken)))
        taken.add(index)
        return is_new


def _file_shift(shift: Shift, draft: Draft) -> None:
    """File the change of a vector; a bias that the base does not have cannot be moved."""
    found = draft.lookup.find(shift.target)
    if found is None or found in draft.seen:
        draft.skip(shift.target, "missing in base" if found is None else "the adapter changes it twice")
        return
    draft.seen.add(found)
    draft.file(Pair(draft.base.entries[found], shift))


def _as_replica(pair: Pair, update: Update) -> Pair:
    """A pair under a name of its own, where one layer of the base is run several times."""
    layer, note = places([pair.name])[pair.name].layer, pair.note or update.note
    if update.replica is None or update.replica == layer:
        return replace(pair, note=note)
    name = f"{pair.name}[{update.replica}]"
    return replace(pair, base=TensorEntry(name, pair.base.content), note=note)


class _Flag(NamedTuple):
    """fan_in_fan_out: what the adapter says, and what that is worth where no shape tells."""

    said: bool
    of_squares: bool


def _pair(target: TensorEntry, update: Update, pieces: Pieces, flag: _Flag) -> list[Pair] | str:
    """The one pair of an update and a tensor of the base, or an expert of it; the reason why there is none."""
    if update.index is None:
        transposed = _is_transposed(target, update, pieces.base, flag)
        if isinstance(transposed, str):
            return transposed
        return [Pair(target, update, transposed=transposed, note=tied_to(pieces.base, target))]
    experts = pieces.experts(target)
    if isinstance(experts, str):
        return experts
    if update.index >= len(experts):
        return f"a stack of {len(experts)} experts in the base, expert {update.index} in the update"
    pair = replace(experts[update.index], tuned=update)
    if update.shape is not None and pair.shape != update.shape:
        return f"other shape: {pair.shape} in the base, {update.shape} in the update"
    return [pair]


def _is_transposed(target: TensorEntry, update: Update, base: Side, flag: _Flag) -> bool | str:
    """Whether the base stores (in, out), by the shape if that tells; the reason where the shapes do not fit."""
    shape, is_conv1d = Pair(target, None).shape, base.is_conv1d(target)
    if update.shape is None or shape == update.shape == update.shape[::-1]:
        return flag.of_squares or is_conv1d
    if (flag.said or is_conv1d) and shape == update.shape[::-1]:
        return True
    return False if shape == update.shape else f"other shape: {target.shape} in the base, {update.shape} in the update"


def _flag_of(adapter: Adapter, draft: Draft) -> _Flag:
    """Of square weights the flag is not believed where all others are stored as (out, in): peft overrides it so."""
    found = set()
    for update in adapter.updates if adapter.input_first else ():
        shape, target = update.shape, _target_of(update, draft)
        if update.index is None and shape is not None and shape[0] != shape[1] and target is not None:
            found.add(Pair(target, None).shape == shape[::-1])
    return _Flag(adapter.input_first, adapter.input_first and found != {False})


def _leave_alone(touched: _Touched, pieces: Pieces, draft: Draft) -> None:
    """File the parts without an update of tensors that an adapter changes in part."""
    draft.seen.update(pieces.taken)
    for part in (part for parts in pieces.taken.values() for part in parts):
        if part.entry.name not in touched.parts:
            draft.file(Pair(part.entry, None, transposed=part.transposed))
    for name, indices in touched.parts.items():
        if None not in indices:
            experts = pieces.experts(draft.base.entries[name])
            assert not isinstance(experts, str)
            for index, pair in enumerate(experts):
                if index not in indices:
                    draft.file(pair)


def _said_of_updates(draft: Draft, adapter: Adapter, name_map: NameMap) -> tuple[dict[str, TensorEntry], NameMap]:
    """What the map says of the adapter's modules, and its lines on tensors that the adapter stores whole."""
    modules = {update.module for update in adapter.updates}
    said, rest = {}, []
    for line in name_map.lines:
        module = line.tuned.removesuffix(".weight")
        if module not in modules:
            rest.append(line)
            continue
        found = mapping.find(draft.base, line.base)
        if found is None or found.rows is not None:
            raise name_map.error(line, f"{line.base[:80]!r} is no tensor of the base that an adapter can change")
        said[module] = found.whole
    return said, NameMap(name_map.where, tuple(rest))


def _target_of(update: Update, draft: Draft) -> TensorEntry | None:
    """The base's tensor that an update is for; of a head that is tied to the embedding, that one by the head's name."""
    found = draft.lookup.find(update.target)
    return draft.base.entries[found] if found is not None else embedding_for(draft.base, update.target)


def _check_lost(lost: list[Skipped], adapter: Adapter, base: Checkpoint, *, allow_unmatched: bool) -> None:
    if not lost:
        return
    first = f"{lost[0].name}: {lost[0].reason}"
    if len(lost) == len(adapter.updates):
        raise PairingError(
            f"{adapter.name}: none of its {len(lost)} modules has a weight in {base.name} ({first}); is this its base?"
        )
    if not allow_unmatched:
        raise PairingError(
            f"{adapter.name}: {len(lost)} of {len(adapter.updates)} modules have no weight in {base.name} "
            f"({first}); pass --allow-unmatched to leave them out"
        )
