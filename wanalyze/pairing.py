"""Which tensor of the tuned belongs to which of the base; what is left over, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeAlias

from wanalyze.adapters import Adapter, Update
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.checkpoints.dtypes import Holds
from wanalyze.errors import PairingError
from wanalyze.naming import module_name

# What wrappers add to a name, and what tells a bare model from one with a head.
_ANYWHERE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_WRAPPERS = re.compile(r"^(?:base_model\.model\.|base_model\.|module\.)+")
_HEADS = re.compile(r"^(?:model\.|transformer\.|language_model\.)+")
# Tensors that lie beside a quantised weight: without them its numbers mean nothing.
_SCALES = ("weight_scale_inv", "weight_scale", "weight.absmax", "SCB", "scales")
_NEW_HEADS = {"score", "classifier", "qa_outputs", "v_head", "summary"}
_VOCABULARY = {"embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_out", "embed_in"}
_CONV1D = {"c_attn", "c_proj", "c_fc", "q_attn"}

Tuned: TypeAlias = TensorEntry | Update


@dataclass(frozen=True)
class Pair:
    """A tensor of the base and what the tuned makes of it; None where an adapter leaves it alone.

    `rows`, where set, is how many leading rows are compared; `transposed` says that the base stores (in, out).
    """

    base: TensorEntry
    tuned: Tuned | None
    rows: int | None = None
    transposed: bool = False
    note: str | None = None

    @property
    def name(self) -> str:
        return module_name(self.base.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows are outputs."""
        shape = self.base.shape[::-1] if self.transposed else self.base.shape
        return shape if self.rows is None else (self.rows, *shape[1:])


