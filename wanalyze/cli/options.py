"""Options that several commands spell the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

quiet = click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
verbose = click.option("-v", "--verbose", is_flag=True, help="Show the traceback of a bug.")
offline = click.option("--offline", is_flag=True, help="Read what is on the Hub from the cache; no request is made.")
only = click.option("--only", multiple=True, metavar="GLOB", help="Compare only modules of this name; repeatable.")
skip = click.option("--skip", multiple=True, metavar="GLOB", help="Leave out modules of this name; repeatable.")


def format_option(*choices: str) -> Callable[[Command], Command]:
    """--format, what goes to stdout; the first choice is the default."""
    return click.option(
        "--format",
        "format_",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help="What goes to stdout.",
    )
