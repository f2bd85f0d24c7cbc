"""Whether each server would take an adapter, and compute the same with it."""

from __future__ import annotations

from wanalyze.auditing.records import Served
from wanalyze.auditing.rule import Rule
from wanalyze.auditing.rules import RULES, SERVERS
from wanalyze.auditing.rules.servers import Server
from wanalyze.auditing.subject import Subject

_FEW = 5  # reasons that are given


def served(subject: Subject) -> list[Served]:
    """A row for every server; `unknown` where the adapter could not be read."""
    return [_by(server, subject) for server in SERVERS.values()]


def _by(server: Server, subject: Subject) -> Served:
    if subject.files is None:
        return Served(server=server.name, version=server.version, outcome="unknown", reasons=[])
    broken = {rule: [*rule.check(subject)] for rule in _of(server)}
    told = {rule: hits for rule, hits in broken.items() if hits}
    outcomes = {rule.outcome for rule in told}
    return Served(
        server=server.name,
        version=server.version,
        outcome="refuses" if "refuses" in outcomes else "differs" if outcomes else "takes",
        reasons=[hit.message for hits in told.values() for hit in hits][:_FEW],
    )


def _of(server: Server) -> list[Rule]:
    return [rule for rule in RULES.values() if rule.server == server.name]
