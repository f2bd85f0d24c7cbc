"""A pairing in the making: every pair becomes a matrix, a vector or a reason why it is neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.checkpoints.dtypes import Holds
from wanalyze.errors import PairingError
from wanalyze.naming import module_name
from wanalyze.pairing.architecture import architecture_of
from wanalyze.pairing.atom import Atom
from wanalyze.pairing.experts import expert_pairs, is_stack
from wanalyze.pairing.names import Lookup, Names
from wanalyze.pairing.pair import Pair, Pairing, Skipped
from wanalyze.pairing.selection import Selection
from wanalyze.pairing.side import Side, conv1d_of, last

_VOCABULARY = {"embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_out", "embed_in"}
_KERNEL = range(3, 6)  # dimensions of the weight of a convolution


@dataclass
class Draft:
    """`seen` are the tensors of the base that are accounted for, `used` those of the tuned."""

    base: Side
    tuned: Side
    selection: Selection
    matrices: list[Pair] = field(default_factory=list)
    vectors: list[Pair] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    _filed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lookup = Lookup(self.base.entries, self.base.names)

    def whole(self, before: TensorEntry, after: TensorEntry | None) -> None:
        """File two whole tensors, a stack of experts as a pair for each."""
        self.seen.add(before.name)
        if after is not None:
            self.used.add(after.name)
        if reason := _unreadable(before, after):
            self.skip(module_name(before.name), reason)
        elif is_stack(self.base, before):
            found = expert_pairs(self.base, self.tuned, before, after)
            if isinstance(found, str):
                self.skip(module_name(before.name), found)
            else:
                for pair in found:
                    self.file(pair)
        else:
            self.file(self._pair(before, after))

    def _pair(self, before: TensorEntry, after: TensorEntry | None) -> Pair:
        transposed = self.base.is_conv1d(before)
        if after is None:
            return Pair(before, None, transposed=transposed)
        rows, note = _common_rows(before, after)
        like = Atom("", after, self.tuned.is_conv1d(after)).stored_as(Atom("", before, transposed))
        return Pair(before, like, rows=rows, note=note, transposed=transposed)

    def file(self, pair: Pair) -> None:
        """File a pair, of whole tensors or of parts."""
        reason = self._why_skipped(pair)
        if reason:
            self.skip(pair.name, reason)
            return
        self._filed.add(pair.name)
        (self.vectors if len(pair.base.shape) == 1 else self.matrices).append(pair)

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append(Skipped(name, reason))

    def unseen(self) -> list[TensorEntry]:
        return [entry for name, entry in self.base.entries.items() if name not in self.seen]

    def unused(self) -> list[str]:
        return [name for name in self.tuned.entries if name not in self.used]

    def finish(self, tuned: str, base: str) -> Pairing:
        return finished(self.matrices, self.vectors, self.skipped, tuned, base)

    def _why_skipped(self, pair: Pair) -> str:
        """Why a pair cannot be compared; empty if it can."""
        if self._is_shadowed(pair):
            return "another tensor is the weight of this name"
        if not self.selection.takes(pair.name):
            return "left out by --only or --skip"
        after = pair.tuned if isinstance(pair.tuned, TensorEntry) else None
        if reason := _unreadable(pair.base, after):
            return reason
        shape = pair.base.shape
        is_kernel = len(shape) in _KERNEL and pair.base.name.endswith(".weight")
        if not (len(shape) in (1, 2) or is_kernel) or 0 in shape:
            return f"not a matrix: shape {list(shape)}"
        if after is not None and after.shape != shape and pair.rows is None:
            return f"other shape: {list(shape)} in the base, {list(after.shape)} in the tuned"
        return ""

    def _is_shadowed(self, pair: Pair) -> bool:
        """Everything is filed under its name: a part must not take that of a tensor, nor `x` that of `x.weight`."""
        entries = self.base.entries
        if pair.name in self._filed:
            return True
        if entries.get(pair.base.name) is pair.base:
            return pair.base.name == pair.name and f"{pair.name}.weight" in entries
        return pair.name in entries or f"{pair.name}.weight" in entries


def drafted(
    base: Checkpoint, entries: Mapping[str, TensorEntry], config: Mapping[str, object] | None, selection: Selection
) -> Draft:
    """A draft without any pair, of the base and of the tensors of a tuned model with this config.json.

    Without a config they are what an adapter stores whole.
    """
    before, after = architecture_of(base.config), architecture_of(config or {})
    names = Names(before.types | after.types)
    here, there = conv1d_of(base.entries, entries)
    return Draft(
        Side("base", base.entries, before, names, here),
        Side("tuned", entries, after, names, there, is_partial=config is None),
        selection,
    )


def finished(
    matrices: Iterable[Pair], vectors: Iterable[Pair], skipped: Iterable[Skipped], tuned: str, base: str
) -> Pairing:
    """The pairing of two models of these names; PairingError if there is nothing to compare."""
    found = Pairing(tuple(matrices), tuple(vectors), tuple(skipped))
    if not any(pair.tuned for pair in (*found.matrices, *found.vectors)):
        first = found.skipped[0] if found.skipped else Skipped("no tensor at all", "")
        raise PairingError(
            f"{tuned}: nothing is left to compare with {base} "
            f"({len(found.skipped)} skipped, the first: {first.name}: {first.reason})"
        )
    return found


def some(names: Iterable[str]) -> str:
    """The first two names, for a sentence."""
    return ", ".join([repr(name[:80]) for name in names][:2]) or "nothing"


def _unreadable(before: TensorEntry, after: TensorEntry | None) -> str:
    for entry, whose in ((before, "base"), (after, "tuned")):
        if entry is not None and entry.dtype.holds is not Holds.real:
            return f"{entry.dtype.holds.value} ({entry.dtype.name}) in the {whose}"
    return ""


def _common_rows(base: TensorEntry, tuned: TensorEntry) -> tuple[int | None, str | None]:
    """How to compare an embedding whose vocabulary grew or shrank: its common rows, and a note on that."""
    same = base.shape == tuned.shape
    matrices = len(base.shape) == len(tuned.shape) == 2 and base.shape[1] == tuned.shape[1]
    if same or not matrices or last(base.name) not in _VOCABULARY:
        return None, None
    before, after = base.shape[0], tuned.shape[0]
    return min(before, after), f"first {min(before, after)} rows compared: the base has {before}, the tuned {after}"
