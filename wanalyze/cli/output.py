"""What goes to stdout: text for people in whatever encoding they read, data always in UTF-8."""

from __future__ import annotations

import sys

import click

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
    click.echo(readable(text, encoding), nl=False)


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
    click.echo(text.encode("utf-8"), nl=False)
