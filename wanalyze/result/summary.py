"""One model in a few numbers, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from wanalyze.result.records import Module, SkippedTensor, Status, Summary, Vector


def summarise(modules: Sequence[Module], vectors: Sequence[Vector], skipped: Sequence[SkippedTensor]) -> Summary:
    """The summary of the model that all these records belong to."""
    measured = [module for module in modules if module.status is Status.measured]
    everything: list[Module | Vector] = [*modules, *vectors]
    compared = [item for item in everything if item.metrics.get("changed_fraction") is not None]
    weights = sum(math.prod(item.shape) for item in compared)
    changed = sum((item.metrics["changed_fraction"] or 0) * math.prod(item.shape) for item in compared)
    left, right = (_counts(measured, f"intruders_{side}") for side in ("left", "right"))
    return Summary(
        measured=len(measured),
        counted=len(left),
        unchanged=sum(module.status is Status.unchanged for module in modules),
        failed=sum(item.status is Status.failed for item in everything),
        skipped=len(skipped),
        vectors=len(vectors),
        vectors_changed=sum(vector.status is Status.measured for vector in vectors),
        weights=weights,
        changed_share=_tidy(changed / weights) if weights else None,
        median_relative_norm=_median(measured, "relative_norm"),
        median_effective_rank=_median(measured, "effective_rank"),
        median_stable_rank=_median(measured, "stable_rank"),
        intruders_left=sum(left),
        intruders_right=sum(right),
        matrices_with_intruders=sum(
            left_count + right_count > 0 for left_count, right_count in zip(left, right, strict=True)
        ),
        matrices_with_intruders_left=sum(count > 0 for count in left),
        matrices_with_intruders_right=sum(count > 0 for count in right),
        ambiguous=sum(len(found.vectors) for module in measured for found in module.ambiguous),
    )


def _median(modules: Sequence[Module], key: str) -> float | None:
    values = [value for module in modules if (value := module.metric(key)) is not None]
    return _tidy(median(values)) if values else None


def _counts(modules: Sequence[Module], key: str) -> list[int]:
    return [int(value) for module in modules if (value := module.metric(key)) is not None]


def _tidy(value: float) -> float:
    return float(f"{value:.12g}")
