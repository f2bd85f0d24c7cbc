"""Text from strangers, made safe to print."""

from __future__ import annotations

import unicodedata

# Control, format (direction), surrogates, unassigned; and separators of lines.
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""`text` with everything a terminal might obey written out.

    >>> printable("q\x1b[31m")
    'q\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _OBEYED else char for char in text
    )


def elided(text: str, most: int = 96) -> str:
    """`text` printable in at most `most` characters, cut in the middle: both ends of a module's name tell more.

    >>> elided("model.layers.17.mlp.down_proj", 20), len(elided("x" * 10_000))
    ('model.lay….down_proj', 96)
    """
    safe = printable(text if len(text) <= 2 * most else text[:most] + text[-most:])
    if len(safe) <= most:
        return safe
    tail = most // 2
    return f"{safe[: most - tail - 1]}…{safe[len(safe) - tail :]}"
