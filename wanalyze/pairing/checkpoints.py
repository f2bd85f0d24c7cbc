"""Pairing two checkpoints."""

from __future__ import annotations

import re

from wanalyze.checkpoints import Checkpoint
from wanalyze.errors import PairingError
from wanalyze.naming import module_name
from wanalyze.pairing import mapping, tied
from wanalyze.pairing.draft import Draft, drafted, some
from wanalyze.pairing.mapping import NameMap
from wanalyze.pairing.names import match
from wanalyze.pairing.pair import Pair, Pairing
from wanalyze.pairing.regroup import regroup
from wanalyze.pairing.selection import Selection
from wanalyze.pairing.tied import Ends

_NEW_HEADS = {"score", "classifier", "qa_outputs", "v_head", "summary"}
_FACTOR = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\.|$)")


def pair_checkpoint(
    base: Checkpoint, tuned: Checkpoint, selection: Selection, name_map: NameMap | None = None
) -> Pairing:
    """Pair two checkpoints: as `name_map` says, then by name, then the parts of what one of them fuses or stacks."""
    draft = drafted(base, tuned.entries, tuned.config, selection)
    pair_tensors(draft, name_map or NameMap())
    if not draft.seen:
        raise PairingError(
            f"{tuned.name}: none of its {len(tuned.entries)} tensors has the name of one in {base.name} "
            f"({some(tuned.entries)} against {some(base.entries)}); are they of one model?"
        )
    for entry in draft.unseen():
        draft.skip(module_name(entry.name), "missing in tuned")
    return draft.finish(tuned.name, base.name)


def pair_tensors(draft: Draft, name_map: NameMap) -> None:
    """Pair all tensors of the tuned, or skip them with a reason."""
    pair_mapped(draft, name_map)
    ends = tied.ends_of(draft.base), tied.ends_of(draft.tuned)
    _leave_out_tied(draft, *ends)
    matches = match(draft.lookup, draft.unused(), draft.seen)
    for name, target in matches.found.items():
        draft.whole(draft.base.entries[target], draft.tuned.entries[name])
    for name, target in matches.doubles.items():
        draft.used.add(name)
        draft.skip(module_name(name), f"another tensor already stands for {target}")
    _pair_tied(draft, *ends)
    _pair_parts(draft)
    for name in draft.unused():
        draft.skip(module_name(name), _why_lost(name))


def pair_mapped(draft: Draft, name_map: NameMap) -> None:
    """Pair the tensors that the map names; PairingError for a name that is in neither."""
    befores, afters = [], []
    for line in name_map.lines:
        before, after = mapping.find(draft.base, line.base), mapping.find(draft.tuned, line.tuned)
        for found, name, whose in ((before, line.base, "base"), (after, line.tuned, "tuned")):
            if found is None:
                raise name_map.error(line, f"{name[:80]!r} is no tensor of the {whose}, nor rows that it has")
        assert before is not None
        assert after is not None
        befores.append(before)
        afters.append(after)
        draft.seen.add(before.whole.name)
        draft.used.add(after.whole.name)
        one, other = before.atom(draft.base), after.atom(draft.tuned)
        draft.file(Pair(one.entry, other.stored_as(one), transposed=one.transposed, note="paired by --map"))
    for side, named in ((draft.base, befores), (draft.tuned, afters)):
        for name in mapping.gaps(side, named):
            draft.skip(name, "rows that --map leaves out")


def _leave_out_tied(draft: Draft, before: Ends, after: Ends) -> None:
    reason = tied.counted_there(draft.base, draft.tuned, before, after)
    if reason is None:
        return
    heads = []
    for end, accounted in ((before, draft.seen), (after, draft.used)):
        if end.head is not None and end.head.name not in accounted:
            accounted.add(end.head.name)
            heads.append(module_name(end.head.name))
    if heads:
        draft.skip(heads[0], reason)


def _pair_tied(draft: Draft, before: Ends, after: Ends) -> None:
    found = tied.tied_pair(draft.base, draft.tuned, before, after)
    accounted = draft.used if found and found.in_tuned else draft.seen
    if found is not None and found.head not in accounted:
        accounted.add(found.head)
        draft.file(found.pair)


def _pair_parts(draft: Draft) -> None:
    left = [entry.name for entry in draft.unseen()]
    done = regroup(draft.base, draft.tuned, left, draft.unused())
    draft.seen |= done.base
    draft.used |= done.tuned
    draft.skipped += done.skipped
    for pair in done.pairs:
        draft.file(pair)


def _why_lost(name: str) -> str:
    if _FACTOR.search(name):
        return "a factor of LoRA that is not merged: merge it, or pass the adapter instead"
    parts = set(module_name(name).removesuffix(".bias").split("."))
    return "new head, not in the base" if parts & _NEW_HEADS else "missing in base"
