"""The numbers that the page's script sorts, filters and draws, as JSON that HTML cannot end."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from wanalyze.printable import elided
from wanalyze.report.sheet import COLUMNS, Sheet

Key = TypeVar("Key", bound=Hashable)


def numbers(sheet: Sheet, keys: Sequence[str], kinds: Sequence[str]) -> dict[str, object]:
    """The columns of `keys`; `kinds` come first among the kinds, as in the maps."""
    models, names = range(len(sheet.models)), range(len(sheet.names))
    places = [(model, name) for model in models for name in names]
    known, kind = _numbered([place.kind for place in sheet.places], kinds)
    return {
        "models": sheet.models,
        "names": sheet.names,
        "kind": ([elided(kind) for kind in known], kind),
        "layer": [place.layer for place in sheet.places],
        "shape": _numbered([tuple(place.shape) for place in sheet.places]),
        "dtype": _numbered([place.dtype for place in sheet.places]),
        "state": _numbered([sheet.rows[place].says if place in sheet.rows else None for place in places]),
        "keys": list(COLUMNS),
        "whole": [int(whole(sheet, key)) for key in COLUMNS],
        "others": [key for key in COLUMNS if key not in keys],
        "columns": {key: [sheet.short(place, key) for place in places] for key in keys},
    }


def inert(value: Mapping[str, object]) -> str:
    """JSON in which no `<`, `>` or `&` is left to be read as HTML."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def whole(sheet: Sheet, key: str) -> bool:
    """Whether a column holds whole numbers only, which are shown without decimals."""
    return all(isinstance(value, int) for value in sheet.values(key))


def _numbered(values: Sequence[Key], first: Sequence[Key] = ()) -> tuple[list[Key], list[int]]:
    """The different values, and the place of each among them.

    >>> _numbered(["q", "k", "q"], first=["k"])
    (['k', 'q'], [1, 0, 1])
    """
    places = {value: place for place, value in enumerate(dict.fromkeys([*first, *values]))}
    return list(places), [places[value] for value in values]
