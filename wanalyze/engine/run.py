"""Many pairs: what is read when, in which order, on which device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from wanalyze import measure
from wanalyze.checkpoints import TensorEntry
from wanalyze.engine.heap import trim
from wanalyze.engine.plan import Plan, cost_of
from wanalyze.engine.record import Collected, module, result_of, vector
from wanalyze.errors import NumericsError
from wanalyze.measure import Base, Measurement, Scope
from wanalyze.naming import places
from wanalyze.operators import LowRank
from wanalyze.pairing import Pair
from wanalyze.result import Result, Vector


@dataclass(frozen=True)
class Step:
    """How far a run is; `done` and `total` in units of work, m · n · min(m, n) for a matrix."""

    name: str
    done: int
    total: int


# Up to this short side a second thread gains less than a tenth of a run, and costs a factor of ten and more where
# another process wants the core: its pool waits by spinning.
_SMALL = 512

Progress: TypeAlias = Callable[[Step], None]


def run(plan: Plan, progress: Progress = lambda step: None) -> Result:
    """Measure every pair of the plan, one matrix of the base at a time."""
    scope = Scope(plan.options.top_k, plan.options.epsilon)
    matrices, total, done = plan.matrices, plan.cost, 0
    places_of = places(name for name, _ in matrices)
    collected = Collected()
    with _threads(plan):
        for name, jobs in matrices:
            bench = _Bench(plan.device)
            for tuned, pair in jobs:
                progress(Step(name, done, total))
                try:
                    found, failure = _measured(pair, bench, scope), None
                except NumericsError as error:
                    found, failure = measure.unmeasurable(), str(error)
                record = module(tuned.label, pair, places_of[name], found, failure)
                collected.add(record, found.spectra, variant=pair.rows is not None)
                done += cost_of(pair)
            del bench
            trim()
        collected.vectors += [_vector(tuned.label, pair) for tuned in plan.tuned for pair in tuned.pairing.vectors]
    progress(Step("", total, total))
    return result_of(plan, collected)


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


def _vector(label: str, pair: Pair) -> Vector:
    if not isinstance(pair.tuned, TensorEntry):
        return vector(label, pair, measure.untouched_vector())
    try:
        return vector(label, pair, measure.measure_vector(pair.base.read(), pair.tuned.read()))
    except NumericsError as error:
        return vector(label, pair, dict.fromkeys(measure.DRIFT), failure=str(error))
