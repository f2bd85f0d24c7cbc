"""What merging would lose: rounding to the numbers that merged models are served in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Need, Rule
from wanalyze.auditing.subject import Subject

_NEEDS = (Need.weights, Need.adapter, Need.numbers, Need.base)
_FORMATS = {"bf16": 1, "fp16": 1, "fp8": 2}  # with the error from which on it is worth a word


def _error(name: str) -> Callable[[Subject], Iterator[Hit]]:
    def check(subject: Subject) -> Iterator[Hit]:
        limit = subject.limits[f"merge-error-{name}"]
        errors = {
            change.name: error
            for change in subject.changes.values()
            if (error := change.metrics.get(f"merge_error_{name}")) is not None
        }
        broken = [module for module, error in errors.items() if error >= limit]
        if broken:
            worst = max(broken, key=lambda module: errors[module])
            yield Hit(
                f"merged into {name}, {len(broken)} of {len(errors)} updates come out with an error of {limit:g} times "
                f"their size or more (median of all {median(errors.values()):.2g}): {worst[:160]} {errors[worst]:.3g}",
                "serve the adapter unmerged, or merge into a finer format",
                module=worst,
                value=errors[worst],
                limit=limit,
            )

    return check


def _overflow(subject: Subject) -> Iterator[Hit]:
    for change in subject.changes.values():
        if count := change.metrics.get("merge_overflow_fp16"):
            yield Hit(
                f"{change.name[:160]}: merged into fp16, {count:,} entries are infinite",
                "merge it into bf16 or float32",
                module=change.name,
                value=count,
                limit=0,
            )


FIDELITY_RULES = (
    *(
        Rule(
            f"merge-error-{name}",
            Severity.info,
            f"merging into {name} drowns the update in rounding",
            f"merge_error_{name}, the error of the merged update by its size, reaches the limit.",
            "wanalyze; reported in peft #1388, torchtune #1101, unsloth #3091",
            _error(name),
            _NEEDS,
            limit=limit,
            caveat="Rounding errors of many weights partly cancel in an output: a model may do better than the number.",
        )
        for name, limit in _FORMATS.items()
    ),
    Rule(
        "merge-overflow-fp16",
        Severity.warning,
        "merging into fp16 overflows",
        "An entry of W0 + ΔW rounds to infinity in float16.",
        "IEEE 754: from 65520 on",
        _overflow,
        _NEEDS,
        caveat="Says nothing of activations, which overflow first in most models.",
    ),
)
