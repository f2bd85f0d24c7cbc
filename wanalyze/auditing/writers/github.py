"""Annotations of GitHub Actions: workflow commands, with nothing of a stranger's left to obey."""

from __future__ import annotations

from collections.abc import Iterator

from wanalyze.auditing.records import Audit, Audited, Severity, Verdict
from wanalyze.auditing.writers.places import path_of
from wanalyze.printable import printable

_COMMANDS = {Severity.info: "notice", Severity.warning: "warning", Severity.error: "error"}

_FIRST = ("error", "warning", "notice")


def github(found: Audit) -> str:
    """A line for each finding, the most severe first: GitHub shows ten of a sort."""
    lines = [line for adapter in found.adapters for line in _lines(adapter)]
    return "".join(f"{line}\n" for line in sorted(lines, key=_rank))


def _rank(line: str) -> int:
    return next(rank for rank, command in enumerate(_FIRST) if line.startswith(f"::{command} "))


def _lines(adapter: Audited) -> Iterator[str]:
    if adapter.verdict is Verdict.unreadable:
        yield _command("error", path_of(adapter), "unreadable", adapter.reason or "")
    for finding in adapter.findings:
        message = f"{finding.message}. {finding.fix}"
        yield _command(_COMMANDS[finding.severity], path_of(adapter, finding), finding.code, message)


def _command(command: str, file: str, title: str, message: str) -> str:
    return f"::{command} file={_property(file)},title={_property(f'wanalyze {title}')}::{_data(message)}"


def _data(text: str) -> str:
    """As the runner unescapes it; control characters are written out before."""
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
