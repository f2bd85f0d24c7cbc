"""Where a finding is, as other tools name places: a path that does not depend on the machine."""

from __future__ import annotations

from urllib.parse import quote

from wanalyze.auditing.records import Audited, Finding
from wanalyze.checkpoints.sources import ADAPTER_CONFIG


def path_of(adapter: Audited, finding: Finding | None = None) -> str:
    """The file of a finding, or that of the adapter, relative to where the audit was run."""
    weights = adapter.weights[0].name if adapter.weights else ADAPTER_CONFIG
    name = weights if finding is None or finding.file is None else finding.file
    place = adapter.ref.removesuffix(f"/{weights}")
    return name if place in (".", name) else f"{place}/{name}"


def uri_of(path: str) -> str:
    """The path as a relative URI, whatever characters a stranger put into it.

    >>> uri_of("hf:org/name/a b.bin")
    'hf%3Aorg/name/a%20b.bin'
    """
    return quote(path, safe="/", errors="backslashreplace")
