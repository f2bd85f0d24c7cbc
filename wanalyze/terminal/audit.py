"""What an audit found, the verdict first."""

from __future__ import annotations

from wanalyze.auditing import Audit, Audited, Finding
from wanalyze.printable import printable
from wanalyze.terminal.tables import wrapped

_FEW = 12  # findings shown of each adapter


def audit(found: Audit) -> str:
    """Each adapter with its findings; of several, a ranked overview first."""
    lines = [line for adapter in found.adapters for line in _adapter(adapter)]
    return "\n".join(part for line in lines for part in wrapped(line)) + "\n"


def _adapter(adapter: Audited) -> list[str]:
    lines = [f"{adapter.verdict.value.upper()}  {printable(adapter.ref)}"]
    lines += [f"  {printable(adapter.reason)}"] if adapter.reason else []
    return [*lines, *(_line(finding) for finding in adapter.findings[:_FEW])]


def _line(finding: Finding) -> str:
    return f"  {finding.severity.value:<7}  {finding.code:<20}  {printable(finding.message)}"
