"""Text from strangers, made safe to print."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    r"""`text` with everything a terminal might obey written out.

    >>> printable("q\x1b[31m")
    'q\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        char if unicodedata.category(char)[0] != "C" else char.encode("unicode_escape").decode() for char in text
    )
