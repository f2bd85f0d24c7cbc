"""`wanalyze bank build ADAPTER...`."""

from __future__ import annotations

from pathlib import Path

import click

from wanalyze.cli import options
from wanalyze.cli.output import keep, say
from wanalyze.errors import ExitCode


@click.group()
def bank() -> None:
    """Make a reference bank of adapters that you trust, for `wanalyze audit --bank`."""


@bank.command()
@click.argument("adapters", metavar="ADAPTER...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--base", metavar="REF", help="The base of the adapters, for updates that depend on its weights.")
@options.offline
@options.quiet
@options.verbose
def build(
    adapters: tuple[str, ...],
    output: Path,
    base: str | None,
    offline: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 - read by main
) -> int:
    """Measure every ADAPTER, or every adapter in a folder, and write the bank: statistics, recipes and hashes."""
    import wanalyze
    from wanalyze.cli.progress import shown

    with shown(quiet=quiet) as progress:
        found = wanalyze.build_bank(*adapters, base=base, offline=offline, progress=progress)
    keep(output, found.to_json())
    if not quiet:
        say(f"{output}: {len(found.adapters)} adapters\n")
    return ExitCode.done
