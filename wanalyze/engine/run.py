"""Many pairs: what is read when, in which batches, on which device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from wanalyze import measure
from wanalyze.adapters import Shift
from wanalyze.checkpoints import TensorEntry
from wanalyze.checkpoints.content import Content, expect
from wanalyze.engine import bases
from wanalyze.engine.bases import Ready
from wanalyze.engine.batches import Unit, batches
from wanalyze.engine.cache import Cache, default_folder, default_limit
from wanalyze.engine.heap import trim
from wanalyze.engine.plan import BASE_LABEL, Plan, Tuned
from wanalyze.engine.provenance import Hashes, read
from wanalyze.engine.record import Collected, module, result_of, vector
from wanalyze.errors import NumericsError
from wanalyze.measure import Base, Measurement, Scope, Stored
from wanalyze.naming import places
from wanalyze.operators import Operator
from wanalyze.pairing import Pair
from wanalyze.result import Result, Vector
from wanalyze.spectra.rounding import Grid


@dataclass(frozen=True)
class Step:
    """How far a run is; `done` and `total` in units of work, m · n · min(m, n) for a matrix."""

    name: str
    done: int
    total: int


# Up to this short side a second thread gains less than a tenth of a run, and costs a factor of ten and more where
# another process wants the core: its pool waits by spinning.
_SMALL = 512
_CPU = torch.device("cpu")
_MOVED = "measured on the CPU: the GPU ran out of memory"
_OUT_OF_MEMORY = ("ALLOC_FAILED", "out of memory", "can't allocate memory", "not enough memory")
_TOO_LARGE = "needs more memory than there is; use a larger machine"

Progress: TypeAlias = Callable[[Step], None]
Outcome: TypeAlias = Measurement | NumericsError
In = TypeVar("In")
Out = TypeVar("Out")


def run(plan: Plan, progress: Progress = lambda step: None) -> Result:
    """Measure every pair of the plan, matrices of one shape together."""
    expect(_contents(plan))
    bench = _Bench(plan, _cache(plan), progress)
    with _threads(plan):
        opened = ([_Matrix(unit, plan, bench.hashes) for unit in units] for units in batches(plan))
        for batch in _read_ahead(opened, plan.device):
            bench.measure(batch)
            trim()
    collected = bench.collected()
    collected.vectors += [
        _vector(tuned, pair, plan, bench.hashes) for tuned in plan.tuned for pair in tuned.pairing.vectors
    ]
    progress(Step("", plan.cost, plan.cost))
    return result_of(plan, collected)


def _contents(plan: Plan) -> Iterator[Content]:
    """What will be read of checkpoints, in that order: of the base only what something is compared with."""
    units = [unit for batch in batches(plan) for unit in batch]
    vectors = [[(tuned, pair)] for tuned in plan.tuned for pair in tuned.pairing.vectors]
    for jobs in (*(unit.jobs for unit in units), *vectors):
        touched = [pair for _, pair in jobs if pair.tuned is not None]
        yield from (pair.base.content for pair in touched[:1])
        yield from (pair.tuned.content for pair in touched if isinstance(pair.tuned, TensorEntry))


def _cache(plan: Plan) -> Cache | None:
    return Cache(default_folder(), default_limit()) if plan.options.cache else None


@contextmanager
def _threads(plan: Plan) -> Iterator[None]:
    before = torch.get_num_threads()
    widest = max((min(pair.shape) for _, jobs in plan.matrices for _, pair in jobs), default=0)
    torch.set_num_threads(plan.options.jobs or (1 if widest <= _SMALL else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Matrix:
    """A unit and its tensors, read when they are needed or, for a GPU, ahead of that."""

    unit: Unit
    plan: Plan
    hashes: Hashes
    _base: Tensor | None = None
    _tuned: dict[int, Tensor] = field(default_factory=dict)

    @property
    def is_touched(self) -> bool:
        return any(pair.tuned is not None for _, pair in self.unit.jobs)

    def read_base(self) -> Tensor:
        if self._base is not None:
            return self._base
        return read(self.unit.pair.base, BASE_LABEL, self.plan.base, self.hashes)

    def read_steps(self) -> Tensor | None:
        """Of a quantised base, the cells of its weights, where a stored matrix is compared with it."""
        stored = any(isinstance(pair.tuned, TensorEntry) for _, pair in self.unit.jobs)
        return self.unit.pair.base.content.steps() if stored else None

    def take(self, job: int, base: Base) -> Tensor | Operator:
        """What a job compares with the base."""
        source = self.unit.jobs[job][1].tuned
        assert source is not None
        assert not isinstance(source, Shift)
        if isinstance(source, TensorEntry):
            return self._tuned[job] if job in self._tuned else self._stored(job, source)
        return source.read(base.matrix.dense() if source.needs_base else None)

    def fill(self) -> None:
        """Into pinned memory, from which a GPU copies while it works."""
        if self.is_touched:
            self._base = self.read_base().pin_memory()
        for job, (_, pair) in enumerate(self.unit.jobs):
            if isinstance(pair.tuned, TensorEntry):
                self._tuned[job] = self._stored(job, pair.tuned).pin_memory()

    def _stored(self, job: int, entry: TensorEntry) -> Tensor:
        tuned = self.unit.jobs[job][0]
        return read(entry, tuned.label, tuned.source, self.hashes)


class _Found(NamedTuple):
    unit: Unit
    job: int
    outcome: Outcome
    note: str | None


def _read_ahead(opened: Iterable[list[_Matrix]], device: torch.device) -> Iterator[list[_Matrix]]:
    """Batches with, on a GPU, the next one being read while one is worked on."""
    if device.type != "cuda":
        yield from opened
        return
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for batch in opened:
            following = reader.submit(_filled, batch)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _filled(batch: list[_Matrix]) -> list[_Matrix]:
    for matrix in batch:
        matrix.fill()
    return batch


class _Bench:
    """Where batches become records."""

    def __init__(self, plan: Plan, cache: Cache | None, progress: Progress) -> None:
        self.plan, self.cache, self.progress = plan, cache, progress
        dtype = torch.float32 if plan.options.precision == "fast" else torch.float64
        self.scope = Scope(plan.options.top_k, plan.options.epsilon, dtype)
        self.done = 0
        self.found: dict[tuple[int, int], _Found] = {}
        self.hashes = Hashes()

    def measure(self, batch: Sequence[_Matrix]) -> None:
        """All jobs of a batch; out of memory, in halves, then on the CPU, and in the end not at all."""
        if self._fits(batch, self.plan.device):
            return
        torch.cuda.empty_cache()
        if len(batch) > 1:
            half = len(batch) // 2
            self.measure(batch[:half])
            self.measure(batch[half:])
        elif self.plan.device.type == "cpu" or not self._fits(batch, _CPU, _MOVED):
            self._give_up(batch[0].unit)

    def _fits(self, batch: Sequence[_Matrix], device: torch.device, note: str | None = None) -> bool:
        """Measure all jobs of a batch, unless there is too little memory for it."""
        try:
            self._measure(batch, device, note)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            return False
        return True

    def _give_up(self, unit: Unit) -> None:
        for job, (_, pair) in enumerate(unit.jobs):
            m, n = pair.shape
            outcome = NumericsError(_TOO_LARGE) if pair.tuned else measure.untouched((m, n), self.scope)
            self.found[unit.index, job] = _Found(unit, job, outcome, None)
        self.done += unit.cost

    def collected(self) -> Collected:
        """Records in reading order, whatever the order of the batches was."""
        places_of = places(name for name, _ in self.plan.matrices)
        collected = Collected(hashes=self.hashes)
        for key in sorted(self.found):
            unit, job, outcome, note = self.found[key]
            tuned, pair = unit.jobs[job]
            failure = str(outcome) if isinstance(outcome, NumericsError) else None
            measurement = measure.unmeasurable() if isinstance(outcome, NumericsError) else outcome
            record = module(tuned.label, pair, places_of[unit.name], measurement, failure, note)
            collected.add(record, measurement.spectra, variant=pair.rows is not None)
        return collected

    def _measure(self, batch: Sequence[_Matrix], device: torch.device, note: str | None = None) -> None:
        self.progress(Step(batch[0].unit.name, self.done, self.plan.cost))
        ready = self._bases([matrix for matrix in batch if matrix.is_touched], device)
        for job in range(max(len(matrix.unit.jobs) for matrix in batch)):
            for matrix, outcome in self._outcomes([m for m in batch if job < len(m.unit.jobs)], job, ready, device):
                self.found[matrix.unit.index, job] = _Found(matrix.unit, job, outcome, note)
        for base in ready.values():
            if not isinstance(base, NumericsError):
                bases.keep(base, self.cache)
        self.done += sum(matrix.unit.cost for matrix in batch)

    def _bases(self, batch: Sequence[_Matrix], device: torch.device) -> dict[int, Ready | NumericsError]:
        def prepared(some: Sequence[_Matrix]) -> list[Ready]:
            stored, pairs = [matrix.read_base() for matrix in some], [matrix.unit.pair for matrix in some]
            steps = [bases.placed_steps(matrix.read_steps(), matrix.unit.pair, device) for matrix in some]
            return bases.prepare(stored, pairs, self.scope, device, self.cache, steps)

        indices = [matrix.unit.index for matrix in batch]
        return dict(zip(indices, _each(prepared, batch), strict=True))

    def _outcomes(
        self, batch: Sequence[_Matrix], job: int, ready: Mapping[int, Ready | NumericsError], device: torch.device
    ) -> Iterator[tuple[_Matrix, Outcome]]:
        waiting: list[tuple[_Matrix, Base, Stored | Operator]] = []
        for matrix in batch:
            _, pair = matrix.unit.jobs[job]
            m, n = pair.shape
            source, found = pair.tuned, ready.get(matrix.unit.index)
            if source is None or found is None:
                yield matrix, measure.untouched((m, n), self.scope)
            elif isinstance(found, NumericsError):
                yield matrix, found
            else:
                try:
                    waiting.append((matrix, found.base, _operand(matrix.take(job, found.base), pair, device)))
                except NumericsError as error:  # of an update that is worked out from the weights of the base
                    yield matrix, error
        kinds = dict.fromkeys(type(item[2]) for item in waiting)
        for same in ([item for item in waiting if type(item[2]) is kind] for kind in kinds):
            yield from zip((item[0] for item in same), _each(self._compared, same), strict=True)

    def _compared(self, some: Sequence[tuple[_Matrix, Base, Stored | Operator]]) -> list[Measurement]:
        return measure.compare([item[1] for item in some], [item[2] for item in some], self.scope)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether there was too little memory: torch's allocator for GPUs has a class for it, everything else has words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _each(work: Callable[[Sequence[In]], Sequence[Out]], items: Sequence[In]) -> list[Out | NumericsError]:
    """`work` on all items at once; if one of them cannot be done, on each alone, so that the others can."""
    try:
        return [*work(items)] if items else []
    except NumericsError as error:
        if len(items) == 1:
            return [error]
        return [found for item in items for found in _each(work, [item])]


def _operand(read: Tensor | Operator, pair: Pair, device: torch.device) -> Stored | Operator:
    if not isinstance(read, Tensor):
        return read.map(lambda factor: factor.to(device))
    entry = pair.tuned
    assert isinstance(entry, TensorEntry)
    eps = max(pair.base.dtype.eps or 0.0, entry.dtype.eps or 0.0)
    dtype = entry.dtype
    grid = Grid(dtype.eps, dtype.smallest) if dtype.eps and dtype.smallest and dtype.bits < 64 else None
    steps = bases.placed_steps(entry.content.steps(), pair, device)
    return Stored(bases.oriented(read.to(device, non_blocking=True), pair), eps, grid, steps)


def _vector(tuned: Tuned, pair: Pair, plan: Plan, hashes: Hashes) -> Vector:
    if pair.tuned is None:
        return vector(tuned.label, pair, measure.untouched_vector())
    try:
        before = read(pair.base, BASE_LABEL, plan.base, hashes)
        if isinstance(pair.tuned, TensorEntry):
            after = read(pair.tuned, tuned.label, tuned.source, hashes)
        else:
            assert isinstance(pair.tuned, Shift)
            after = pair.tuned.read(before)
        return vector(tuned.label, pair, measure.measure_vector(before, after))
    except NumericsError as error:
        return vector(tuned.label, pair, dict.fromkeys(measure.DRIFT), failure=str(error))
