"""The command line: one file per command, each parses, calls the library once, renders, and returns a code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import click

from wanalyze.cli.audit import audit
from wanalyze.cli.bank import bank
from wanalyze.cli.compare import compare
from wanalyze.cli.completion import completion
from wanalyze.cli.explain import explain
from wanalyze.cli.figures import figures
from wanalyze.cli.inspect import inspect
from wanalyze.cli.output import forget_reader
from wanalyze.cli.report import report
from wanalyze.cli.show import show
from wanalyze.errors import ExitCode, WanalyzeError
from wanalyze.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="wanalyze")
def wanalyze() -> None:
    r"""What did this fine-tune do to the weights?

    \b
    wanalyze compare BASE TUNED...   measure what was made from a base
    wanalyze audit ADAPTER           may it be deployed
    wanalyze show reports/RUN        look at the numbers again
    wanalyze explain effective_rank  what a number means
    """


for command in (compare, inspect, audit, bank, show, report, figures, explain, completion):
    wanalyze.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code (see `ExitCode`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    interrupts: list[int] = []
    with _noted(interrupts):
        code = _code(given, interrupts)
    if interrupts:
        # Python ends by the signal instead of a code if it struck while a module was being imported.
        sys.stderr.flush()
        os._exit(ExitCode.interrupted)
    sys.exit(int(code))


@contextmanager
def _noted(interrupts: list[int]) -> Iterator[None]:
    """Keep a note of every SIGINT: struck within an import, it can come out as any exception."""

    def note(number: int, *_: object) -> NoReturn:
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _code(arguments: list[str], interrupts: list[int]) -> int:
    stdout = sys.stdout
    try:
        code = wanalyze.main(arguments, prog_name="wanalyze", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else ExitCode.done
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.unreadable
    except click.ClickException as error:
        error.show()
        return ExitCode.unreadable
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except WanalyzeError as error:
        click.echo(f"wanalyze: {_one_line(str(error))}", err=True)
        return error.exit_code
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as error:
        # click wraps stdout when a pipe is closed, and exits with 1, which here would read as a failed policy
        return _reader_left() if sys.stdout is not stdout else int(error.code or 0)
    except Exception as error:
        return _interrupted() if interrupts else _bug(error, arguments)


def _interrupted() -> int:
    click.echo("interrupted; no run was left half-written", err=True)
    return ExitCode.interrupted


def _one_line(text: str) -> str:
    from wanalyze.printable import printable

    return printable(text)


def _reader_left() -> int:
    """Whoever read our output closed it before the command came to an end: neither done nor failed."""
    forget_reader()
    return ExitCode.unread


def _bug(error: Exception, arguments: Sequence[str]) -> int:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        click.echo("wanalyze: no space left on the device", err=True)
        return ExitCode.unreadable
    if {"-v", "--verbose"} & set(arguments):
        traceback.print_exc()
    name = type(error).__name__
    click.echo(f"wanalyze: a bug: {name}: {_one_line(str(error))}; please report it with the output of -v", err=True)
    return ExitCode.bug
