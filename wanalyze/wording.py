"""What a result says in words: numbers as people read them, and the sentences every view shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from wanalyze.result import Model, Module, Result, Source, Status, Term, Vector

NOT_MEASURED = "–"


def number(value: float | int | None, digits: int = 3) -> str:
    """Three significant digits without an exponent where that is short; a dash for what was not measured.

    >>> number(112.4), number(0.04567), number(None), number(12), number(3e-7), number(100000.0)
    ('112', '0.0457', '–', '12', '3.00e-07', '100,000')
    """
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def share(value: float | None) -> str:
    """A share in per cent.

    >>> share(0.9312), share(0.0004), share(0.0), share(1.0)
    ('93 %', '0.04 %', '0 %', '100 %')
    """
    if value is None:
        return NOT_MEASURED
    percent = 100 * value
    if percent in (0, 100) or 1 <= percent < 99:
        return f"{percent:.0f} %"
    return f"{percent:.2f} %" if percent < 1 else f"{min(percent, 99.99):.2f} %"


def listed(items: Sequence[str]) -> str:
    """Items joined as in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def verdict(result: Result) -> str:
    """The one sentence a reader should leave with, built from the numbers."""
    parts = []
    hit = [model for model in result.models if model.summary.matrices_with_intruders]
    if hit:
        counts = (f"{m.label} ({m.summary.matrices_with_intruders} of {m.summary.measured} matrices)" for m in hit)
        parts.append(f"Intruder dimensions in {listed([*counts])}")
    clear = [model.label for model in result.models if model.summary.measured and model not in hit]
    if clear:
        parts.append(f"none in {listed(clear)}" if hit else f"No intruder dimensions in {listed(clear)}")
    parts += [f"{model.label}: {_without_numbers(model)}" for model in result.models if not model.summary.measured]
    said = "; ".join(parts) + "."
    return f"Estimate, computed in float32: {said}" if result.settings.precision == "float32" else said


def _without_numbers(model: Model) -> str:
    """Why a model has no measured matrix."""
    if model.summary.failed:
        return f"nothing could be measured, {model.summary.failed} failed"
    return "no matrix was changed" if model.summary.unchanged else "no matrix was compared, only vectors"


def evidence(result: Result) -> str:
    """What stands behind the verdict: along how many directions, how far, and with which limits."""
    ranks = [
        f"{model.label} {number(model.summary.median_effective_rank)}"
        for model in result.models
        if model.summary.median_effective_rank is not None
    ]
    moved = f"Effective rank of the update, median over its changed matrices: {', '.join(ranks)}. " if ranks else ""
    return (
        f"{moved}An intruder is one of the top {result.settings.top_k} singular vectors of a tuned matrix whose "
        f"largest |cosine| with every singular vector of the base is below {result.settings.epsilon:g}; "
        "a matrix counts if it has one on the output or the input side."
    )


def account(model: Model) -> str:
    """What one tuned model did, in a sentence."""
    summary = model.summary
    frozen = f", {summary.unchanged} matrices left alone" if summary.unchanged else ""
    return (
        f"{model.label} ({model.method}) changed {share(summary.changed_share)} of the weights in "
        f"{summary.measured} matrices{frozen}, by {number(model.summary.median_relative_norm)} of their norm (median)."
    )


def merged(result: Result) -> list[str]:
    """Which models are merged adapters, by the rank their rounded weights single out."""
    said = []
    for model in result.models:
        ranks = [module.metric("merged_rank") for module in result.modules if module.model == model.label]
        for rank, count in Counter(rank for rank in ranks if rank is not None).most_common(1):
            said.append(
                f"{model.label}: an adapter of rank {rank:.0f}, merged and rounded, explains every entry of "
                f"{count} of {model.summary.measured} matrices (estimate where larger than 1024 × 1024)."
            )
    return said


def coverage(model: Model) -> str:
    """What was compared and what was not."""
    summary = model.summary
    parts = [
        f"{summary.measured} matrices measured",
        f"{summary.unchanged} unchanged",
        f"{summary.failed} failed",
        f"{summary.vectors} vectors (drift only)",
        f"{summary.skipped} skipped",
    ]
    return ", ".join(parts)


def skipped_reasons(result: Result) -> list[tuple[str, int]]:
    """Why tensors were not compared, the commonest first."""
    return Counter(item.reason for item in result.skipped).most_common()


def notes(result: Result) -> list[str]:
    """What was chosen, mapped or restored on the way to the weights, by model."""
    said = [("base", note) for note in result.base.notes]
    said += [(model.label, note) for model in result.models for note in model.notes]
    return [f"{label}: {note}" for label, note in said]


class ReadFile(NamedTuple):
    """A file that was read: its sha256, or what stands in its place."""

    name: str
    size: int
    sha256: str | None
    instead: str


def files(result: Result) -> list[ReadFile]:
    """Every file that was read, with where it came from."""
    found = _files("", result.base, result.base)
    for model in result.models:
        found += _files(f"{model.label} = ", model, model)
        for term in model.terms:
            found += _files(f"in {model.label}, {term.weight:g} × ", term, model)
    return found


def _files(before: str, source: Source | Model | Term, owner: Source | Model) -> list[ReadFile]:
    ref = f"{before}{source.ref} at commit {source.revision}" if source.revision else f"{before}{source.ref}"
    instead = f"read in part: hashes of {len(owner.tensors)} tensors in result.json"
    return [ReadFile(f"{ref}: {file.name}", file.size, file.sha256, instead) for file in source.files]


def failures(result: Result) -> list[tuple[str, str, str]]:
    """(model, name, reason) of everything that could not be measured."""
    everything: list[Module | Vector] = [*result.modules, *result.vectors]
    return [(item.model, item.name, item.reason or "") for item in everything if item.status is Status.failed]
