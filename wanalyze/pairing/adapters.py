"""Pairing an adapter with its base."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from wanalyze.adapters import Adapter, Shift, Update
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.errors import PairingError
from wanalyze.naming import places
from wanalyze.pairing import fused, mapping
from wanalyze.pairing.checkpoints import pair_tensors
from wanalyze.pairing.draft import Draft, drafted
from wanalyze.pairing.experts import expert_pairs, is_stack
from wanalyze.pairing.mapping import NameMap
from wanalyze.pairing.pair import Pair, Pairing, Skipped
from wanalyze.pairing.selection import Selection


def pair_adapter(
    base: Checkpoint,
    adapter: Adapter,
    selection: Selection,
    name_map: NameMap | None = None,
    *,
    allow_unmatched: bool,
) -> Pairing:
    """Pair an adapter's modules with the base's weights; what it leaves alone is a pair without a tuned side.

    A module without its weight is a PairingError unless `allow_unmatched`: servers that drop such modules
    silently serve the base.
    """
    replaced = {name: TensorEntry(name, entry.content) for name, entry in adapter.replaced.items()}
    draft = drafted(base, replaced, None, selection)
    said, rest = _said_of_updates(draft, adapter, name_map or NameMap())
    lost, touched = [], _Touched()
    for update in adapter.updates:
        target = said.get(update.module) or _target_of(update, draft)
        found = _why_lost(update, draft) if target is None else _pair(target, update, adapter, draft)
        if isinstance(found, str):
            lost.append(Skipped(update.module, found))
            continue
        found = _as_replica(found, update)
        assert target is not None
        if not touched.add(target.name, update):
            raise PairingError(
                f"{adapter.name}: two of its modules, {update.module!r} the second, mean {target.name!r}; "
                "only one can be served"
            )
        draft.seen.add(target.name)
        draft.file(found)
    _check_lost(lost, adapter, base, allow_unmatched=allow_unmatched)
    draft.skipped += lost
    _leave_alone(touched, draft)
    for shift in adapter.shifts:
        _file_shift(shift, draft)
    pair_tensors(draft, rest)
    for entry in draft.unseen():
        draft.whole(entry, None)
    return draft.finish(adapter.name, base.name)


@dataclass
class _Touched:
    """Which tensors of the base have an update, and of stacks which experts."""

    parts: dict[str, set[int | None]] = field(default_factory=dict)
    replicas: set[tuple[str, int | None, int]] = field(default_factory=set)

    def add(self, name: str, update: Update) -> bool:
        """False where that is taken already."""
        index, taken = update.index, self.parts.setdefault(name, set())
        if update.replica is not None:  # runs of one layer, each with an update of its own
            key = (name, index, update.replica)
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
    layer = places([pair.name])[pair.name].layer
    if update.replica is None or update.replica == layer:
        return replace(pair, note=update.note)
    name = f"{pair.name}[{update.replica}]"
    return replace(pair, base=TensorEntry(name, pair.base.content), note=update.note)


def _pair(target: TensorEntry, update: Update, adapter: Adapter, draft: Draft) -> Pair | str:
    if update.index is None:
        if misfit := _misfit(update, target, adapter, draft):
            return misfit
        return Pair(target, update, transposed=_stored_transposed(update, target, adapter, draft))
    experts = expert_pairs(draft.base, draft.tuned, target, None) if is_stack(draft.base, target) else "no stack"
    if isinstance(experts, str):
        return experts
    if update.index >= len(experts):
        return f"a stack of {len(experts)} experts in the base, expert {update.index} in the update"
    pair = replace(experts[update.index], tuned=update)
    if update.shape is not None and pair.shape != update.shape:
        return f"other shape: {pair.shape} in the base, {update.shape} in the update"
    return pair


def _leave_alone(touched: _Touched, draft: Draft) -> None:
    """The experts of a stack that an adapter changes only in part."""
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
    found = draft.lookup.find(update.target)
    return None if found is None else draft.base.entries[found]


def _why_lost(update: Update, draft: Draft) -> str:
    whole = fused.split_of(draft.base, update.module)
    if whole is None:
        return "missing in base"
    return f"fused in the base ({whole}), split in the adapter; adapters on fused weights are not supported yet"


def _misfit(update: Update, target: TensorEntry, adapter: Adapter, draft: Draft) -> str:
    may_be_transposed = adapter.input_first or draft.base.is_conv1d(target)
    shape = Pair(target, None).shape
    if update.shape is None or shape == update.shape or (may_be_transposed and shape == update.shape[::-1]):
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


def _stored_transposed(update: Update, target: TensorEntry, adapter: Adapter, draft: Draft) -> bool:
    """Whether the base stores (in, out). The shape tells, except for square weights."""
    if update.shape is not None and update.shape[0] != update.shape[1]:
        return Pair(target, None).shape != update.shape
    return adapter.input_first or draft.base.is_conv1d(target)
