"""`table`: medians and quartiles by kind, as LaTeX for booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, quantiles
from typing import NamedTuple

from wanalyze.errors import FigureError
from wanalyze.figures.figure import LatexTable, Wanted
from wanalyze.figures.labels import latex
from wanalyze.figures.places import measured
from wanalyze.figures.series import Series, same_settings
from wanalyze.naming import kind_order
from wanalyze.numerals import number
from wanalyze.printable import elided

_METRICS = ("relative_norm", "effective_rank", "stable_rank")
_NONE = "--"  # not measured
_HEADINGS = (
    r"$\Vert\Delta W\Vert_F/\Vert W_0\Vert_F$",
    "effective rank",
    "stable rank",
)


class Line(NamedTuple):
    """One kind of one model: median and quartiles over its changed matrices in all `n` runs; intruders are sums over
    the matrices, mean over the runs that counted some.
    """

    model: str
    kind: str
    n: int
    matrices: int
    relative_norm_q1: float | None
    relative_norm: float | None
    relative_norm_q3: float | None
    effective_rank_q1: float | None
    effective_rank: float | None
    effective_rank_q3: float | None
    stable_rank_q1: float | None
    stable_rank: float | None
    stable_rank_q3: float | None
    intruders_left: float | None
    intruders_right: float | None


def _numbers(series: Sequence[Series], wanted: Wanted) -> list[Line]:  # noqa: ARG001 - as every figure
    same_settings(series)
    rows = [_line(one, kind, names) for one in series for kind, names in _changed(one).items()]
    if not rows:
        raise FigureError("no matrix of the runs was changed and measured")
    return rows


def _changed(one: Series) -> dict[str, list[str]]:
    """The names of the matrices that some member changed, by kind."""
    found: dict[str, dict[str, None]] = {}
    for module in (module for member in one.members for module in member.modules.values()):
        if module.status.value == "measured":
            found.setdefault(module.kind, {})[module.name] = None
    return {kind: list(found[kind]) for kind in sorted(found, key=kind_order)}


def _line(one: Series, kind: str, names: Sequence[str]) -> Line:
    def values(key: str) -> list[float]:
        found = (measured(member, name, key) for member in one.members for name in names)
        return [value for value in found if value is not None]

    norm, effective, stable = (_quartiles(values(key)) for key in _METRICS)
    left, right = (_intruders(one, names, side) for side in ("left", "right"))
    return Line(one.label, kind, len(one.members), len(names), *norm, *effective, *stable, left, right)


def _intruders(one: Series, names: Sequence[str], side: str) -> float | None:
    held = [[measured(member, name, f"intruders_{side}") for name in names] for member in one.members]
    known = [[count for count in counts if count is not None] for counts in held]
    return mean(sums) if (sums := [sum(counts) for counts in known if counts]) else None


def _quartiles(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """First quartile, median, third (linear between the order statistics).

    >>> _quartiles([1.0, 2.0, 3.0, 5.0])
    (1.75, 2.5, 3.5)
    """
    if len(values) < 2:
        return (values[0],) * 3 if values else (None, None, None)
    first, middle, third = quantiles(values, n=4, method="inclusive")
    return first, middle, third


def _latex(rows: Sequence[Line], series: Sequence[Series]) -> str:
    top_k, epsilon = same_settings(series)
    headings = " & ".join(("", "$n$", *_HEADINGS, "out", "in"))
    blocks = [r"\addlinespace" + "\n" if index else "" for index in range(len(series))]
    body = "".join(
        blocks[index] + _block(one, [row for row in rows if row.model == one.label]) for index, one in enumerate(series)
    )
    return (
        "% Needs \\usepackage{booktabs}. Medians over the n matrices of a kind, quartiles below and above;\n"
        f"% out, in: intruders on the output and input side, summed; top k = {top_k}, epsilon = {epsilon:g}.\n"
        "\\begin{tabular}{lrlllrr}\n\\toprule\n"
        f"{headings} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def _block(one: Series, rows: Sequence[Line]) -> str:
    runs = f" ({len(one.members)} runs)" if len(one.members) > 1 else ""
    estimate = " (estimate)" if one.estimated else ""
    lines = [rf"\multicolumn{{7}}{{l}}{{{latex(elided(one.label, 60))}{runs}{estimate}}} \\"]
    lines += [
        rf"\quad {latex(elided(row.kind, 30))} & {row.matrices} & "
        + " & ".join(
            (
                _cell(row.relative_norm_q1, row.relative_norm, row.relative_norm_q3),
                _cell(row.effective_rank_q1, row.effective_rank, row.effective_rank_q3),
                _cell(row.stable_rank_q1, row.stable_rank, row.stable_rank_q3),
            )
        )
        + rf" & {_count(row.intruders_left)} & {_count(row.intruders_right)} \\"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _count(mean: float | None) -> str:
    return _NONE if mean is None else f"{mean:g}"


def _cell(first: float | None, middle: float | None, third: float | None) -> str:
    if middle is None:
        return _NONE
    return f"${number(middle)}_{{{number(first)}}}^{{{number(third)}}}$".replace(",", "{,}")


table = LatexTable("table", "medians and quartiles by kind, LaTeX for booktabs", _numbers, _latex)
