"""Intruder dimensions of an adapter, by the comparison that `compare` makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from wanalyze.adapters import Adapter
from wanalyze.checkpoints import AdapterFiles, Checkpoint, Reference
from wanalyze.engine import Options, Plan, Step, Tuned, run
from wanalyze.metrics import INTRUDERS
from wanalyze.pairing import Pairing
from wanalyze.result import Change, Module

_NOWHERE = Path()  # what is compared is open already


def with_intruders(
    changes: Iterable[Change],
    adapter: Adapter,
    files: AdapterFiles,
    base: Checkpoint,
    pairing: Pairing,
    progress: Callable[[Step], None],
) -> list[Change]:
    """The changes with the `INTRUDERS` metrics of those that the base has a weight for."""
    tuned = Tuned(Reference("adapter", _NOWHERE), adapter, (files.weights,), pairing)
    plan = Plan(Reference("base", _NOWHERE), base, (tuned,), Options(), torch.device("cpu"))
    found = {module.name: module for module in run(plan, progress).modules}
    return [_joined(change, found[change.name]) if change.name in found else change for change in changes]


def _joined(change: Change, module: Module) -> Change:
    metrics = {key: module.metrics[key] for key in INTRUDERS}
    missing = {key: module.missing[key] for key in INTRUDERS if metrics[key] is None}
    return change.model_copy(
        update={"metrics": {**change.metrics, **metrics}, "missing": {**change.missing, **missing}}
    )
