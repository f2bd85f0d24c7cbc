"""What was found before: two audits of one adapter, compared finding by finding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from wanalyze.auditing.records import Audit, Audited, Effective, Finding, Severity, Verdict
from wanalyze.errors import UsageError

_MOST = 2**28  # bytes of a baseline


def fingerprint(adapter: Audited, finding: Finding) -> str:
    """What makes a finding the same in two audits: the adapter, the rule, the place, and what is said of it."""
    parts = (adapter.ref, finding.code, finding.file or "", finding.module or "", finding.message)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def read_baseline(path: Path) -> dict[str, Severity]:
    """How much each finding of an audit that was kept as JSON weighed, by fingerprint; UsageError for anything else."""
    try:
        if path.stat().st_size > _MOST:
            raise UsageError(f"{path}: {path.stat().st_size} bytes, more than the {_MOST} a baseline may have")
        found = Audit.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path}: is no audit written by this version ({place}: {first['msg']}); make it with --format json"
        ) from None
    return {
        fingerprint(adapter, finding): finding.severity for adapter in found.adapters for finding in adapter.findings
    }


def without_known(adapter: Audited, known: Mapping[str, Severity], policy: Effective) -> Audited:
    """The adapter with what is new, or weighs more than it did, and the verdict on that; unreadable stays so."""
    before = [known.get(fingerprint(adapter, finding)) for finding in adapter.findings]
    new = [
        finding
        for finding, weighed in zip(adapter.findings, before, strict=True)
        if weighed is None or not weighed.reaches(finding.severity)
    ]
    fails = any(finding.severity.reaches(policy.fail_on) for finding in new)
    verdict = Verdict.failed if fails else Verdict.passed
    return adapter.model_copy(
        update={
            "findings": new,
            "known": len(adapter.findings) - len(new),
            "verdict": adapter.verdict if adapter.verdict is Verdict.unreadable else verdict,
        }
    )
