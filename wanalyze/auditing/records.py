"""The records of an audit, and their JSON Schema. Never imports torch."""

from __future__ import annotations

from enum import Enum
from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field

from wanalyze.auditing.standing import Standings
from wanalyze.result import Change, File, Tool
from wanalyze.result.records import Document, Number, Record

Outcome: TypeAlias = Literal["takes", "differs", "refuses", "unknown"]
AUDIT_ID: Literal["wanalyze.audit/1"] = "wanalyze.audit/1"


class Severity(str, Enum):
    """How much a finding weighs, the least first."""

    info = "info"
    warning = "warning"
    error = "error"

    def reaches(self, other: Severity) -> bool:
        """Whether this is as severe as the other, or more.

        >>> Severity.error.reaches(Severity.warning), Severity.info.reaches(Severity.warning)
        (True, False)
        """
        order = list(Severity)
        return order.index(self) >= order.index(other)


class Verdict(str, Enum):
    """What an audit comes to. `passed` says that no rule of the policy was broken, and no more."""

    passed = "passed"
    failed = "failed"
    unreadable = "unreadable"


class Finding(Record):
    """A rule that an adapter breaks: where, by which value, against which limit, and what to do about it.

    `file` is a path relative to the adapter, `module` a tensor or module of it.
    """

    code: str
    severity: Severity
    module: str | None
    file: str | None
    value: Number | None
    limit: Number | None
    message: str
    fix: str


class Unchecked(Record):
    """Rules that could not be applied, or not to every update, and why."""

    rules: list[str]
    reason: str


class Served(Record):
    """What a server would do with an adapter, by the rules read from one of its releases.

    `differs` says that it loads the adapter and computes something else.
    """

    server: str
    version: str
    outcome: Outcome
    reasons: list[str]


class AuditedFile(Record):
    """A file in the folder of an adapter.

    `size` is null for what is no regular file inside it, `sha256` for what was not read.
    """

    name: str
    size: int | None
    sha256: str | None = None


class Audited(Record):
    """One adapter. `reason` says why it is unreadable; `known` counts the findings that the baseline has as well."""

    ref: str
    revision: str | None = None
    verdict: Verdict
    reason: str | None = None
    method: str | None = None
    parameters: int | None = None
    base_named: str | None = None
    weights: list[File] = Field(default_factory=list)
    files: list[AuditedFile] = Field(default_factory=list)
    findings: list[Finding] = Field(default_factory=list)
    known: int = 0
    unchecked: list[Unchecked] = Field(default_factory=list)
    servers: list[Served] = Field(default_factory=list)
    modules: list[Change] = Field(default_factory=list)
    bank: Standings | None = None

    def count(self, severity: Severity) -> int:
        return sum(finding.severity is severity for finding in self.findings)


class Ruling(Record):
    """A rule as the policy applies it; `severity` null where it is off, `origin` says who decided that."""

    code: str
    severity: Severity | None
    limit: Number | None
    origin: str


class Effective(Record):
    """The policy that was applied, every rule of it."""

    name: str
    fail_on: Severity
    servers: list[str]
    licenses: list[str]
    base_sha256: list[str]
    rules: list[Ruling]


class AuditedBase(Record):
    ref: str
    revision: str | None = None
    files: list[File]


class Audit(Document):
    """All that one `audit` found, the adapters in the order they were named."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_id: Literal["wanalyze.audit/1"] = Field(default=AUDIT_ID, alias="schema")
    tool: Tool
    policy: Effective
    base: AuditedBase | None = None
    adapters: list[Audited]

    @property
    def verdict(self) -> Verdict:
        """Unreadable if one adapter is: what was not looked at can be neither passed nor failed."""
        verdicts = {adapter.verdict for adapter in self.adapters}
        worst = (Verdict.unreadable, Verdict.failed)
        return next((verdict for verdict in worst if verdict in verdicts), Verdict.passed)


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of an audit; the package ships it as `audit/schema.json`."""
    schema = Audit.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": AUDIT_ID, **schema}
