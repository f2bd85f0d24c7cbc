"""A reference bank: the statistics of adapters that somebody trusts, by kind of module, and where each came from.

It is a small JSON file that may itself come from a stranger: read strictly, with limits. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from wanalyze.checkpoints.strict_json import parse_object
from wanalyze.errors import CheckpointError, UsageError
from wanalyze.metrics import ALONE, STATISTICS
from wanalyze.result import Change, File, Status, Tool
from wanalyze.result.records import Document, Record

if TYPE_CHECKING:
    from wanalyze.adapters import Adapter

BANK_ID: Literal["wanalyze.bank/1"] = "wanalyze.bank/1"
BANKED = (*ALONE, *(key for key in STATISTICS if key != "kurtosis_error"))
_MOST = 64 * 2**20  # bytes of a bank: some 3000 adapters of a 7B model


def _ascending(values: list[float]) -> list[float]:
    if values != sorted(values):
        raise ValueError("the values are not in ascending order")
    return values


_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Values = Annotated[list[_Finite], Field(min_length=1), AfterValidator(_ascending)]


class Recipe(Record):
    """What makes adapters comparable: the base they name, how they were made, their ranks, and what they change."""

    base: str | None
    method: str
    ranks: list[int]
    kinds: list[str]


class BankAdapter(Record):
    """One trusted adapter: `statistics` are its values by kind of module, ascending, one for each module."""

    ref: str
    revision: str | None = None
    files: Annotated[list[File], Field(min_length=1)]
    recipe: Recipe
    statistics: dict[str, dict[str, Values]]

    @property
    def hashes(self) -> frozenset[str]:
        return frozenset(file.sha256 for file in self.files if file.sha256 is not None)


class Bank(Document):
    """Trusted adapters, each once."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_id: Literal["wanalyze.bank/1"] = Field(alias="schema")
    tool: Tool
    adapters: Annotated[list[BankAdapter], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Bank:
        seen: set[str] = set()
        for adapter in self.adapters:
            if adapter.hashes & seen:
                raise ValueError(f"{adapter.ref[:80]} is in the bank twice: the same file would count as two adapters")
            if not adapter.hashes:
                raise ValueError(f"{adapter.ref[:80]} has no hash: what it was cannot be told")
            seen |= adapter.hashes
        return self


def recipe_of(adapter: Adapter, changes: Iterable[Change]) -> Recipe:
    """What an adapter and its updates say of how it was made."""
    from wanalyze.adapters.mixture import base_named

    found = [*changes]
    return Recipe(
        base=base_named(adapter),
        method=adapter.method,
        ranks=sorted({change.rank for change in found if change.rank is not None}),
        kinds=sorted({change.kind for change in found}),
    )


def statistics_of(changes: Iterable[Change]) -> dict[str, dict[str, list[float]]]:
    """The values of each statistic by kind of module, ascending; what could not be measured is left out."""
    found: dict[str, dict[str, list[float]]] = {}
    for change in changes:
        if change.status is Status.measured:
            for key in BANKED:
                if (value := change.metrics.get(key)) is not None:
                    found.setdefault(change.kind, {}).setdefault(key, []).append(float(value))
    return {kind: {key: sorted(values) for key, values in by_key.items()} for kind, by_key in found.items()}


def make_bank(adapters: Sequence[BankAdapter], tool: Tool) -> Bank:
    """A bank of them; UsageError if two are the same file."""
    try:
        return Bank(schema=BANK_ID, tool=tool, adapters=sorted(adapters, key=lambda adapter: adapter.ref))
    except ValidationError as error:
        raise UsageError(f"no bank can be made: {_said(error)}; name each adapter once") from None


def read_bank(path: Path) -> Bank:
    """A bank from its file; UsageError that says what is wrong with it."""
    try:
        if path.stat().st_size > _MOST:
            raise UsageError(f"{path}: {path.stat().st_size} bytes, more than the {_MOST} a bank may have")
        given = parse_object(path.read_bytes(), where=str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); `wanalyze bank build` makes a bank") from error
    except CheckpointError as error:
        raise UsageError(str(error)) from None
    if given.get("schema") != BANK_ID:
        raise UsageError(
            f"{path}: its schema is {str(given.get('schema'))[:60]!r}, {BANK_ID!r} is needed; "
            "make it again with `wanalyze bank build`"
        )
    try:
        return Bank.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"{path}: is no bank: {_said(error)}; make it again with `wanalyze bank build`") from None


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part)[:60] for part in first["loc"])
    told = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {told}" if where else told
