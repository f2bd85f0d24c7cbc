"""A result as Markdown: for a model card or a pull request."""

from __future__ import annotations

from wanalyze import markdown, numerals, wording
from wanalyze.result import Model, Result

_FEW = 10  # findings, failures, notes
_HEADER = ("model", "method", "changed", "effective rank", "relative norm", "intruders out / in")


def report_markdown(result: Result) -> str:
    """The verdict, a row for each model, what was compared, and where the bytes came from."""
    limits = f"k = {result.settings.top_k}, ε = {result.settings.epsilon:g}"
    parts = [
        "## What the fine-tune did to the weights\n",
        f"{markdown.prose(wording.verdict(result))}\n",
        markdown.table(_HEADER, [_row(model) for model in result.models], left=2),
        f"Medians over changed matrices; intruders are matrices with at least one ({limits}).\n",
        "".join(f"- {markdown.code(model.label)}: {wording.coverage(model)}\n" for model in result.models),
        *_remarks(result),
        "### Files\n",
        markdown.table(
            ("file", "sha256", "bytes"),
            [
                (markdown.code(file.name), markdown.code(file.sha256 or file.instead), f"{file.size:,}")
                for file in wording.files(result)
            ],
            left=2,
        ),
        f"Measured by wanalyze {result.tool.version}.\n",
    ]
    return "\n".join(parts)


def _remarks(result: Result) -> list[str]:
    """Findings, failures and notes, as far as a comment has room for them."""
    failed = [f"failed: {model} {name}: {reason}" for model, name, reason in wording.failures(result)]
    lines = [
        *wording.first(wording.findings(result), _FEW, "findings"),
        *wording.first(failed, _FEW, "failures"),
        *wording.first([f"note: {note}" for note in wording.notes(result)], _FEW, "notes"),
    ]
    return ["".join(f"- {markdown.code(line)}\n" for line in lines)] if lines else []


def _row(model: Model) -> tuple[str, ...]:
    found = model.summary
    return (
        markdown.code(model.label),
        markdown.code(model.method),
        numerals.share(found.changed_share),
        numerals.number(found.median_effective_rank),
        numerals.number(found.median_relative_norm),
        found.hits or numerals.NOT_MEASURED,
    )
