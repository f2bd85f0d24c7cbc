"""What a run found, in about twelve lines."""

from __future__ import annotations

from wanalyze import wording
from wanalyze.printable import printable
from wanalyze.result import Model, Result
from wanalyze.terminal.sparkline import along_depth
from wanalyze.terminal.tables import elided, table, wrapped

_FEW = 4  # reasons and failures listed in the summary


def summary(result: Result, folder: str | None) -> str:
    """What was compared, what each model did, what was skipped, where the files are: about 12 lines."""
    weights = max((model.summary.weights for model in result.models), default=0)
    lines = [
        f"{wording.verdict(result)}",
        "",
        f"base {printable(result.base.ref)}: {weights:,} weights compared; medians over changed matrices",
        *table(_MODEL_HEADER, [_model_row(model) for model in result.models]),
        f"intruders: matrices with at least one, output / input side "
        f"(k = {result.settings.top_k}, ε = {result.settings.epsilon:g})",
        *_finding_lines(result),
        *along_depth(result, "relative_norm", "rel. norm"),
        *_coverage_lines(result),
        *(printable(line) for line in wording.merged(result)),
        *_note_lines(result),
    ]
    if folder is not None:
        lines += ["", f"wrote {printable(folder)}/: report.html, result.json, modules.csv, arrays.safetensors"]
        lines += [f"next: wanalyze show {printable(folder)} '*q_proj'", "      wanalyze explain intruders_left"]
    return "\n".join(part for line in lines for part in wrapped(line)) + "\n"


_MODEL_HEADER = ("model", "method", "changed", "eff. rank", "rel. norm", "intruders")


def _model_row(model: Model) -> tuple[str, ...]:
    found = model.summary
    return (
        elided(model.label, 20),
        elided(model.method, 14),
        wording.share(found.changed_share),
        wording.number(found.median_effective_rank),
        wording.number(found.median_relative_norm),
        found.hits or wording.NOT_MEASURED,
    )


def _coverage_lines(result: Result) -> list[str]:
    alike: dict[str, list[str]] = {}
    for model in result.models:
        alike.setdefault(wording.coverage(model), []).append(printable(model.label))
    everywhere = len(alike) == 1 and len(result.models) > 1
    lines = [f"{'each' if everywhere else ', '.join(labels)}: {text}" for text, labels in alike.items()]
    reasons = wording.skipped_reasons(result)
    if reasons:
        lines.append("skipped: " + "; ".join(f"{count} × {printable(reason)}" for reason, count in reasons[:_FEW]))
    failures = wording.failures(result)
    lines += [f"failed: {printable(f'{m} {n}: {reason}')}" for m, n, reason in failures[:_FEW]]
    more = [("reasons to skip", len(reasons) - _FEW), ("failures", len(failures) - _FEW)]
    return [*lines, *(f"and {count} more {what}, in result.json" for what, count in more if count > 0)]


def _finding_lines(result: Result) -> list[str]:
    lines = [
        f"{finding.severity}: {finding.code} {printable(' '.join(filter(None, (finding.model, finding.module))))}: "
        f"{printable(finding.message)}"
        for finding in result.findings[:_FEW]
    ]
    more = len(result.findings) - _FEW
    return [*lines, f"and {more} more findings, in result.json"] if more > 0 else lines


def _note_lines(result: Result) -> list[str]:
    said = wording.notes(result)
    lines = [f"note: {printable(note)}" for note in said[:_FEW]]
    return [*lines, f"and {len(said) - _FEW} more notes, in result.json"] if len(said) > _FEW else lines
