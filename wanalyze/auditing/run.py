"""Many adapters, each held against every rule of the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from wanalyze.auditing.bank import read_bank
from wanalyze.auditing.base import open_base
from wanalyze.auditing.baseline import read_baseline, without_known
from wanalyze.auditing.places import Place, expanded
from wanalyze.auditing.reading import Setting, read_subject
from wanalyze.auditing.records import (
    Audit,
    Audited,
    AuditedFile,
    Effective,
    Finding,
    Severity,
    Unchecked,
    Verdict,
)
from wanalyze.auditing.rule import Hit, Need, Rule
from wanalyze.auditing.rules import RULES
from wanalyze.auditing.servers import served
from wanalyze.auditing.subject import Subject
from wanalyze.checkpoints import Reference
from wanalyze.result import File, Status, Tool
from wanalyze.version import VERSION

if TYPE_CHECKING:
    from wanalyze.engine import Step

_MOST_HITS = 100  # findings of one rule on one adapter; a hostile file can break a rule a million times


def audit(
    references: Sequence[Reference],
    base: Reference | None,
    policy: Effective,
    progress: Callable[[Step], None],
    *,
    bank: Path | None = None,
    intruders: bool = False,
    baseline: Path | None = None,
    offline: bool = False,
) -> Audit:
    """Hold every adapter against the policy; a folder of adapters counts as all that it holds.

    One that cannot be read is a record with the reason, and never stops the others. With `intruders`, the merged
    matrices are taken apart, which takes as long as `compare`. Of what the `baseline`, an audit
    kept as JSON, has as well, only the number is given.
    """
    known = {} if baseline is None else read_baseline(baseline)
    under = None if base is None else open_base(base, hashed=bool(policy.base_sha256), offline=offline)
    places = [place for reference in references for place in expanded(reference.location)]
    one_by_one = progress if len(places) == 1 else _silent
    setting = Setting(policy, under, None if bank is None else read_bank(bank), intruders, offline, one_by_one)
    return Audit(
        tool=Tool(version=VERSION),
        policy=policy,
        base=None if under is None else under.record(),
        adapters=[
            without_known(judged(subject, policy), known, policy)
            for subject in _with_twins(read_subject(place, setting) for place in _counted(places, progress))
        ],
    )


def _silent(step: Step) -> None:
    pass


def _counted(places: Sequence[Place], progress: Callable[[Step], None]) -> Iterator[Place]:
    """The places, with a word on each before it is read; of one alone its modules are counted instead."""
    if len(places) == 1:
        yield places[0]
        return
    from wanalyze.engine import Step

    for done, place in enumerate(places):
        progress(Step(place.ref, done, len(places)))
        yield place


def _with_twins(subjects: Iterable[Subject]) -> Iterator[Subject]:
    """Each with the first before it that has the same weights."""
    seen: dict[frozenset[str], str] = {}
    for subject in subjects:
        hashes = subject.weights_hashes
        yield replace(subject, twin=seen.get(hashes))
        if hashes:
            seen.setdefault(hashes, subject.ref)


def judged(subject: Subject, policy: Effective) -> Audited:
    """The record of one adapter."""
    rulings = [(RULES[ruling.code], ruling.severity) for ruling in policy.rules if ruling.severity is not None]
    lacking = {rule.code: reason for rule, _ in rulings if (reason := _lacks(rule, subject))}
    findings = [
        _finding(rule, severity, hit, subject)
        for rule, severity in rulings
        if rule.code not in lacking
        for hit in _some(rule.check(subject))
    ]
    weights = () if subject.files is None else subject.files.weights.files
    return Audited(
        ref=subject.ref,
        revision=None if subject.files is None else subject.files.weights.revision,
        verdict=_verdict(subject, findings, policy.fail_on),
        reason=subject.unreadable,
        method=None if subject.adapter is None else subject.adapter.method,
        parameters=None if subject.adapter is None else subject.adapter.trained_parameters,
        base_named=subject.base_named,
        weights=[File(name=file.name, size=file.size, sha256=subject.hashes.get(file.name)) for file in weights],
        files=[
            AuditedFile(name=listed.name, size=listed.size, sha256=subject.hashes.get(listed.name))
            for listed in subject.listing
        ],
        findings=sorted(_told_once(findings), key=_order),
        unchecked=[
            *_unchecked(lacking),
            *_unmeasured(subject, [rule for rule, _ in rulings if rule.code not in lacking]),
        ],
        servers=served(subject),
        modules=list(subject.changes.values()),
        bank=subject.standings,
    )


def _lacks(rule: Rule, subject: Subject) -> str | None:
    return next((reason for need in rule.needs if (reason := subject.lacks(need))), None)


def _some(hits: Iterable[Hit]) -> list[Hit]:
    """The hits of one rule; of too many the first, and how many more there are."""
    rest = iter(hits)
    found = [*islice(rest, _MOST_HITS)]
    more = sum(1 for _ in rest)
    if more:
        found.append(Hit(f"and {more:,} more like the {_MOST_HITS} that are listed", found[-1].fix, value=more))
    return found


def _told_once(findings: Sequence[Finding]) -> list[Finding]:
    """Without what another finding implies; one that weighs less, or that the policy silenced, implies nothing."""
    heaviest: dict[str, Severity] = {}
    for finding in findings:
        heaviest.setdefault(finding.code, finding.severity)
    return [
        finding
        for finding in findings
        if not any(
            code in heaviest and heaviest[code].reaches(finding.severity) for code in RULES[finding.code].implied_by
        )
    ]


def _finding(rule: Rule, severity: Severity, hit: Hit, subject: Subject) -> Finding:
    return Finding(
        code=rule.code,
        severity=severity,
        module=hit.module,
        file=hit.file or subject.weights_file,
        value=hit.value,
        limit=hit.limit,
        message=hit.message,
        fix=hit.fix,
    )


def _order(finding: Finding) -> tuple[int, str, str, str]:
    """The most severe first, then by rule and place."""
    rank = -list(Severity).index(finding.severity)
    return rank, finding.code, finding.module or "", finding.file or ""


def _unchecked(lacking: dict[str, str]) -> list[Unchecked]:
    reasons = dict.fromkeys(lacking.values())
    return [
        Unchecked(rules=[code for code, why in lacking.items() if why == reason], reason=reason) for reason in reasons
    ]


def _unmeasured(subject: Subject, rules: Iterable[Rule]) -> list[Unchecked]:
    """The rules on updates, where some of those could not be measured: they were applied to the others alone."""
    skipped = [change for change in subject.changes.values() if change.status is Status.skipped]
    codes = [rule.code for rule in rules if Need.adapter in rule.needs and Need.numbers in rule.needs]
    if not skipped or not codes:
        return []
    reason = f"{len(skipped):,} of {len(subject.changes):,} updates were not measured: {skipped[0].reason}"
    return [Unchecked(rules=codes, reason=reason)]


def _verdict(subject: Subject, findings: Iterable[Finding], fail_on: Severity) -> Verdict:
    if subject.unreadable is not None:
        return Verdict.unreadable
    return Verdict.failed if any(finding.severity.reaches(fail_on) for finding in findings) else Verdict.passed
