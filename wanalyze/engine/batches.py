"""Matrices of one shape, put together as far as memory goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from wanalyze.engine.plan import Plan, Tuned, cost_of
from wanalyze.pairing import Pair

_CPU_WORKSPACE = 32 * 2**20  # bytes; more gains nothing on a CPU, where a batch is a loop
_SHARE = 0.5  # of the free memory of a GPU
_MOST = 64  # matrices; beyond this a batch hides no more latency


@dataclass(frozen=True)
class Unit:
    """A matrix of the base, seen in one way, and all that is compared with it."""

    index: int
    name: str
    jobs: tuple[tuple[Tuned, Pair], ...]

    @property
    def pair(self) -> Pair:
        return self.jobs[0][1]

    @property
    def cost(self) -> int:
        return sum(cost_of(pair) for _, pair in self.jobs)


def units(plan: Plan) -> list[Unit]:
    """In reading order; a matrix that is looked at in two ways (other rows) is two of them."""
    found: list[tuple[str, tuple[tuple[Tuned, Pair], ...]]] = []
    for name, jobs in plan.matrices:
        views: dict[tuple[bool, int | None], list[tuple[Tuned, Pair]]] = {}
        for tuned, pair in jobs:
            views.setdefault((pair.transposed, pair.rows), []).append((tuned, pair))
        found.extend((name, tuple(same)) for same in views.values())
    return [Unit(index, name, jobs) for index, (name, jobs) in enumerate(found)]


def batches(plan: Plan) -> Iterator[list[Unit]]:
    """The units by shape, in batches sized by the memory of the device."""
    by_shape: dict[tuple[int, ...], list[Unit]] = {}
    for unit in units(plan):
        by_shape.setdefault(unit.pair.shape, []).append(unit)
    for shape, same in by_shape.items():
        size = batch_size(shape, plan.device)
        for start in range(0, len(same), size):
            yield same[start : start + size]


def batch_size(shape: tuple[int, ...], device: torch.device) -> int:
    """How many pairs of matrices of `shape` are worked on together."""
    room = _SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _CPU_WORKSPACE
    return max(1, min(_MOST, int(room / pair_bytes(shape))))


def pair_bytes(shape: tuple[int, ...]) -> int:
    """Memory that a pair of matrices takes, nearly: W0, W1, ΔW and four Gram matrices in float64."""
    m, n = shape
    return 8 * (3 * m * n + 4 * min(m, n) ** 2)
