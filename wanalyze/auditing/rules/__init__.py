"""Every rule, one row each, by its code. One file per family. Never imports torch."""

from __future__ import annotations

from types import MappingProxyType

from wanalyze.auditing.rule import Rule
from wanalyze.auditing.rules.files import FILES
from wanalyze.auditing.rules.servers import SERVER_RULES, SERVERS

__all__ = ["RULES", "SERVERS"]

RULES: MappingProxyType[str, Rule] = MappingProxyType({rule.code: rule for rule in (*FILES, *SERVER_RULES)})
