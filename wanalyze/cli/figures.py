"""`wanalyze figures RUN...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wanalyze.cli import options
from wanalyze.errors import ExitCode, UsageError
from wanalyze.figures import FIGURES, FORMATS, VENUES

_LISTED = "\n".join(f"{figure.name:<15} {figure.shows}" for figure in FIGURES.values())


@click.command(epilog=f"\b\nFigures:\n{_LISTED}")
@click.argument("runs", nargs=-1, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--venue", type=click.Choice(list(VENUES)), default="neurips", show_default=True, help="Whose page.")
@click.option(
    "--format", "file_format", type=click.Choice(list(FORMATS)), default="pdf", show_default=True, help="Of the files."
)
@click.option("--only", multiple=True, metavar="NAME", help="Draw this figure; repeatable.  [default: all]")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="LABEL=GLOB",
    help="Runs, or RUN/MODEL, drawn as one: mean and band; repeatable.",
)
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV label,metric,value to set the intruders against.",
)
@click.option("--metric", default="relative_norm", show_default=True, help="Of map and depth.")
@click.option("--module", metavar="NAME", help="Of spectrum and overlap.  [default: the one with the most intruders]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder.  [default: figures in the first RUN]")
@options.verbose
def figures(runs: tuple[Path, ...], output: Path | None, verbose: bool, **wanted: Any) -> int:  # noqa: ARG001 - read by main
    """Draw finished runs for a paper, each figure with its numbers as CSV beside it, without computing anything."""
    from wanalyze.figures import write_figures

    if not runs and not wanted["groups"]:
        raise UsageError("name a RUN or a --group; `wanalyze compare` makes runs")
    written = write_figures(*runs, output=output or _default_folder(runs), **wanted)
    for name, reason in written.left_out:
        click.echo(f"left out {name}: {reason}", err=True)
    click.echo("".join(f"{file}\n" for file in written.files), nl=False)
    return ExitCode.done if written.files else ExitCode.unreadable


def _default_folder(runs: tuple[Path, ...]) -> Path:
    if not runs:
        return Path("figures")
    return (runs[0] if runs[0].is_dir() else runs[0].parent) / "figures"
