"""Intruder dimensions: the definition, and what is counted from it.

A singular vector of W1 among the k with the largest singular values is an intruder if its largest |cosine|
with any singular vector of W0 is below ε (Shuttleworth et al., arXiv 2410.21228v3, definition 3.1). The cosine
comes as an enclosure (low, high), so a vector can also be undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Enclosure: TypeAlias = tuple[float, float]


def is_intruder(cosine: Enclosure, epsilon: float) -> bool | None:
    """True or False where the enclosure decides it, None where ε lies inside.

    >>> is_intruder((0.1, 0.2), 0.5), is_intruder((0.9, 1.0), 0.5), is_intruder((0.4, 0.6), 0.5)
    (True, False, None)
    """
    low, high = cosine
    if high < epsilon:
        return True
    return False if low >= epsilon else None


def count_intruders(cosines: Sequence[Enclosure], epsilon: float) -> int:
    """How many vectors certainly are intruders; undecided ones are not counted.

    >>> count_intruders([(0.1, 0.2), (0.9, 1.0), (0.4, 0.6)], 0.5)
    1
    """
    return sum(is_intruder(cosine, epsilon) is True for cosine in cosines)


def intruder_energy(cosines: Sequence[Enclosure], values: Sequence[float], epsilon: float) -> float:
    """Σσ² over the intruders / Σσ² over all, σ the singular value of each vector.

    >>> intruder_energy([(0.1, 0.1), (0.9, 0.9)], [2.0, 1.0], 0.5)
    0.8
    """
    pairs = zip(cosines, values, strict=True)
    held = sum(value**2 for cosine, value in pairs if is_intruder(cosine, epsilon) is True)
    return held / sum(value**2 for value in values)
