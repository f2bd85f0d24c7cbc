"""What the numbers in the tensors are: finite, within range, and not all zero."""

from __future__ import annotations

from collections.abc import Iterator

from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Need, Rule
from wanalyze.auditing.subject import Subject
from wanalyze.result import Status

_NUMBERS = (Need.weights, Need.numbers)
_MEASURED = (Need.weights, Need.adapter, Need.numbers)
_AGAIN = "ask its author to train or save it again"
_FEWEST = 64  # elements from which on a median means something


def _not_finite(subject: Subject) -> Iterator[Hit]:
    for name, found in (subject.elements or {}).items():
        if found.nan or found.infinite:
            yield Hit(
                f"{name[:160]} holds {found.nan:,} NaN and {found.infinite:,} infinite of {found.count:,} elements, "
                f"the first at {list(found.first or ())}",
                _AGAIN,
                module=name,
                value=found.nan + found.infinite,
                limit=0,
            )


def _not_measurable(subject: Subject) -> Iterator[Hit]:
    broken = {name for name, found in (subject.elements or {}).items() if found.nan or found.infinite}
    for name, change in subject.changes.items():
        if change.status is Status.failed and not _shares_module(name, broken):
            yield Hit(f"{name[:160]}: {change.reason}", _AGAIN, module=name)


def _shares_module(module: str, tensors: set[str]) -> bool:
    """Whether one of the tensors belongs to the module, so that the cause has been named."""
    plain = module.partition("[")[0]
    return any(plain in name for name in tensors)


def _overflow(subject: Subject) -> Iterator[Hit]:
    limit = subject.limits["overflow-float16"]
    for name, found in (subject.elements or {}).items():
        if found.largest > limit:
            yield Hit(
                f"{name[:160]} has an element of size {found.largest:.4g} at {list(found.peak or ())}: in float16 "
                "it is infinite",
                "serve it in bfloat16 or float32, or ask its author",
                module=name,
                value=found.largest,
                limit=limit,
            )
    for name, change in subject.changes.items():
        stretch = change.metrics.get("delta_spectral_norm")
        if stretch is not None and stretch > limit:
            yield Hit(
                f"{name[:160]}: the update stretches by {stretch:.4g}: merged into float16 it may be infinite",
                "serve it in bfloat16 or float32, or ask its author",
                module=name,
                value=stretch,
                limit=limit,
            )


def _spikes(subject: Subject) -> Iterator[Hit]:
    limit = subject.limits["spike"]
    for name, found in (subject.elements or {}).items():
        if found.count >= _FEWEST and found.median > 0 and found.largest > limit * found.median:
            ratio = found.largest / found.median
            yield Hit(
                f"{name[:160]} has an element {ratio:.3g} times its median, at {list(found.peak or ())}",
                "look at it: training makes no such element",
                module=name,
                value=ratio,
                limit=limit,
            )


def _idle_modules(subject: Subject) -> Iterator[Hit]:
    if not _is_idle(subject):
        for name, change in subject.changes.items():
            if change.status is Status.unchanged:
                yield Hit(
                    f"{name[:160]} has an update that is zero", "ask its author whether it was trained", module=name
                )


def _idle(subject: Subject) -> Iterator[Hit]:
    if _is_idle(subject):
        yield Hit(
            f"each of its {len(subject.changes):,} updates is zero: served or not, the base answers the same",
            "ask its author whether the trained file was shipped",
            value=len(subject.changes),
        )


def _is_idle(subject: Subject) -> bool:
    adapter = subject.adapter
    others = adapter is not None and bool(adapter.replaced or adapter.shifts)
    changes = subject.changes.values()
    return bool(changes) and not others and all(change.status is Status.unchanged for change in changes)


VALUES = (
    Rule(
        "not-finite",
        Severity.error,
        "NaN or infinity",
        "A tensor holds an element that is not finite.",
        "IEEE 754; one of them makes every output NaN. No server checks",
        _not_finite,
        needs=_NUMBERS,
    ),
    Rule(
        "not-measurable",
        Severity.error,
        "an update cannot be computed",
        "The product of an update's finite factors and its scale is not finite, or a decomposition of it fails.",
        "float64, in which wanalyze computes",
        _not_measurable,
        needs=_MEASURED,
    ),
    Rule(
        "overflow-float16",
        Severity.error,
        "too large for float16",
        "An element of a tensor, or the largest stretch of an update, is above the largest number of float16.",
        "IEEE 754 binary16: 65504; vLLM 0.33.0 casts adapters to the dtype that it serves in",
        _overflow,
        needs=_NUMBERS,
        limit=65504,
        caveat="The largest stretch bounds every element of an update from above: the elements may all be smaller.",
    ),
    Rule(
        "spike",
        Severity.warning,
        "one element towers above the others",
        "The largest element of a tensor is more than the limit times its median.",
        "wanalyze: trained factors stay within a few thousand",
        _spikes,
        needs=_NUMBERS,
        limit=1e6,
        caveat="The median is over a sample of some 16,000 elements. Tensors whose median is zero are not judged.",
    ),
    Rule(
        "idle-module",
        Severity.warning,
        "a module does nothing",
        "The update of a module is exactly zero, and those of others are not.",
        "wanalyze",
        _idle_modules,
        needs=_MEASURED,
        caveat="A frozen layer, or one that no training example reached, looks the same.",
    ),
    Rule(
        "idle-adapter",
        Severity.error,
        "the adapter does nothing",
        "Every update is exactly zero, and nothing is saved whole.",
        "peft initialises B with zeros: an untrained adapter, or one whose B was lost, looks like this",
        _idle,
        needs=_MEASURED,
    ),
)
