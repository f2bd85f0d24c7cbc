"""A result as a document: the page, one self-contained HTML file, that of an audit, and Markdown."""

from wanalyze.report.audit import audit_page
from wanalyze.report.markdown import report_markdown
from wanalyze.report.page import page

__all__ = ["audit_page", "page", "report_markdown"]
