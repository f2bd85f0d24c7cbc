"""An audit in the formats that other tools read: one file each, and a row of WRITERS."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from wanalyze.auditing.records import Audit
from wanalyze.auditing.writers.github import github
from wanalyze.auditing.writers.junit import junit
from wanalyze.auditing.writers.markdown import markdown
from wanalyze.auditing.writers.sarif import sarif

WRITERS: MappingProxyType[str, Callable[[Audit], str]] = MappingProxyType(
    {"json": Audit.to_json, "sarif": sarif, "junit": junit, "github": github, "markdown": markdown}
)
# What the name of a file says of its format.
ENDINGS: MappingProxyType[str, str] = MappingProxyType(
    {".sarif.json": "sarif", ".sarif": "sarif", ".json": "json", ".xml": "junit", ".md": "markdown"}
)

__all__ = ["ENDINGS", "WRITERS", "github", "junit", "markdown", "sarif"]
