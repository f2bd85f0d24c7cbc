"""What an audit found, the verdict first."""

from __future__ import annotations

from collections.abc import Sequence

from wanalyze import numerals, wording
from wanalyze.auditing import SERVERS, Audit, Audited, Finding, Severity, Verdict, ranked, verdicts
from wanalyze.printable import elided, printable
from wanalyze.terminal.tables import table, wrapped

_MOST = 20  # findings shown of each adapter
_FEW = 3  # of one adapter among several
_WITHOUT_BASE = "no base was given (--base): whether they fit theirs was not checked"
_LISTED = 40  # adapters of the overview


def audit(found: Audit) -> str:
    """The findings of one adapter; of several a table, the worst first, and the findings of those that do not pass."""
    adapters = ranked(found)
    lines = [_headline(found), ""]
    if len(adapters) > 1:
        lines += [*table(_HEADER, [_row(adapter) for adapter in adapters[:_LISTED]], left=2), ""]
        if len(adapters) > _LISTED:
            lines += [f"and {len(adapters) - _LISTED:,} more, in --format json", ""]
        lines += [] if found.base is not None else [_WITHOUT_BASE, ""]
        worst = [adapter for adapter in adapters[:_LISTED] if adapter.verdict is not Verdict.passed]
        lines += [line for adapter in worst for line in [*_adapter(adapter, _FEW), ""]]
    else:
        lines += [line for adapter in adapters for line in [*_adapter(adapter, _MOST), *_around(adapter)]]
    return "\n".join(part for line in lines for part in wrapped(line)).rstrip("\n") + "\n"


def _headline(found: Audit) -> str:
    told = wording.listed(verdicts(found))
    return f"{told} under the policy {printable(found.policy.name)}; rules on files and weights, not on behaviour"


_HEADER = ("adapter", "verdict", "errors", "warnings", "method")


def _row(adapter: Audited) -> tuple[str, ...]:
    counts = (adapter.count(Severity.error), adapter.count(Severity.warning))
    method = elided(adapter.method or numerals.NOT_MEASURED, 20)
    return elided(adapter.ref, 36), adapter.verdict.value, *map(str, counts), method


def _adapter(adapter: Audited, most: int) -> list[str]:
    facts = [adapter.method, f"{adapter.parameters:,} parameters" if adapter.parameters else None, adapter.base_named]
    lines = [f"{adapter.verdict.value}: {printable(', '.join([adapter.ref, *filter(None, facts)]))}"]
    lines += [printable(adapter.reason)] if adapter.reason else []
    lines += [_line(finding) for finding in adapter.findings[:most]]
    if (more := len(adapter.findings) - most) > 0:
        lines.append(f"and {more} more, in --format json")
    lines += [f"known from the baseline: {adapter.known}"] if adapter.known else []
    return lines


def _around(adapter: Audited) -> list[str]:
    """What was not checked, and what servers would do."""
    unchecked = [f"not checked, {printable(each.reason)}: {_codes(each.rules)}" for each in adapter.unchecked]
    return [*unchecked, *_servers(adapter)]


def _line(finding: Finding) -> str:
    return f"{finding.severity.value} {finding.code}: {printable(finding.message)}"


def _codes(codes: Sequence[str]) -> str:
    return ", ".join(codes) if len(codes) <= 12 else f"{len(codes)} rules, in --format json"


def _servers(adapter: Audited) -> list[str]:
    rows = [(SERVERS[row.server].title, row.version, row.outcome, _first(row.reasons)) for row in adapter.servers]
    if not rows or adapter.verdict is Verdict.unreadable:
        return []
    return ["", *table(("server", "version", "outcome", "because"), rows, left=4)]


def _first(reasons: Sequence[str]) -> str:
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return elided(reasons[0], 60) + more if reasons else ""
