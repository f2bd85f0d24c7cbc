"""The report page: one self-contained HTML file, complete without JavaScript."""

from wanalyze.report.page import page

__all__ = ["page"]
