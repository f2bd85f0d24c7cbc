"""Markdown, for a model card, a pull request or the summary of a job."""

from __future__ import annotations

from wanalyze.auditing.records import Audit, Audited, Severity, Verdict
from wanalyze.auditing.rules import SERVERS
from wanalyze.markdown import prose

_MOST = 50  # findings listed of each adapter
_SIGNS = {Verdict.passed: "passed", Verdict.failed: "**failed**", Verdict.unreadable: "**unreadable**"}


def markdown(found: Audit) -> str:
    """The verdict of every adapter, then its findings and what servers would do."""
    lines = [
        f"## wanalyze audit: {found.verdict.value}",
        "",
        f"Policy {prose(found.policy.name)}, which fails on {found.policy.fail_on.value}. "
        "Rules about files and weights only: they say nothing on what the model answers.",
        "",
        "| adapter | verdict | errors | warnings | method |",
        "|---|---|---|---|---|",
        *(_row(adapter) for adapter in found.adapters),
    ]
    for adapter in found.adapters:
        lines += _section(adapter)
    return "\n".join(lines) + "\n"


def _row(adapter: Audited) -> str:
    counts = (adapter.count(Severity.error), adapter.count(Severity.warning))
    cells = (prose(adapter.ref), _SIGNS[adapter.verdict], *map(str, counts), prose(adapter.method or "–"))
    return f"| {' | '.join(cells)} |"


def _section(adapter: Audited) -> list[str]:
    lines = ["", f"### {prose(adapter.ref)}", ""]
    if adapter.reason is not None:
        lines += [prose(adapter.reason), ""]
    lines += [
        f"- {finding.severity.value} `{finding.code}`: {prose(finding.message)}. {prose(finding.fix)}"
        for finding in adapter.findings[:_MOST]
    ]
    if (more := len(adapter.findings) - _MOST) > 0:
        lines.append(f"- and {more} more")
    lines += [f"- not checked, because {prose(each.reason)}: {len(each.rules)} rules" for each in adapter.unchecked]
    served = [(SERVERS[row.server].title, row.version, row.outcome) for row in adapter.servers]
    if served:
        told = "; ".join(f"{title} {version} {outcome}" for title, version, outcome in served)
        lines += ["", f"Servers: {told}."]
    return lines
