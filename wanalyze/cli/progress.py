"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from wanalyze.printable import printable

if TYPE_CHECKING:
    from wanalyze.engine import Step

_EVERY = 30.0  # seconds between lines where stderr is no terminal


@contextmanager
def shown(*, quiet: bool) -> Iterator[Callable[[Step], None]]:
    """A progress callback for the library, weighted by work."""
    if quiet:
        yield lambda step: None
    elif sys.stderr.isatty():
        with _bar() as callback:
            yield callback
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Callable[[Step], None]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def callback(step: Step) -> None:
            bar.update(task, total=max(step.total, 1), completed=step.done, description=escape(printable(step.name)))

        yield callback


def _lines() -> Callable[[Step], None]:
    last = time.monotonic()

    def callback(step: Step) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            click.echo(f"{100 * step.done / max(step.total, 1):.0f} % {printable(step.name)}", err=True)

    return callback
