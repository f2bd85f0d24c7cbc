"""A result as a document: the page, one self-contained HTML file, and Markdown."""

from wanalyze.report.markdown import report_markdown
from wanalyze.report.page import page

__all__ = ["page", "report_markdown"]
