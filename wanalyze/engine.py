"""Many pairs: what is read when, in which order, on which device; from references to a result."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from wanalyze import measure
from wanalyze.adapters import Adapter, parse_adapter
from wanalyze.checkpoints import Checkpoint, Reference, TensorEntry, open_checkpoint, open_source
from wanalyze.errors import NumericsError, UsageError
from wanalyze.measure import Base, Measurement, Scope
from wanalyze.naming import Place, places
from wanalyze.operators import LowRank
from wanalyze.pairing import Pair, Pairing, Selection, pair_adapter, pair_checkpoint
from wanalyze.result import (
    Ambiguity,
    File,
    Model,
    Module,
    Result,
    Settings,
    SkippedTensor,
    Source,
    Status,
    Tool,
    Vector,
    summarise,
)
from wanalyze.version import VERSION

BASE_LABEL = "base"
_DIGITS = 12  # significant digits kept in a record: more than any input determines, equal on every run


@dataclass(frozen=True)
class Options:
    """What a run is asked for."""

    top_k: int = 10
    epsilon: float = 0.5
    selection: Selection = Selection()
    device: str = "auto"
    jobs: int | None = None
    allow_unmatched: bool = False


@dataclass(frozen=True)
class Step:
    """How far a run is; `done` and `total` in units of work, m · n · min(m, n) for a matrix."""

    name: str
    done: int
    total: int


Progress: TypeAlias = Callable[[Step], None]


@dataclass(frozen=True)
class Tuned:
    """A tuned model, opened and paired with the base."""

    reference: Reference
    source: Checkpoint | Adapter
    checkpoint: Checkpoint
    pairing: Pairing

    @property
    def label(self) -> str:
        return self.reference.label

    @property
    def method(self) -> str:
        return self.source.method if isinstance(self.source, Adapter) else "full weights"


@dataclass(frozen=True)
class Plan:
    """All that is known before a tensor is read."""

    reference: Reference
    base: Checkpoint
    tuned: tuple[Tuned, ...]
    options: Options
    device: torch.device

    @property
    def matrices(self) -> list[tuple[str, list[tuple[Tuned, Pair]]]]:
        """For each matrix of the base, in reading order, what it is compared with."""
        jobs: dict[str, list[tuple[Tuned, Pair]]] = {}
        for tuned in self.tuned:
            for pair in tuned.pairing.matrices:
                jobs.setdefault(pair.name, []).append((tuned, pair))
        return sorted(jobs.items(), key=lambda item: _natural(item[0]))

    @property
    def cost(self) -> int:
        """Work of the whole run, in the unit of `Step`."""
        return sum(_cost(pair) for _, jobs in self.matrices for _, pair in jobs)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of matrices that will be read, each once."""
        entries = {pair.base.name: pair.base.size for _, jobs in self.matrices for _, pair in jobs if pair.tuned}
        return sum(entries.values()) + sum(_tuned_bytes(pair) for _, jobs in self.matrices for _, pair in jobs)


def plan(base: Reference, tuned: Sequence[Reference], options: Options) -> Plan:
    """Open everything, pair it and check the request; reads headers only."""
    _check_options(options)
    _check_labels(tuned)
    checkpoint = open_checkpoint(base.path)
    opened = tuple(_open_tuned(checkpoint, reference, options) for reference in tuned)
    return Plan(base, checkpoint, opened, options, _device(options.device))


def run(plan: Plan, progress: Progress = lambda step: None) -> Result:
    """Measure every pair of the plan, one matrix of the base at a time."""
    scope = Scope(plan.options.top_k, plan.options.epsilon)
    places_of = places(name for name, _ in plan.matrices)
    collected = _Collected(arrays={})
    done, total = 0, plan.cost
    with _threads(plan.options.jobs):
        for name, jobs in plan.matrices:
            progress(Step(name, done, total))
            bench = _Bench(plan.device)
            for tuned, pair in jobs:
                record, spectra = _matrix_record(tuned, pair, places_of[name], bench, scope)
                collected.add(record, spectra, variant=pair.rows is not None)
                done += _cost(pair)
        vectors = [_vector_record(tuned, pair) for tuned in plan.tuned for pair in tuned.pairing.vectors]
    progress(Step("", total, total))
    return _result(plan, collected, vectors)


# --- before reading ---


def _check_options(options: Options) -> None:
    if options.top_k < 1:
        raise UsageError(f"--top-k {options.top_k}: at least one singular vector must be looked at")
    if not 0 < options.epsilon <= 1:
        raise UsageError(f"--epsilon {options.epsilon}: must lie above 0 and at most at 1, as a cosine does")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: at least one thread is needed")


