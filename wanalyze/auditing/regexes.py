"""Regular expressions of strangers, judged without running them."""

from __future__ import annotations

import re

_LONGEST = 2048  # characters; module names need fewer
_MOST_REPEATS = 5  # of one alternative: each multiplies the steps by the length of the name
_REPEAT = re.compile(r"[*+]|\{\d*,\d*\}")
_BACKWARD = re.compile(r"\\[1-9]")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[*+]|\{\d*(?:,\d*)?\}|\(|\)|\||.", re.DOTALL)


def may_hang(pattern: str) -> str | None:
    r"""Why matching a pattern may take a time that grows without reasonable bound; None if it does not.

    A group that is repeated and holds a repeat or a choice of its own is enough for exponential time.

    >>> may_hang(r".*\.layers\.(?:1|2)\.(q|v)_proj")
    >>> may_hang("(a+)+$")
    'it repeats a group that repeats or chooses by itself'
    """
    if len(pattern) > _LONGEST:
        return f"it has {len(pattern)} characters, more than {_LONGEST}"
    tokens = _TOKEN.findall(pattern)
    if any(_BACKWARD.fullmatch(token) for token in tokens) or "(?P=" in pattern:
        return "it refers back to what it matched"
    if _nests(tokens):
        return "it repeats a group that repeats or chooses by itself"
    repeats = max(map(_repeats, _alternatives(tokens)))
    return f"it has {repeats} unbounded repeats, more than {_MOST_REPEATS}" if repeats > _MOST_REPEATS else None


def _alternatives(tokens: list[str]) -> list[list[str]]:
    """The tokens between the choices of the outermost level: no match goes through two of them."""
    found: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "|" and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return found


def _repeats(tokens: list[str]) -> int:
    return sum(_REPEAT.fullmatch(token) is not None for token in tokens)


def _nests(tokens: list[str]) -> bool:
    """Whether a repeat follows a group that holds a repeat or a choice."""
    groups = [False]  # of each open group, whether it varies inside
    closed = False  # whether the token before closed a group that varies
    for token in tokens:
        is_repeat = _REPEAT.fullmatch(token) is not None
        if is_repeat and closed:
            return True
        groups[-1] |= is_repeat or token == "|"
        if token == "(":
            groups.append(False)
        closed = token == ")" and len(groups) > 1 and groups.pop()
        groups[-1] |= closed
    return False
