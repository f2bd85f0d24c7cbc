"""A weighted sum of adapters as the user writes it: `0.7*path1+0.3*path2`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanalyze.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from wanalyze.checkpoints.location import HubLocation

MOST_TERMS = 32
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf|infinity"
_WEIGHT = re.compile(rf"(?P<sign>^[+-]?|\+ *-|[+-]) *(?P<number>{_NUMBER}) *\*", re.IGNORECASE)


@dataclass(frozen=True)
class Term:
    """An adapter and how often its update counts."""

    weight: float
    location: Path | HubLocation


@dataclass(frozen=True)
class Mix:
    """A weighted sum of adapters; `str()` is how it is written."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return written((term.weight, str(term.location)) for term in self.terms)


def terms_of(text: str) -> list[tuple[float, str]]:
    """The terms of a weighted sum, each a weight and a reference; none where no part of the text has a weight.

    A term is `weight*reference` and begins at the sign of its weight, a decimal number. The first may go without a
    weight: it counts once. Any other + or - is part of a reference.

    >>> terms_of("0.7*runs/lora+rs + 3e-1*hf:org/b@main")
    [(0.7, 'runs/lora+rs'), (0.3, 'hf:org/b@main')]
    >>> terms_of("runs/a-0.5*runs/b"), terms_of("runs/a+b")
    ([(1.0, 'runs/a'), (-0.5, 'runs/b')], [])
    """
    found = list(_WEIGHT.finditer(text))
    if not found:
        return []
    stops = [*(match.start() for match in found[1:]), len(text)]
    terms = [(_weight(match), text[match.end() : stop].strip()) for match, stop in zip(found, stops, strict=True)]
    if head := text[: found[0].start()].strip():
        terms.insert(0, (1.0, head))
    _check(terms, text)
    return terms


def written(terms: Iterable[tuple[float, str]]) -> str:
    """The text that `terms_of` reads as these.

    >>> written([(0.7, "a"), (-2.0, "b")])
    '0.7*a-2*b'
    """
    return "".join(f"{'' if weight < 0 else '+'}{decimal(weight)}*{name}" for weight, name in terms).removeprefix("+")


def decimal(weight: float) -> str:
    """A weight in as few digits as say it exactly.

    >>> decimal(1.0), decimal(-0.5)
    ('1', '-0.5')
    """
    return repr(weight).removesuffix(".0")


def _weight(match: re.Match[str]) -> float:
    weight = float(match["number"])
    if not math.isfinite(weight):
        raise UsageError(f"{match['number'][:40]!r} is no weight; a finite number is needed before the *")
    return -weight if match["sign"].endswith("-") else weight


def _check(terms: list[tuple[float, str]], text: str) -> None:
    if len(terms) > MOST_TERMS:
        raise UsageError(f"{text[:80]!r}... has {len(terms)} terms; {MOST_TERMS} can be summed")
    for _, name in terms:
        if not name or name.startswith("*"):
            missing = "a weight is missing before a *" if name else "an adapter is missing behind a weight"
            raise UsageError(f"{text[:200]!r}: {missing}; write 0.7*PATH+0.3*PATH")