@dataclass(frozen=True)
class Skipped:
    """A tensor that is not compared."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pairing:
    """Every tensor of base and tuned, once: in a pair or as skipped."""

    matrices: tuple[Pair, ...]
    vectors: tuple[Pair, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Selection:
    """--only and --skip: globs over module names."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether `name` is to be compared.

        >>> Selection(only=("*q_proj",)).takes("model.layers.0.self_attn.q_proj")
        True
        """
        chosen = not self.only or any(fnmatchcase(name, glob) for glob in self.only)
        return chosen and not any(fnmatchcase(name, glob) for glob in self.skip)


def pair_checkpoint(base: Checkpoint, tuned: Checkpoint, selection: Selection) -> Pairing:
    """Pair two checkpoints by exact name, then by the name without its prefixes, never by shape."""
    draft = _Draft(base, selection)
    for target, entry in _matched(draft, tuned.entries):
        draft.add(draft.pair(target, entry), beside=tuned.entries)
    if not draft.seen:
        raise PairingError(
            f"{tuned.name}: none of its {len(tuned.entries)} tensors has the name of one in {base.name} "
            f"({_some(tuned.entries)} against {_some(base.entries)}); are they of one model?"
        )
    for entry in draft.unseen():
        draft.skip(module_name(entry.name), "missing in tuned")
    return draft.finish(tuned.name)


def pair_adapter(base: Checkpoint, adapter: Adapter, selection: Selection, *, allow_unmatched: bool) -> Pairing:
    """Pair an adapter's modules with the base's weights; what it leaves alone is a pair without a tuned side.

    A module without its weight is a PairingError unless `allow_unmatched`: servers that drop such modules
    silently serve the base.
    """
    draft = _Draft(base, selection)
    lost = []
    for update in adapter.updates:
        target = draft.lookup.find(f"{update.module}.weight")
        if target is None or (misfit := _misfit(update, target, adapter, draft)):
            lost.append(Skipped(update.module, "missing in base" if target is None else misfit))
        elif target.name in draft.seen:
            raise PairingError(
                f"{adapter.name}: two of its modules, {update.module!r} the second, mean {target.name!r}; "
                "only one can be served"
            )
        else:
            draft.add(Pair(target, update, transposed=_stored_transposed(update, target, adapter, draft)))
    _check_lost(lost, adapter, base, allow_unmatched=allow_unmatched)
    draft.skipped += lost
    for target, entry in _matched(draft, adapter.replaced):
        draft.add(draft.pair(target, entry), beside=adapter.replaced)
    for entry in draft.unseen():
        draft.add(draft.pair(entry, None))
    return draft.finish(adapter.name)


def _misfit(update: Update, target: TensorEntry, adapter: Adapter, draft: _Draft) -> str:
    may_be_transposed = adapter.input_first or draft.is_conv1d(target)
    if target.shape == update.shape or (may_be_transposed and target.shape == update.shape[::-1]):
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


def _stored_transposed(update: Update, target: TensorEntry, adapter: Adapter, draft: _Draft) -> bool:
    """Whether the base stores (in, out). The shape tells, except for square weights."""
    if update.shape[0] != update.shape[1]:
        return target.shape != update.shape
    return adapter.input_first or draft.is_conv1d(target)


def _matched(draft: _Draft, tensors: Mapping[str, TensorEntry]) -> Iterator[tuple[TensorEntry, TensorEntry]]:
    """Pairs (base, tuned); a tuned tensor without a counterpart is skipped with its reason."""
    exact_first = sorted(tensors.items(), key=lambda item: item[0] not in draft.base.entries)
    for name, entry in exact_first:
        target = draft.lookup.find(name)
        module = module_name(name)
        if target is not None and target.name not in draft.seen:
            yield target, entry
        elif target is not None:
            draft.skip(module, f"another tensor already stands for {target.name}")
        else:
            parts = set(module.removesuffix(".bias").split("."))
            draft.skip(module, "new head, not in the base" if parts & _NEW_HEADS else "missing in base")


class _Lookup:
    """Find a base tensor by its name, then without wrapper prefixes, then without head prefixes."""

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._entries = entries
        self._steps = [(strip, _unique(strip, entries)) for strip in (_whole, _unwrapped, _headless)]

    def find(self, name: str) -> TensorEntry | None:
        for strip, known in self._steps:
            if (found := known.get(strip(name))) is not None:
                return self._entries[found]
        return None


def _unique(strip: Callable[[str], str], names: Iterable[str]) -> dict[str, str]:
    stripped = [(strip(name), name) for name in names]
    count = Counter(key for key, _ in stripped)
    return {key: name for key, name in stripped if count[key] == 1}


def _whole(name: str) -> str:
    return name


def _unwrapped(name: str) -> str:
    return _WRAPPERS.sub("", _ANYWHERE.sub("", name))


def _headless(name: str) -> str:
    return _HEADS.sub("", _unwrapped(name))


@dataclass
class _Draft:
    """A pairing in the making: sorts each pair into matrices, vectors and skipped."""

    base: Checkpoint
    selection: Selection
    matrices: list[Pair] = field(default_factory=list)
    vectors: list[Pair] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lookup = _Lookup(self.base.entries)
        # GPT-2's Conv1D shows in c_attn, which is (d, 3 d) there and (3 d, d) as a linear layer.
        self._has_conv1d = any(
            name.endswith("c_attn.weight") and len(entry.shape) == 2 and entry.shape[1] == 3 * entry.shape[0]
            for name, entry in self.base.entries.items()
        )

    def pair(self, base: TensorEntry, tuned: TensorEntry | None) -> Pair:
        """A pair of whole tensors; an update is paired by its own shape instead."""
        rows, note = _common_rows(base, tuned) if tuned else (None, None)
        return Pair(base, tuned, rows=rows, note=note, transposed=self.is_conv1d(base))

    def add(self, pair: Pair, *, beside: Mapping[str, TensorEntry] | None = None) -> None:
        """File `pair`; `beside` are the tensors stored with the tuned one."""
        self.seen.add(pair.base.name)
        reason = _why_skipped(pair, self.selection, self.base.entries, beside or {})
        if reason:
            self.skip(pair.name, reason)
        elif len(pair.base.shape) == 1:
            self.vectors.append(pair)
        else:
            self.matrices.append(pair)

    def is_conv1d(self, entry: TensorEntry) -> bool:
        return self._has_conv1d and _last(entry.name) in _CONV1D

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append(Skipped(name, reason))

    def unseen(self) -> list[TensorEntry]:
        return [entry for name, entry in self.base.entries.items() if name not in self.seen]

    def finish(self, tuned: str) -> Pairing:
        if not any(pair.tuned for pair in (*self.matrices, *self.vectors)):
            first = self.skipped[0] if self.skipped else Skipped("no tensor at all", "")
            raise PairingError(
                f"{tuned}: nothing is left to compare with {self.base.name} "
                f"({len(self.skipped)} skipped, the first: {first.name}: {first.reason})"
            )
        return Pairing(tuple(self.matrices), tuple(self.vectors), tuple(self.skipped))


def _why_skipped(
    pair: Pair, selection: Selection, base: Mapping[str, TensorEntry], beside: Mapping[str, TensorEntry]
) -> str:
    """Why a pair cannot be compared; empty if it can."""
    if pair.base.name == pair.name and f"{pair.name}.weight" in base:
        return "another tensor is the weight of this name"
    if not selection.takes(pair.name):
        return "left out by --only or --skip"
    for entry, others, whose in ((pair.base, base, "base"), (pair.tuned, beside, "tuned")):
        if isinstance(entry, TensorEntry) and (reason := _unreadable(entry, others)):
            return f"{reason} in the {whose}"
    shape = pair.base.shape
    if len(shape) not in (1, 2) or 0 in shape:
        return f"not a matrix: shape {list(shape)}"
    if isinstance(pair.tuned, TensorEntry) and pair.tuned.shape != shape and pair.rows is None:
        return f"other shape: {list(shape)} in the base, {list(pair.tuned.shape)} in the tuned"
    return ""


def _unreadable(entry: TensorEntry, beside: Mapping[str, TensorEntry]) -> str:
    if entry.dtype.holds is not Holds.real:
        return f"{entry.dtype.holds.value} ({entry.dtype.name})"
    module = module_name(entry.name)
    scale = next((suffix for suffix in _SCALES if f"{module}.{suffix}" in beside), None)
    return f"quantised (has {scale}), not supported yet" if scale else ""


def _common_rows(base: TensorEntry, tuned: TensorEntry) -> tuple[int | None, str | None]:
    """How to compare an embedding whose vocabulary grew or shrank: its common rows, and a note on that."""
    same = base.shape == tuned.shape
    matrices = len(base.shape) == len(tuned.shape) == 2 and base.shape[1] == tuned.shape[1]
    if same or not matrices or _last(base.name) not in _VOCABULARY:
        return None, None
    before, after = base.shape[0], tuned.shape[0]
    return min(before, after), f"first {min(before, after)} rows compared: the base has {before}, the tuned {after}"


def _last(tensor: str) -> str:
    return module_name(tensor).rpartition(".")[2]


def _some(names: Iterable[str]) -> str:
    return ", ".join([repr(name) for name in names][:2]) or "nothing"
