"""The page of an audit: one file, no script, no request, every name escaped."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wanalyze import wording
from wanalyze.auditing import RULES, SERVERS, Audit, Severity, ranked, verdicts
from wanalyze.printable import printable

_MOST = 200  # findings of each adapter
# Shapes beside the words, so that nothing hangs on a colour.
_SIGNS = {
    **{"passed": "●", "failed": "▲", "unreadable": "■"},
    **{"error": "▲", "warning": "◆", "info": "○"},
    **{"takes": "●", "differs": "◆", "refuses": "▲", "unknown": "■"},
}


def audit_page(audit: Audit) -> str:
    """The audit as HTML; the same audit gives the same bytes."""
    style = _text("audit.css")
    return (
        _environment()
        .from_string(_text("audit.html"))
        .render(
            audit=audit,
            style=Markup(style),
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            counts=wording.listed(verdicts(audit)),
            ranked=ranked(audit),
            rules=RULES,
            servers=SERVERS,
            severities=Severity,
            signs=_SIGNS,
            most=_MOST,
        )
    )


def _text(name: str) -> str:
    return files("wanalyze.report").joinpath(name).read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["printable"] = printable
    return environment
