"""Where the modules of a series lie: by kind and layer."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from wanalyze.errors import FigureError, UsageError
from wanalyze.figures.series import Member, Series, Spread, spread
from wanalyze.naming import kind_order

if TYPE_CHECKING:
    from wanalyze.result import Module


def names_of(series: Sequence[Series]) -> list[str]:
    """Every matrix of the runs, by kind and within a kind by layer."""
    found = {module.name: module for one in series for member in one.members for module in member.modules.values()}
    return [module.name for module in sorted(found.values(), key=_by_kind)]


def by_place(series: Sequence[Series]) -> dict[tuple[str, int | None], list[str]]:
    """The matrices at each (kind, layer): one, or the experts of a layer; kinds in the order of a layer."""
    held: dict[tuple[str, int | None], dict[str, None]] = {}
    for module in (module for one in series for member in one.members for module in member.modules.values()):
        held.setdefault((module.kind, module.layer), {})[module.name] = None
    order = sorted(held, key=lambda place: (kind_order(place[0]), -1 if place[1] is None else place[1]))
    return {place: list(held[place]) for place in order}


def _by_kind(module: Module) -> tuple[tuple[int, str], int, str]:
    return (kind_order(module.kind), -1 if module.layer is None else module.layer, module.name)


def measured(member: Member, name: str, key: str) -> float | None:
    """A metric of a changed matrix; None where the matrix is unchanged, missing, or the number was not had."""
    module = member.modules.get(name)
    return module.metric(key) if module is not None and module.status.value == "measured" else None


def over_runs(one: Series, names: Sequence[str], key: str) -> Spread | None:
    """The median of a metric over the matrices that have it, and its spread over the runs that have one."""
    held = [[value for name in names if (value := measured(member, name, key)) is not None] for member in one.members]
    medians = [median(values) for values in held if values]
    return spread(medians) if medians else None


class Pair(NamedTuple):
    """Two metrics of one matrix, each the mean over `n` runs."""

    module: str
    kind: str
    n: int
    x: float
    y: float


def pairs_of(one: Series, x_key: str, y_key: str) -> list[Pair]:
    """Two metrics of every changed matrix that has both."""
    kinds = {module.name: module.kind for member in one.members for module in member.modules.values()}
    found = []
    for name in names_of([one]):
        x = over_runs(one, [name], x_key)
        y = over_runs(one, [name], y_key)
        if x and y:
            found.append(Pair(name, kinds[name], y.n, x.mean, y.mean))
    return found


def chosen_module(series: Sequence[Series], wanted: str | None, array: str) -> str:
    """The module to show: the one asked for, else the one with the most intruders, of those that have the array."""
    members = [member for one in series for member in one.members]
    able = [name for name in names_of(series) if any(member.array(name, array) is not None for member in members)]
    if not able:
        raise FigureError(f"the runs hold no array {array!r}; compare the models again to have it")
    if wanted is None:
        return min(able, key=lambda name: (*_least_changed(members, name), name))
    if wanted not in able:
        near = get_close_matches(wanted, able, 1, cutoff=0.3)
        raise UsageError(
            f"no module {wanted!r} has {array!r} in these runs; did you mean {near[0] if near else able[0]!r}?"
        )
    return wanted


def _least_changed(members: Sequence[Member], name: str) -> tuple[float, float]:
    """A sort key that puts first what has the most intruders, then what moved furthest."""
    intruders = [measured(member, name, f"intruders_{side}") or 0 for member in members for side in ("left", "right")]
    moved = [measured(member, name, "relative_norm") or 0.0 for member in members]
    return -sum(intruders), -sum(moved)


def where(series: Sequence[Series], name: str) -> str:
    """A module as an axis calls it."""
    members = (member for one in series for member in one.members)
    module = next(member.modules[name] for member in members if name in member.modules)
    return module.kind if module.layer is None else f"layer {module.layer} {module.kind}"
