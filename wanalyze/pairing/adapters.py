"""Pairing an adapter with its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wanalyze.adapters import Adapter, Shift, Update
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.errors import PairingError
from wanalyze.naming import places
from wanalyze.pairing import mapping
from wanalyze.pairing.checkpoints import pair_tensors
from wanalyze.pairing.draft import Draft, drafted
from wanalyze.pairing.experts import expert_pairs, is_stack
from wanalyze.pairing.mapping import NameMap
from wanalyze.pairing.pair import Pair, Pairing, Skipped
from wanalyze.pairing.pieces import Pieces
from wanalyze.pairing.selection import Selection
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
    pieces, input_first = Pieces(draft.base, draft.tuned), _is_input_first(adapter, draft)
    lost, touched = [], _Touched()
    for update in adapter.updates:
        target = said.get(update.module) or _target_of(update, draft)
        found = pieces.pairs(update) if target is None else _pair(target, update, draft, input_first=input_first)
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


def _pair(target: TensorEntry, update: Update, draft: Draft, *, input_first: bool) -> list[Pair] | str:
    """The one pair of an update and a tensor of the base, or an expert of it; the reason why there is none."""
    if update.index is None:
        is_turned = input_first or draft.base.is_conv1d(target)
        if misfit := _misfit(update, target, is_turned=is_turned):
            return misfit
        transposed = _stored_transposed(update, target, is_turned=is_turned)
        return [Pair(target, update, transposed=transposed, note=tied_to(draft.base, target))]
    experts = expert_pairs(draft.base, draft.tuned, target, None) if is_stack(draft.base, target) else "no stack"
    if isinstance(experts, str):
        return experts
    if update.index >= len(experts):
        return f"a stack of {len(experts)} experts in the base, expert {update.index} in the update"
    pair = replace(experts[update.index], tuned=update)
    if update.shape is not None and pair.shape != update.shape:
        return f"other shape: {pair.shape} in the base, {update.shape} in the update"
    return [pair]


def _leave_alone(touched: _Touched, pieces: Pieces, draft: Draft) -> None:
    """File the parts without an update of tensors that an adapter changes in part."""
    draft.seen.update(pieces.taken)
    for part in (part for parts in pieces.taken.values() for part in parts):
        if part.entry.name not in touched.parts:
            draft.file(Pair(part.entry, None, transposed=part.transposed))
    for name, indices in touched.parts.items():
        if None not in indices:
            experts = expert_pairs(draft.base, draft.tuned, draft.base.entries[name], None)
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


def _is_input_first(adapter: Adapter, draft: Draft) -> bool:
    """Whether fan_in_fan_out means what it says: peft overrides it by the type of each layer.

    A weight that is not square shows the contrary where the base stores it as (out, in).
    """
    if not adapter.input_first:
        return False
    sides = [(update.shape, _target_of(update, draft)) for update in adapter.updates if update.index is None]
    return not any(
        shape is not None and shape[0] != shape[1] and target is not None and Pair(target, None).shape == shape
        for shape, target in sides
    )


def _misfit(update: Update, target: TensorEntry, *, is_turned: bool) -> str:
    shape = Pair(target, None).shape
    if update.shape is None or shape == update.shape or (is_turned and shape == update.shape[::-1]):
        return ""
    return f"other shape: {target.shape} in the base, {update.shape} in the update"


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


def _stored_transposed(update: Update, target: TensorEntry, *, is_turned: bool) -> bool:
    """Whether the base stores (in, out). The shape tells, except for square weights."""
    if update.shape is not None and update.shape[0] != update.shape[1]:
        return Pair(target, None).shape != update.shape
    return is_turned
