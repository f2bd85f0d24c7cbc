"""How a metric runs along the layers, a character a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from wanalyze import numerals
from wanalyze.printable import elided
from wanalyze.result import Module, Result
from wanalyze.terminal.tables import WIDTH

BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = "·"  # nothing was measured there
_MOST = 8  # characters: more layers than that share one
_FEW = 8  # lines that are drawn


def sparkline(values: Sequence[float | None], top: float) -> str:
    """Blocks from 0 to `top`; a dot where there is no value.

    >>> sparkline([0.0, 0.5, None, 1.0], 1.0)
    '▁▅·█'
    """
    last = len(BLOCKS) - 1
    return "".join(
        _GAP if value is None else BLOCKS[min(int(len(BLOCKS) * value / top), last) if top else 0] for value in values
    )


def along_depth(result: Result, key: str, title: str) -> list[str]:
    """A line of sparklines of a metric by layer: of one model for each kind, of several for each model; one scale."""
    one = len(result.models) == 1
    rows: dict[str, list[Module]] = {}
    for module in result.modules:
        rows.setdefault(module.kind if one else module.model, []).append(module)
    runs = {name: _by_layer(modules, key) for name, modules in rows.items()}
    runs = {name: run for name, run in runs.items() if len(run) > 1}
    known = [value for run in runs.values() for value in run.values() if value is not None]
    if not known:
        return []
    top = max(known)
    drawn = [f"{elided(name, 16)} {sparkline(_binned(run), top)}" for name, run in runs.items()]
    more = [f"and {len(drawn) - _FEW} more"] if len(drawn) > _FEW else []
    return [f"{title} by layer (█ = {numerals.number(top)}):", *_filled([*drawn[:_FEW], *more])]


def _by_layer(modules: Iterable[Module], key: str) -> dict[int, float | None]:
    """The median over the modules of each layer, None where none was measured."""
    layers: dict[int, list[float]] = {}
    for module in modules:
        if module.layer is not None:
            value = module.metric(key)
            layers.setdefault(module.layer, []).extend([] if value is None else [value])
    return {layer: median(values) if values else None for layer, values in sorted(layers.items())}


def _binned(run: Mapping[int, float | None]) -> list[float | None]:
    values = [*run.values()]
    count = min(len(values), _MOST)
    bins = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    known = [[value for value in part if value is not None] for part in bins]
    return [median(part) if part else None for part in known]


def _filled(parts: Iterable[str]) -> list[str]:
    """As many a line as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= WIDTH:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"  {part}")
    return lines
