"""`wanalyze report RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from wanalyze.cli import options
from wanalyze.cli.output import give
from wanalyze.errors import ExitCode, UsageError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: stdout]")
@options.format_option("html", "md", "csv", "json")
@options.verbose
def report(run: Path, output: Path | None, format_: str, verbose: bool) -> int:  # noqa: ARG001 - read by main
    """Render a finished RUN again, without computing anything."""
    from wanalyze.report import page, report_markdown
    from wanalyze.result import Result, modules_csv, read_run

    write = {
        "html": page,
        "md": report_markdown,
        "csv": lambda result: modules_csv(result.modules),
        "json": Result.to_json,
    }[format_]
    text = write(read_run(run))
    if output is None:
        give(text)
        return ExitCode.done
    try:
        output.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror}); choose another file with -o") from error
    return ExitCode.done
