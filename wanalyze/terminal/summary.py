"""What a run found, in about twelve lines."""

from __future__ import annotations

from wanalyze import numerals, wording
from wanalyze.printable import elided, printable
from wanalyze.result import Model, Result
from wanalyze.terminal.sparkline import along_depth
from wanalyze.terminal.tables import table, wrapped

_FEW = 4  # reasons and failures listed in the summary


def summary(result: Result, folder: str | None) -> str:
    """What was compared, what each model did, what was skipped, where the files are: about 12 lines."""
    weights = max((model.summary.weights for model in result.models), default=0)
    lines = [
        wording.verdict(result),
        "",
        f"base {result.base.ref}: {weights:,} weights compared; medians over changed matrices",
        *table(_MODEL_HEADER, [_model_row(model) for model in result.models]),
        f"intruders: matrices with at least one, output / input side "
        f"(k = {result.settings.top_k}, ε = {result.settings.epsilon:g})",
        *wording.first(wording.findings(result), _FEW, "findings"),
        *along_depth(result, "relative_norm", "rel. norm"),
        *_coverage_lines(result),
        *wording.merged(result),
        *_note_lines(result),
    ]
    if folder is not None:
        lines += ["", f"wrote {folder}/: report.html, result.json, modules.csv, arrays.safetensors"]
        lines += [f"next: wanalyze show {folder} '*q_proj'", "      wanalyze explain intruders_left"]
    return "\n".join(part for line in lines for part in wrapped(printable(line))) + "\n"


_MODEL_HEADER = ("model", "method", "changed", "eff. rank", "rel. norm", "intruders")


def _model_row(model: Model) -> tuple[str, ...]:
    found = model.summary
    return (
        elided(model.label, 20),
        elided(model.method, 14),
        numerals.share(found.changed_share),
        numerals.number(found.median_effective_rank),
        numerals.number(found.median_relative_norm),
        found.hits or numerals.NOT_MEASURED,
    )


def _coverage_lines(result: Result) -> list[str]:
    alike: dict[str, list[str]] = {}
    for model in result.models:
        alike.setdefault(wording.coverage(model), []).append(model.label)
    everywhere = len(alike) == 1 and len(result.models) > 1
    lines = [f"{'each' if everywhere else ', '.join(labels)}: {text}" for text, labels in alike.items()]
    reasons = wording.skipped_reasons(result)
    if reasons:
        lines.append("skipped: " + "; ".join(f"{count} × {reason}" for reason, count in reasons[:_FEW]))
    if len(reasons) > _FEW:
        lines.append(f"and {len(reasons) - _FEW} more reasons to skip, in result.json")
    failed = [f"failed: {model} {name}: {reason}" for model, name, reason in wording.failures(result)]
    return [*lines, *wording.first(failed, _FEW, "failures")]


def _note_lines(result: Result) -> list[str]:
    return wording.first([f"note: {note}" for note in wording.notes(result)], _FEW, "notes")
