"""`wanalyze report RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from wanalyze.cli import options
from wanalyze.errors import ExitCode, UsageError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: stdout]")
@options.format_option("html", "csv", "json")
@options.verbose
def report(run: Path, output: Path | None, format_: str, verbose: bool) -> int:  # noqa: ARG001 - read by main
    """Render a finished RUN again, without computing anything."""
    from wanalyze.report import page
    from wanalyze.result import modules_csv, read_run

    result = read_run(run)
    if format_ == "html":
        text = page(result)
    elif format_ == "csv":
        text = modules_csv(result.modules)
    else:
        text = result.to_json()
    if output is None:
        click.echo(text, nl=False)
        return ExitCode.done
    try:
        output.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror}); choose another file with -o") from error
    return ExitCode.done
