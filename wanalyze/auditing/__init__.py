"""May this adapter be deployed? Rules, a policy, and what each adapter breaks."""

from wanalyze.auditing.policy import effective_policy, policy_text
from wanalyze.auditing.records import Audit, Audited, Finding, Severity, Verdict, json_schema
from wanalyze.auditing.rules import RULES
from wanalyze.auditing.run import audit

__all__ = [
    "RULES",
    "Audit",
    "Audited",
    "Finding",
    "Severity",
    "Verdict",
    "audit",
    "effective_policy",
    "json_schema",
    "policy_text",
]
