"""Which of the values in a file are the weights: trainers lay them beside optimizers, counters and settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TypeVar

from wanalyze.checkpoints.pickles.opcodes import Refused

# Under which key the weights lie; those listed first are taken before the others.
_KEYS = (
    *("state_dict", "model_state_dict", "model", "module", "app", "net", "network", "weights", "params"),
    *("params_ema", "ema", "ema_state_dict", "state_dict_ema", "model_ema"),
)
_DEEPEST = 3  # dicts in one another
_PLAIN = (type(None), bool, int, float, str)
_MOST_NAMED = 4

T = TypeVar("T")


def find(value: object, kind: type[T]) -> tuple[dict[str, T], tuple[str, ...]]:
    """The tensors, values of type `kind`, of the state dict in a file's value, and what to tell of the choice.

    It is the value itself or lies in it, under a key that trainers use or the only one that holds tensors. Refused
    where there is none, or where a name is no text.
    """
    search = _Search(kind)
    path: list[str] = []
    beside: list[object] = []
    while (key := search.key(value, _DEEPEST - len(path))) is not None:
        assert isinstance(value, dict)
        beside += (name for name, item in value.items() if name != key and not isinstance(item, _PLAIN))
        value = value[key]
        path.append(key)
    if not isinstance(value, dict):
        raise Refused(f"it holds a {_kind(value, kind)}, a state dict is needed: tensors by their names")
    if any(not isinstance(name, str) for name in value):
        raise Refused("its state dict has a name that is no text; save it with safetensors")
    found = {name: item for name, item in value.items() if isinstance(item, kind)}
    if not found:
        raise Refused(f"it holds no tensors{_inside(value)}; save `model.state_dict()`")
    left_out = [name for name, item in value.items() if not isinstance(item, (kind, *_PLAIN))]
    return found, (*_taken(path, beside), *_left_out(left_out))


class _Search:
    """Looks into every dict once: a small file can hold one dict under a million keys of another, or in itself."""

    def __init__(self, kind: type[object]) -> None:
        self._kind = kind
        self._known: dict[int, bool] = {}
        self._keys: dict[tuple[int, int], str | None] = {}

    def key(self, value: object, depth: int) -> str | None:
        """The key under which the weights lie; None if they are the value's own tensors, or there are none."""
        if not isinstance(value, dict) or depth == 0:
            return None
        at = id(value), depth
        if at not in self._keys:
            self._keys[at] = self._key(value, depth)
        return self._keys[at]

    def _key(self, value: Mapping[object, object], depth: int) -> str | None:
        for key in _KEYS:
            inner = value.get(key)
            if self._has_tensors(inner) or self.key(inner, depth - 1) is not None:
                return key
        if self._has_tensors(value):
            return None
        inside = [key for key, item in value.items() if isinstance(key, str) and self._has_tensors(item)]
        return inside[0] if len(inside) == 1 else None

    def _has_tensors(self, value: object) -> bool:
        if not isinstance(value, dict):
            return False
        if id(value) not in self._known:
            self._known[id(value)] = any(isinstance(item, self._kind) for item in value.values())
        return self._known[id(value)]


def _kind(value: object, kind: type[object]) -> str:
    return "single tensor" if isinstance(value, kind) else type(value).__name__


def _inside(value: Mapping[object, object]) -> str:
    names = [name for name, item in value.items() if isinstance(item, dict)]
    return f" itself, but dicts {_listed(names)}" if names else ""


def _taken(path: list[str], beside: list[object]) -> list[str]:
    if not path:
        return []
    was = "was" if len(beside) == 1 else "were"
    rest = f"; {_listed(beside)} beside it {was} not read" if beside else ""
    return [f"weights taken from {'.'.join(path)[:80]!r}{rest}"]


def _left_out(names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"{_listed(names)} {'is no tensor and was' if len(names) == 1 else 'are no tensors and were'} left out"]


def _listed(names: Iterable[object]) -> str:
    """Some of the names; a key that is no text is one of the plain values that a pickle may have for keys."""
    shown = [repr(name)[:80] for name in islice(names, _MOST_NAMED + 1)]
    return f"{', '.join(shown[:_MOST_NAMED])}{', …' if len(shown) > _MOST_NAMED else ''}"
