"""What a rule is: a row with a check, which says where an adapter breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from wanalyze.auditing.records import Severity
from wanalyze.metrics import Metric

if TYPE_CHECKING:
    from wanalyze.auditing.subject import Subject


class Need(Enum):
    """What a rule must have seen; `Subject.lacks` gives the reason why it was not."""

    weights = "the headers of the weights, and the config"
    adapter = "the adapter understood"
    numbers = "every tensor read and every update measured"
    base = "the base"
    comparison = "the merged matrices taken apart"
    bank = "a reference bank"


@dataclass(frozen=True)
class Hit:
    """A place where a rule is broken; `value` and `limit` where it is about a number."""

    message: str
    fix: str
    module: str | None = None
    file: str | None = None
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Rule:
    """A rule: its definition in one sentence, where its limit comes from, and what it does not say.

    `severity` and `limit` are those without a policy, severity None for a rule that a policy must switch on. A rule
    with a `server` says what that server does with what it finds; it is an error where the policy names the server.
    `implied_by` are rules whose findings, if they weigh as much, leave nothing for this one to say.
    """

    code: str
    severity: Severity | None
    title: str
    definition: str
    source: str
    check: Callable[[Subject], Iterable[Hit]]
    needs: tuple[Need, ...] = (Need.weights,)
    limit: float | None = None
    caveat: str = "Says what the files hold, not what the model does."
    server: str | None = None
    outcome: Literal["refuses", "differs"] = "refuses"
    implied_by: tuple[str, ...] = ()

    def explained(self) -> Metric:
        """The row that `wanalyze explain` shows."""
        default = self.severity.value if self.severity else "off"
        unit = f"{default} unless the policy says otherwise"
        limit = "" if self.limit is None else f" Limit: {self.limit:g}."
        return Metric(self.code, self.title, unit, self.definition + limit, self.source, self.caveat)
