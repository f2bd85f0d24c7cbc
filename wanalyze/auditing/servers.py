"""Whether each server would take an adapter, and compute the same with it."""

from __future__ import annotations

from collections.abc import Set

from wanalyze.auditing.records import Outcome, Served
from wanalyze.auditing.rule import Rule
from wanalyze.auditing.rules import RULES, SERVERS
from wanalyze.auditing.rules.servers import Server
from wanalyze.auditing.subject import Subject

_FEW = 5  # reasons that are given


def served(subject: Subject) -> list[Served]:
    """A row for every server; `unknown` of an adapter that is not understood, unless a server refuses it anyway."""
    return [_by(server, subject) for server in SERVERS.values()]


def _by(server: Server, subject: Subject) -> Served:
    if subject.files is None:
        return Served(server=server.name, version=server.version, outcome="unknown", reasons=[])
    broken = {rule: [*rule.check(subject)] for rule in _of(server)}
    told = {rule: hits for rule, hits in broken.items() if hits}
    return Served(
        server=server.name,
        version=server.version,
        outcome=_outcome({rule.outcome for rule in told}, subject),
        reasons=[hit.message for hits in told.values() for hit in hits][:_FEW],
    )


def _outcome(found: Set[str], subject: Subject) -> Outcome:
    if "refuses" in found:
        return "refuses"
    if subject.adapter is None:
        return "unknown"
    return "differs" if found else "takes"


def _of(server: Server) -> list[Rule]:
    return [rule for rule in RULES.values() if rule.server == server.name]