def _check_labels(tuned: Sequence[Reference]) -> None:
    if not tuned:
        raise UsageError("nothing to compare the base with; name at least one tuned model")
    seen: dict[str, Reference] = {}
    for reference in tuned:
        if reference.label == BASE_LABEL:
            raise UsageError(f"{reference.path}: the label {BASE_LABEL!r} is taken; write NAME={reference.path}")
        if reference.label in seen:
            raise UsageError(
                f"{seen[reference.label].path} and {reference.path} are both called {reference.label!r}; "
                f"write NAME={reference.path}"
            )
        seen[reference.label] = reference


def _open_tuned(base: Checkpoint, reference: Reference, options: Options) -> Tuned:
    source = open_source(reference.path)
    if isinstance(source, Checkpoint):
        return Tuned(reference, source, source, pair_checkpoint(base, source, options.selection))
    adapter = parse_adapter(source)
    pairing = pair_adapter(base, adapter, options.selection, allow_unmatched=options.allow_unmatched)
    return Tuned(reference, adapter, source.weights, pairing)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: unknown; auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: float64 is needed; auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def _cost(pair: Pair) -> int:
    return math.prod(pair.shape) * min(pair.shape) if pair.tuned is not None else 0


def _tuned_bytes(pair: Pair) -> int:
    if pair.tuned is None:
        return 0
    return pair.tuned.size


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Order names as people do: layer 2 before layer 10."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts))


# --- while reading ---


