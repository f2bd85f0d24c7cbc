"""Every rule, one row each, by its code. One file per family. Never imports torch."""

from __future__ import annotations

from types import MappingProxyType

from wanalyze.auditing.rule import Rule
from wanalyze.auditing.rules.bases import BASES
from wanalyze.auditing.rules.config import CONFIG
from wanalyze.auditing.rules.fidelity import FIDELITY_RULES
from wanalyze.auditing.rules.files import FILES
from wanalyze.auditing.rules.provenance import PROVENANCE
from wanalyze.auditing.rules.servers import SERVER_RULES, SERVERS
from wanalyze.auditing.rules.tensors import TENSORS
from wanalyze.auditing.rules.values import VALUES
from wanalyze.auditing.rules.weights import WEIGHTS

__all__ = ["RULES", "SERVERS"]

_FAMILIES = (FILES, CONFIG, PROVENANCE, TENSORS, VALUES, BASES, WEIGHTS, FIDELITY_RULES, SERVER_RULES)
RULES: MappingProxyType[str, Rule] = MappingProxyType({rule.code: rule for family in _FAMILIES for rule in family})
