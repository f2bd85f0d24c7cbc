"""A result as plain text: the summary after a run, and tables of modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wanalyze import wording
from wanalyze.printable import printable
from wanalyze.result import Model, Module, Result

WIDTH = 80
_FEW = 4  # reasons and failures listed in the summary
TABLE_METRICS = (
    ("relative_norm", "rel. norm"),
    ("effective_rank", "eff. rank"),
    ("stable_rank", "stable"),
    ("intruders_left", "left"),
    ("intruders_right", "right"),
)


def elided(text: str, width: int) -> str:
    """`text` within `width` columns, cut in the middle: both ends of a module's name tell more.

    >>> elided("model.layers.17.mlp.down_proj", 20)
    'model.lay….down_proj'
    """
    text = printable(text)
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - tail - 1]}…{text[-tail:]}"


def summary(result: Result, folder: str | None) -> str:
    """What was compared, what each model did, what was skipped, where the files are: about 12 lines."""
    weights = max((model.summary.weights for model in result.models), default=0)
    lines = [
        f"{wording.verdict(result)}",
        "",
        f"base {printable(result.base.ref)}: {weights:,} weights compared; medians over changed matrices",
        *_table(_MODEL_HEADER, [_model_row(model) for model in result.models]),
        f"intruders: matrices with at least one, output / input side "
        f"(k = {result.settings.top_k}, ε = {result.settings.epsilon:g})",
        *_coverage_lines(result),
        *(printable(line) for line in wording.merged(result)),
        *_note_lines(result),
    ]
    if folder is not None:
        lines += ["", f"wrote {printable(folder)}/: report.html, result.json, modules.csv, arrays.safetensors"]
        lines += [f"next: wanalyze show {printable(folder)} '*q_proj'", "      wanalyze explain intruders_left"]
    return "\n".join(part for line in lines for part in _wrapped(line)) + "\n"


_MODEL_HEADER = ("model", "method", "changed", "eff. rank", "rel. norm", "intruders")


def _model_row(model: Model) -> tuple[str, ...]:
    found = model.summary
    hits = f"{found.matrices_with_intruders_left} / {found.matrices_with_intruders_right} of {found.measured}"
    return (
        elided(model.label, 20),
        elided(model.method, 14),
        wording.share(found.changed_share),
        wording.number(found.median_effective_rank),
        wording.number(found.median_relative_norm),
        hits if found.measured else wording.NOT_MEASURED,
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


def _note_lines(result: Result) -> list[str]:
    said = wording.notes(result)
    lines = [f"note: {printable(note)}" for note in said[:_FEW]]
    return [*lines, f"and {len(said) - _FEW} more notes, in result.json"] if len(said) > _FEW else lines


def modules_table(modules: Sequence[Module]) -> str:
    """A row per model and matrix: the headline metrics."""
    header = ("model", "module", "shape", *(title for _, title in TABLE_METRICS), "status")
    rows = [
        (
            printable(module.model),
            elided(module.name, 44),
            " × ".join(map(str, module.shape)),
            *(wording.number(module.metric(key)) for key, _ in TABLE_METRICS),
            module.status.value,
        )
        for module in modules
    ]
    return "\n".join(_table(header, rows, left=2)) + "\n"


def facts_table(facts: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line."""
    pairs = [(name, printable(str(value))) for name, value in facts]
    width = max(len(name) for name, _ in pairs)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in pairs)


def tensors_table(rows: Sequence[Sequence[str]]) -> str:
    """Name, shape and dtype of each tensor."""
    safe = [tuple(map(printable, row)) for row in rows]
    return "\n".join(_table(("tensor", "dtype", "shape"), safe)) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]


def _wrapped(line: str) -> list[str]:
    """Prose broken at spaces; a table row, which has runs of spaces, is left alone."""
    if len(line) <= WIDTH or "  " in line:
        return [line]
    lines, current = [], ""
    for word in line.split(" "):
        if current and len(current) + 1 + len(word) > WIDTH:
            lines.append(current)
            current = f"  {word}"
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current]
