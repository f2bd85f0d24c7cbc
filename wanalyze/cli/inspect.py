"""`wanalyze inspect REF`."""

from __future__ import annotations

import click

from wanalyze.cli import options
from wanalyze.cli.output import give, say
from wanalyze.errors import ExitCode


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--base", metavar="REF", help="The base of an adapter: for its names, and updates that depend on it.")
@click.option("--headers", is_flag=True, help="Read no tensor of an adapter, measure nothing.")
@options.format_option("table", "csv", "json")
@options.offline
@options.quiet
@options.verbose
def inspect(
    reference: str,
    base: str | None,
    headers: bool,
    format_: str,
    offline: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 - read by main
) -> int:
    """Say what is in a checkpoint, from its headers alone, or in an adapter, with the size and rank of its updates."""
    import wanalyze
    from wanalyze import terminal
    from wanalyze.cli.progress import shown
    from wanalyze.result import Inventory, inventory_csv

    with shown(quiet=quiet) as progress:
        found = wanalyze.inspect(reference, base=base, headers=headers, offline=offline, progress=progress)
    if format_ == "table":
        say(terminal.inventory(found))
    else:
        give({"csv": inventory_csv, "json": Inventory.to_json}[format_](found))
    failed = found.adapter is not None and any(change.status.value == "failed" for change in found.adapter.changes)
    return ExitCode.in_part if failed else ExitCode.done
