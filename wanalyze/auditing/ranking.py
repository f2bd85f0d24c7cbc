"""Many adapters in the order a reader wants them: the worst first."""

from __future__ import annotations

from wanalyze.auditing.records import Audit, Audited, Severity, Verdict

_WORST_FIRST = (Verdict.unreadable, Verdict.failed, Verdict.passed)


def ranked(audit: Audit) -> list[Audited]:
    """The adapters: unreadable, failed, passed; each by the number of its errors and warnings."""
    return sorted(audit.adapters, key=_rank)


def _rank(adapter: Audited) -> tuple[int, int, int, str]:
    counts = (-adapter.count(Severity.error), -adapter.count(Severity.warning))
    return _WORST_FIRST.index(adapter.verdict), *counts, adapter.ref


def verdicts(audit: Audit) -> list[str]:
    """How many adapters came to which verdict, in words."""
    counts = {verdict: sum(one.verdict is verdict for one in audit.adapters) for verdict in Verdict}
    return [f"{count:,} {verdict.value}" for verdict, count in counts.items() if count]
