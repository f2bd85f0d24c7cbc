"""How many intruder decisions an algorithm gets right, wrong, and does not make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON_TOLERANCE = 1e-7  # what the float64 oracle can be trusted to, where the vectors have an answer
ENCLOSURE_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Cosines:
    """What is claimed of max_j |cos| for each of k vectors of one side: low and high (k), and whether it is defined.

    An algorithm says `defined` False of what it reports as ambiguous.
    """

    low: Tensor
    high: Tensor
    defined: Tensor


@dataclass(frozen=True)
class Tally:
    """Decisions, one per vector and epsilon, and how many enclosures the truth lies outside of.

    `unfounded` are decisions where the weights do not define one: what another basis of a singular subspace would
    reverse. Leaving such a vector open, or calling it ambiguous, is `right`.
    """

    right: int = 0
    wrong: int = 0
    undecided: int = 0
    unfounded: int = 0
    violations: int = 0

    @property
    def total(self) -> int:
        """All decisions; violations are of enclosures, not of decisions."""
        return self.right + self.wrong + self.undecided + self.unfounded

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.right + other.right,
            self.wrong + other.wrong,
            self.undecided + other.undecided,
            self.unfounded + other.unfounded,
            self.violations + other.violations,
        )


def exactly(cosines: Tensor) -> Cosines:
    """The claim of an algorithm that knows no error bar."""
    return Cosines(cosines, cosines, torch.ones_like(cosines, dtype=torch.bool))


def decisions(ours: Cosines, truth: Cosines, epsilons: Iterable[float]) -> Tally:
    """Compare the claims for k vectors of one side with the oracle's."""
    ours, truth = _comparable(ours), _comparable(truth)
    # Written so that a NaN lies outside.
    inside = (truth.low <= ours.high + ENCLOSURE_TOLERANCE) & (truth.high >= ours.low - ENCLOSURE_TOLERANCE)
    tally = Tally(violations=int((~inside).sum()))
    return sum((_at(epsilon, ours, truth) for epsilon in epsilons), tally)


def _at(epsilon: float, ours: Cosines, truth: Cosines) -> Tally:
    yes = ours.defined & (ours.high < epsilon)
    no = ours.defined & (ours.low >= epsilon)
    abstained = ~(yes | no)
    # Within the tolerance of epsilon the truth may be either, and both are right.
    may_be_yes = truth.high < epsilon + EPSILON_TOLERANCE
    may_be_no = truth.low >= epsilon - EPSILON_TOLERANCE
    must_be_yes = truth.high < epsilon - EPSILON_TOLERANCE
    must_be_no = truth.low >= epsilon + EPSILON_TOLERANCE
    open_question = ~truth.defined & ~(must_be_yes | must_be_no)
    both_undefined = ~ours.defined & ~truth.defined

    wrong = (yes & must_be_no) | (no & must_be_yes)
    right = (yes & may_be_yes) | (no & may_be_no) | (abstained & open_question) | both_undefined
    undecided = abstained & ~right
    unfounded = ~(wrong | right | undecided)
    return Tally(*(int(kind.sum()) for kind in (right, wrong, undecided, unfounded)))


def _comparable(cosines: Cosines) -> Cosines:
    """In float64 and in one place: the sides may come from different devices."""
    low, high = (bound.to("cpu", torch.float64) for bound in (cosines.low, cosines.high))
    return Cosines(low, high, cosines.defined.cpu())
