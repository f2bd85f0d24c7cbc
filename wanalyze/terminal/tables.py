"""Columns, and lines that fit a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wanalyze.printable import printable

WIDTH = 80


def facts_table(facts: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line."""
    pairs = [(name, printable(str(value))) for name, value in facts]
    width = max(len(name) for name, _ in pairs)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in pairs)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]


def wrapped(line: str) -> list[str]:
    """Prose broken at spaces; a table row, which has runs of spaces, is left alone."""
    if len(line) <= WIDTH or "  " in line:
        return [line]
    lines, current = [], ""
    for word in line.split(" "):
        if current and len(current) + 1 + len(word) > WIDTH:
            lines.append(current)
            current = f"  {word}"
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current]
