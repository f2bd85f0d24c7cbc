"""`wanalyze report RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from wanalyze.cli import options
from wanalyze.cli.output import give
from wanalyze.errors import ExitCode, UsageError

FORMATS = ("html", "md", "csv", "json")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: stdout]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="What is written.  [default: what the name of the file ends in; html]",
)
@options.verbose
def report(run: Path, output: Path | None, format_: str | None, verbose: bool) -> int:  # noqa: ARG001 - read by main
    """Render a finished RUN again, without computing anything."""
    from wanalyze.report import page, report_markdown
    from wanalyze.result import Result, modules_csv, read_run

    write = {
        "html": page,
        "md": report_markdown,
        "csv": lambda result: modules_csv(result.modules),
        "json": Result.to_json,
    }[format_ or _format_of(output)]
    text = write(read_run(run))
    if output is None:
        give(text)
        return ExitCode.done
    try:
        output.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror}); choose another file with -o") from error
    return ExitCode.done


def _format_of(file: Path | None) -> str:
    ending = "" if file is None else file.suffix[1:].lower()
    return ending if ending in FORMATS else FORMATS[0]
