"""`wanalyze show RUN [GLOB]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanalyze.cli import options
from wanalyze.cli.output import give, say
from wanalyze.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from wanalyze.result import Module


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("glob", default="*")
@options.format_option("table", "csv", "json", "md")
@options.verbose
def show(run: Path, glob: str, format_: str, verbose: bool) -> int:  # noqa: ARG001 - read by main
    """Show the matrices of a finished RUN whose name matches GLOB."""
    from wanalyze import terminal
    from wanalyze.naming import matches
    from wanalyze.result import modules_csv, read_run

    result = read_run(run)
    modules = [module for module in result.modules if matches(module.name, glob)]
    if not modules:
        like = f"names look like {result.modules[0].name!r}" if result.modules else "the run compared no matrices"
        raise UsageError(f"{run}: no module matches {glob!r}; {like}")
    estimated = result.settings.estimated
    if format_ == "table":
        say(terminal.modules_table(modules, estimated=estimated))
    elif format_ == "md":
        give(terminal.modules_markdown(modules, estimated=estimated))
    else:
        give({"csv": modules_csv, "json": _json}[format_](modules))
    return ExitCode.done


def _json(modules: list[Module]) -> str:
    listed = [module.model_dump(mode="json") for module in modules]
    return json.dumps(listed, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
