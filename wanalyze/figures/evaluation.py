"""What else is known of the models: a CSV file `label,metric,value`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from wanalyze.errors import UsageError
from wanalyze.figures.series import Member, Series

_COLUMNS = ["label", "metric", "value"]
_MOST_BYTES = 10_000_000


@dataclass(frozen=True)
class Evaluation:
    """Values by metric and label; a label is a model's, or RUN/LABEL where several runs have one of that label."""

    source: str
    values: Mapping[str, Mapping[str, float]]

    def joined(self, series: list[Series], metric: str) -> list[tuple[Series, Member, float]]:
        """The models that have a value of `metric`; UsageError for a label that none or several of them bear."""
        members = [(one, member) for one in series for member in one.members]
        found = []
        for label, value in self.values[metric].items():
            named = [(one, member) for one, member in members if label in (member.label, member.address)]
            if len(named) != 1:
                raise UsageError(f"{self.source}: {_which(label, [member for _, member in members], len(named))}")
            found.append((*named[0], value))
        return found


def _which(label: str, members: list[Member], named: int) -> str:
    if named:
        return f"{named} runs have a model {label!r}; write RUN/LABEL, as in {members[0].address!r}"
    known = [member.label for member in members]
    near = get_close_matches(label, known, 1)
    return f"no model is labelled {label!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    )


def read_evaluation(path: Path) -> Evaluation:
    """The file as an Evaluation; UsageError, with the line, for what is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path}: is larger than {_MOST_BYTES // 1_000_000} MB, too large for a table of evaluations")
    values: dict[str, dict[str, float]] = {}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_header(path, next(rows, []))
        for row in rows:
            if row:
                _add(values, row, f"{path}, line {rows.line_num}")
    except csv.Error as error:
        raise UsageError(f"{path}, line {rows.line_num}: no CSV ({error})") from None
    if not values:
        raise UsageError(f"{path}: has no row below its header")
    return Evaluation(str(path), values)


def _check_header(path: Path, header: list[str]) -> None:
    if [name.strip() for name in header] != _COLUMNS:
        raise UsageError(f"{path}: its first line is {','.join(header)[:80]!r}, not {','.join(_COLUMNS)!r}")


def _add(values: dict[str, dict[str, float]], row: list[str], place: str) -> None:
    if len(row) != len(_COLUMNS):
        raise UsageError(f"{place}: has {len(row)} fields, not {len(_COLUMNS)}")
    label, metric, text = (field.strip() for field in row)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{place}: value {text[:40]!r} is no finite number")
    if label in values.setdefault(metric, {}):
        raise UsageError(f"{place}: {label!r} has a value of {metric!r} already")
    values[metric][label] = value
