"""What leaves the program: text for people in whatever encoding they read, data always in UTF-8, files whole."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from wanalyze.errors import UsageError

_PLAIN = str.maketrans(
    {
        **{block: str(i + 1) for i, block in enumerate("▁▂▃▄▅▆▇█")},
        **{
            "·": ".",
            "×": "x",
            "–": "-",
            "…": "...",
            "‖": "|",
            "₁": "1",
            "σ": "sigma",
            "ε": "epsilon",
            "Δ": "d",
            "₀": "0",
        },
        **{"−": "-", "≥": ">=", "≤": "<=", "→": "->", "±": "+-"},
    }
)


def say(text: str) -> None:
    """Text for people. A terminal that cannot show a character gets the nearest one in ASCII, or its code."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    _echo(readable(text, encoding))


def readable(text: str, encoding: str) -> str:
    r"""`text` as far as `encoding` can write it.

    >>> readable("σ₁ ▁█ 3 × 4 名", "ascii")
    'sigma1 18 3 x 4 \\u540d'
    >>> readable("σ₁ ▁█ 3 × 4 名", "utf-8")
    'σ₁ ▁█ 3 × 4 名'
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text


def give(text: str) -> None:
    """Data for programs, byte for byte what a file of it would hold."""
    _echo(text.encode("utf-8"))


def _echo(content: str | bytes) -> None:
    """Whoever reads our output may close it, as `head` does: no error, and no change of the exit code."""
    try:
        click.echo(content, nl=False)
    except BrokenPipeError:
        forget_reader()


def forget_reader() -> None:
    """What is written from here on goes nowhere, what Python still holds included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def keep(path: Path, text: str) -> None:
    """The file at `path`, whole or not at all; UsageError if it cannot be written.

    A link at its place is replaced and never followed: where it leads may be a stranger's choice.
    """
    beside = path.with_name(f".wanalyze-{os.getpid()}.partial")
    try:
        with beside.open("x", encoding="utf-8", newline="") as stream:
            stream.write(text)
        beside.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another file with -o") from error
    finally:
        with suppress(OSError):
            beside.unlink()
