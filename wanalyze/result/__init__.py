"""What a run found: frozen records, and the folder they are kept in. Never imports torch."""

from wanalyze.result.inventory import AdapterInventory, Change, Entry, Inventory
from wanalyze.result.records import (
    Ambiguity,
    File,
    Finding,
    Model,
    Module,
    Result,
    Settings,
    SkippedTensor,
    Source,
    Status,
    Summary,
    Term,
    Tool,
    Vector,
)
from wanalyze.result.run_folder import check_output, read_run, write_run
from wanalyze.result.summary import summarise
from wanalyze.result.table import csv_text, inventory_csv, modules_csv

__all__ = [
    "AdapterInventory",
    "Ambiguity",
    "Change",
    "Entry",
    "File",
    "Finding",
    "Inventory",
    "Model",
    "Module",
    "Result",
    "Settings",
    "SkippedTensor",
    "Source",
    "Status",
    "Summary",
    "Term",
    "Tool",
    "Vector",
    "check_output",
    "csv_text",
    "inventory_csv",
    "modules_csv",
    "read_run",
    "summarise",
    "write_run",
]
