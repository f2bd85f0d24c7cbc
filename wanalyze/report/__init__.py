"""The report page: one self-contained HTML file, complete without JavaScript. That of an audit as well."""

from wanalyze.report.audit import audit_page
from wanalyze.report.page import page

__all__ = ["audit_page", "page"]
