"""May this adapter be deployed? Rules, a policy, and what each adapter breaks."""

from wanalyze.auditing.bank import Bank, read_bank
from wanalyze.auditing.building import build_bank
from wanalyze.auditing.policy import effective_policy, policy_text
from wanalyze.auditing.ranking import ranked, verdicts
from wanalyze.auditing.records import Audit, Audited, Finding, Severity, Verdict, json_schema
from wanalyze.auditing.rules import RULES, SERVERS
from wanalyze.auditing.run import audit
from wanalyze.auditing.standing import Standings
from wanalyze.auditing.writers import ENDINGS, WRITERS

__all__ = [
    "ENDINGS",
    "RULES",
    "SERVERS",
    "WRITERS",
    "Audit",
    "Audited",
    "Bank",
    "Finding",
    "Severity",
    "Standings",
    "Verdict",
    "audit",
    "build_bank",
    "effective_policy",
    "json_schema",
    "policy_text",
    "ranked",
    "read_bank",
    "verdicts",
]