@contextmanager
def _threads(jobs: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(jobs or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Bench:
    """One matrix of the base: read once, prepared once for each way it is looked at."""

    device: torch.device
    _stored: Tensor | None = None
    _prepared: dict[tuple[bool, int | None], Base | NumericsError] = field(default_factory=dict)

    def base(self, pair: Pair) -> Base:
        key = (pair.transposed, pair.rows)
        if key not in self._prepared:
            if self._stored is None:
                self._stored = pair.base.read()
            try:
                self._prepared[key] = measure.prepare(_oriented(self._stored, pair).to(self.device))
            except NumericsError as error:
                self._prepared[key] = error
        found = self._prepared[key]
        if isinstance(found, NumericsError):
            raise found
        return found

    def tuned(self, entry: TensorEntry, pair: Pair) -> Tensor:
        return _oriented(entry.read(), pair).to(self.device)


def _oriented(tensor: Tensor, pair: Pair) -> Tensor:
    tensor = tensor.mT.contiguous() if pair.transposed else tensor
    return tensor if pair.rows is None else tensor[: pair.rows]


def _matrix_record(
    tuned: Tuned, pair: Pair, place: Place, bench: _Bench, scope: Scope
) -> tuple[Module, dict[str, Tensor]]:
    try:
        found = _measured(pair, bench, scope)
    except NumericsError as error:
        return _module(tuned, pair, place, Status.failed, reason=str(error)), {}
    status = Status.measured if found.changed else Status.unchanged
    return _module(tuned, pair, place, status, reason=pair.note, found=found), dict(found.spectra)


def _measured(pair: Pair, bench: _Bench, scope: Scope) -> Measurement:
    m, n = pair.shape
    if pair.tuned is None:
        return measure.untouched((m, n), scope)
    base = bench.base(pair)
    if isinstance(pair.tuned, TensorEntry):
        eps = max(pair.base.dtype.eps or 0.0, pair.tuned.dtype.eps or 0.0)
        return measure.measure_tuned(base, bench.tuned(pair.tuned, pair), scope, eps=eps)
    update = pair.tuned.read()
    left, right = update.left.to(bench.device), update.right.to(bench.device)
    return measure.measure_update(base, LowRank(left, right, update.scale), scope)


def _module(
    tuned: Tuned,
    pair: Pair,
    place: Place,
    status: Status,
    *,
    reason: str | None,
    found: Measurement | None = None,
) -> Module:
    common = dict(
        model=tuned.label,
        name=pair.name,
        layer=place.layer,
        kind=place.kind,
        shape=list(pair.shape),
        dtype=_dtype(pair),
        status=status,
        reason=reason,
    )
    if found is None:
        return Module(**common, metrics=dict.fromkeys(measure.COMPUTE))
    return Module(
        **common,
        metrics={key: _tidy(value) for key, value in found.metrics.items()},
        missing=dict(found.missing),
        max_cosine_left=_tidy_pairs(found.left),
        max_cosine_right=_tidy_pairs(found.right),
        matched_left=list(found.left.matched),
        matched_right=list(found.right.matched),
        ambiguous=[
            Ambiguity(side=item.side, vectors=list(item.vectors), cosine=_rounded(item.cosine), reason=item.reason)
            for side in (found.left, found.right)
            for item in side.ambiguous
        ],
    )


def _dtype(pair: Pair) -> str:
    """The storage dtype of the base, and of the tuned where it is another one."""
    base = pair.base.dtype.name
    if pair.tuned is None:
        return base
    tuned = pair.tuned.dtype.name if isinstance(pair.tuned, TensorEntry) else pair.tuned.dtype
    return base if tuned == base else f"{base}, {tuned}"


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _tidy(value: float | int | None) -> float | int | None:
    return _rounded(value) if isinstance(value, float) else value


def _tidy_pairs(side: measure.Side) -> list[tuple[float, float]]:
    return [(_rounded(low), _rounded(high)) for low, high in side.cosines]


def _vector_record(tuned: Tuned, pair: Pair) -> Vector:
    common = dict(model=tuned.label, name=pair.name, shape=list(pair.shape), dtype=_dtype(pair))
    if not isinstance(pair.tuned, TensorEntry):
        return Vector(**common, status=Status.unchanged, metrics=measure.untouched_vector())
    try:
        metrics = measure.measure_vector(pair.base.read(), pair.tuned.read())
    except NumericsError as error:
        return Vector(**common, status=Status.failed, reason=str(error), metrics=dict.fromkeys(measure.DRIFT))
    status = Status.measured if metrics["changed_fraction"] else Status.unchanged
    return Vector(**common, status=status, metrics={key: _tidy(value) for key, value in metrics.items()})


@dataclass
class _Collected:
    """Records and arrays in the order they were measured."""

    arrays: dict[str, np.ndarray]
    modules: list[Module] = field(default_factory=list)

    def add(self, record: Module, spectra: dict[str, Tensor], *, variant: bool) -> None:
        """File a record; `variant` marks a matrix of which only some rows are compared."""
        self.modules.append(record)
        for name, values in spectra.items():
            shared = name == "base_values" and not variant
            key = f"{BASE_LABEL}/{record.name}/values" if shared else f"{record.model}/{record.name}/{name}"
            self.arrays[key] = values.cpu().numpy()
        if record.status is Status.measured:
            for side in ("left", "right"):
                cosines = np.array(getattr(record, f"max_cosine_{side}"), dtype=np.float64).reshape(-1, 2)
                self.arrays[f"{record.model}/{record.name}/max_cosine_{side}"] = cosines


# --- after reading ---


def _result(plan: Plan, collected: _Collected, vectors: list[Vector]) -> Result:
    result = Result(
        tool=Tool(version=VERSION),
        settings=Settings(
            top_k=plan.options.top_k,
            epsilon=plan.options.epsilon,
            only=list(plan.options.selection.only),
            skip=list(plan.options.selection.skip),
            device=plan.device.type,
        ),
        base=Source(ref=_public(plan.reference.path), files=_files(plan.base)),
        models=[_model(tuned, collected.modules, vectors) for tuned in plan.tuned],
        modules=collected.modules,
        vectors=vectors,
        skipped=[item for tuned in plan.tuned for item in _skipped(tuned)],
    )
    result._arrays = collected.arrays
    return result


def _model(tuned: Tuned, modules: Sequence[Module], vectors: Sequence[Vector]) -> Model:
    own = [module for module in modules if module.model == tuned.label]
    own_vectors = [vector for vector in vectors if vector.model == tuned.label]
    adapter = tuned.source if isinstance(tuned.source, Adapter) else None
    return Model(
        label=tuned.label,
        ref=_public(tuned.reference.path),
        method=tuned.method,
        trained_parameters=adapter.trained_parameters if adapter else None,
        files=_files(tuned.checkpoint),
        summary=summarise(own, own_vectors, _skipped(tuned)),
    )


def _skipped(tuned: Tuned) -> list[SkippedTensor]:
    items = sorted(tuned.pairing.skipped, key=lambda item: _natural(item.name))
    return [SkippedTensor(model=tuned.label, name=item.name, reason=item.reason) for item in items]


def _files(checkpoint: Checkpoint) -> list[File]:
    return [File(name=file.name, size=file.size, sha256=file.sha256()) for file in checkpoint.files]


def _public(path: Path) -> str:
    """The path as it may be published: relative as given, otherwise its last part only."""
    return path.resolve().name if path.is_absolute() or ".." in path.parts else path.as_posix()
