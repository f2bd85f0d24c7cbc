"""SARIF 2.1.0, for code scanning: every finding with a physical location, or GitHub refuses the whole file."""

from __future__ import annotations

import json
from collections.abc import Iterator

from wanalyze.auditing.baseline import fingerprint
from wanalyze.auditing.records import Audit, Audited, Finding, Severity, Verdict
from wanalyze.auditing.rule import Rule
from wanalyze.auditing.rules import RULES
from wanalyze.auditing.writers.places import path_of, uri_of
from wanalyze.printable import printable

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.info: "note", Severity.warning: "warning", Severity.error: "error"}
_FIRST = ("error", "warning", "note")
_SCORES = {Severity.info: "2.0", Severity.warning: "5.0", Severity.error: "8.0"}  # GitHub: 4 medium, 7 high
_MOST = 25_000  # results of a run that GitHub takes
_UNREADABLE = "unreadable"


def sarif(found: Audit) -> str:
    """The audit as one run; an adapter that could not be read is a notification, and the run then not successful."""
    results = [_result(adapter, finding) for adapter in found.adapters for finding in adapter.findings]
    run = {
        "tool": {
            "driver": {
                "name": "wanalyze",
                "semanticVersion": found.tool.version,
                "rules": [_rule(RULES[ruling.code], ruling.severity) for ruling in found.policy.rules],
                "notifications": [{"id": _UNREADABLE, "shortDescription": {"text": "an adapter could not be read"}}],
            }
        },
        "invocations": [
            {
                "executionSuccessful": found.verdict is not Verdict.unreadable,
                "toolExecutionNotifications": [*_notifications(found)],
            }
        ],
        "results": sorted(results, key=lambda result: _FIRST.index(str(result["level"])))[:_MOST],
        "columnKind": "unicodeCodePoints",
    }
    text = json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, sort_keys=True)
    return text + "\n"


def _rule(rule: Rule, severity: Severity | None) -> dict[str, object]:
    return {
        "id": rule.code,
        "name": rule.code,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.definition},
        "help": {"text": f"{rule.definition}\nSource: {rule.source}\nLimits: {rule.caveat}"},
        "defaultConfiguration": {
            "enabled": severity is not None,
            "level": "none" if severity is None else _LEVELS[severity],
        },
        "properties": {"security-severity": _SCORES[severity or Severity.info], "tags": ["security", "model-weights"]},
    }


def _result(adapter: Audited, finding: Finding) -> dict[str, object]:
    logical = [{"fullyQualifiedName": printable(finding.module), "kind": "member"}] if finding.module else []
    return {
        "ruleId": finding.code,
        "ruleIndex": list(RULES).index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": printable(f"{finding.message}. {finding.fix[:1].upper()}{finding.fix[1:]}.")},
        "locations": [{**_physical(adapter, finding), **({"logicalLocations": logical} if logical else {})}],
        "partialFingerprints": {"wanalyze/1": fingerprint(adapter, finding)},
    }


def _physical(adapter: Audited, finding: Finding | None = None) -> dict[str, object]:
    # Weights have no lines; GitHub shows nothing without one.
    place = {"uri": uri_of(path_of(adapter, finding))}
    return {"physicalLocation": {"artifactLocation": place, "region": {"startLine": 1}}}


def _notifications(found: Audit) -> Iterator[dict[str, object]]:
    for adapter in found.adapters:
        if adapter.verdict is Verdict.unreadable:
            yield {
                "descriptor": {"id": _UNREADABLE},
                "level": "error",
                "message": {"text": printable(adapter.reason or "")},
                "locations": [_physical(adapter)],
            }
    more = sum(len(adapter.findings) for adapter in found.adapters) - _MOST
    if more > 0:
        yield {"level": "warning", "message": {"text": f"{more:,} findings are left out, the least severe ones"}}
