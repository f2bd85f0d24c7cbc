"""A result as plain text: the summary after a run, tables of modules, what is in a file."""

from wanalyze.terminal.audit import audit
from wanalyze.terminal.inventory import inventory
from wanalyze.terminal.modules import modules_markdown, modules_table
from wanalyze.terminal.statistics import statistics
from wanalyze.terminal.summary import summary
from wanalyze.terminal.tables import facts_table

__all__ = [
    "audit",
    "facts_table",
    "inventory",
    "modules_markdown",
    "modules_table",
    "statistics",
    "summary",
]
