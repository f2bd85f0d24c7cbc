"""What a result says in words: the sentences every view shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from wanalyze.numerals import number, share
from wanalyze.result import Model, Module, Result, Source, Status, Term, Vector

ESTIMATES = "Estimates, computed in float32."


def listed(items: Sequence[str]) -> str:
    """Items joined as in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def some(items: Sequence[str], most: int = 6) -> list[str]:
    """The items, or so many of them that a sentence can hold and how many are left.

    >>> some(["a", "b", "c", "d"], most=3)
    ['a', 'b', '2 more']
    """
    return [*items] if len(items) <= most else [*items[: most - 1], f"{len(items) - most + 1} more"]


def first(lines: Sequence[str], most: int, what: str) -> list[str]:
    """So many lines, and how many more `what` there are.

    >>> first(["a", "b", "c"], 1, "notes")
    ['a', 'and 2 more notes, in result.json']
    """
    return [*lines] if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more {what}, in result.json"]


def verdict(result: Result) -> str:
    """The one sentence a reader should leave with, built from the numbers."""
    parts = []
    hit = [model for model in result.models if model.summary.matrices_with_intruders]
    if hit:
        counts = [f"{m.label} ({m.summary.matrices_with_intruders} of {m.summary.counted} matrices)" for m in hit]
        parts.append(f"Intruder dimensions in {listed(some(counts))}")
    clear = [model.label for model in result.models if model.summary.counted and model not in hit]
    if clear:
        parts.append(f"{'none' if hit else 'No intruder dimensions'} in {listed(some(clear))}")
    parts += some([f"{m.label}: {_without_numbers(m)}" for m in result.models if not m.summary.counted])
    said = "; ".join(parts) + "."
    return f"Estimate, computed in float32: {said}" if result.settings.estimated else said


def _without_numbers(model: Model) -> str:
    """Why no intruders of a model were counted."""
    if model.summary.measured:
        return "no intruders can be counted, the base is zero where it was changed"
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
    moved = (
        f"Effective rank of the update, median over its changed matrices: {', '.join(some(ranks))}. " if ranks else ""
    )
    return (
        f"{moved}An intruder is one of the top {result.settings.top_k} singular vectors of a tuned matrix whose "
        f"largest |cosine| with every singular vector of the base is below {result.settings.epsilon:g}; "
        "a matrix counts if it has one on the output or the input side."
    )


def account(model: Model) -> str:
    """What one tuned model did, in a sentence."""
    summary = model.summary
    if not summary.measured:
        return f"{model.label} ({model.method}): {_without_numbers(model)}."
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


def findings(result: Result) -> list[str]:
    """What stands out, a line each."""
    places = (" ".join(filter(None, (finding.model, finding.module))) for finding in result.findings)
    return [f"{f.severity}: {f.code} {place}: {f.message}" for f, place in zip(result.findings, places, strict=True)]


def failures(result: Result) -> list[tuple[str, str, str]]:
    """(model, name, reason) of everything that could not be measured."""
    everything: list[Module | Vector] = [*result.modules, *result.vectors]
    return [(item.model, item.name, item.reason or "") for item in everything if item.status is Status.failed]
