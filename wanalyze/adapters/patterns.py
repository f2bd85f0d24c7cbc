"""PEFT's rank_pattern and alpha_pattern: regular expressions from a stranger, run only where they must end soon."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from wanalyze.errors import AdapterError

_LONGEST = 256  # characters of a pattern, and of a name it is held against
_QUANTIFIER = re.compile(r"(?<!\\)[*+?{]")
# What can take exponential time or reach beyond the name: a repeated group, `(?…)`, a back-reference.
_DANGEROUS = re.compile(r"\)[*+?{]|\(\?|\\[1-9]")
_MOST_QUANTIFIERS = 2  # with none of the above, a match takes at most length² steps
_MOST_STEPS = 2**24  # for one name, of all patterns together: some hundred that are not plain names
_MOST_PATTERNS = 2**16
_BARE = re.compile(r"[\w.-]+")  # matches what is as long as it

Value = TypeVar("Value")


def first_match(pattern: Mapping[str, Value], module: str, default: Value, *, field: str) -> Value:
    """The value of the first key in file order that matches the module's path, or its end after a dot.

    >>> first_match({"q_proj": 4, "^model.layers.0.k_proj": 2}, "model.layers.0.q_proj", 8, field="rank_pattern")
    4
    """
    if pattern and len(module) > _LONGEST:
        raise AdapterError(f"adapter_config.json: {field} is held against a name of {len(module)} characters; refused")
    if len(pattern) > _MOST_PATTERNS:
        raise AdapterError(
            f"adapter_config.json: {field} has {len(pattern)} patterns, more than {_MOST_PATTERNS}; refused"
        )
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", module))]
    lengths = {len(module) - start for start in starts}
    steps = 0
    for key, value in pattern.items():
        # Initialisations by data write a key for every module: most are told apart by their length alone.
        if len(key) not in lengths and _is_bare(key):
            continue
        compiled = _compiled(key, field)
        steps += len(starts) * len(module) ** _quantifiers(key)
        if steps > _MOST_STEPS:
            raise AdapterError(
                f"adapter_config.json: {field} has so many patterns with wildcards that looking names up would "
                f"take minutes ({module[:80]!r} and others); write module names"
            )
        if any(compiled.fullmatch(module, start) for start in starts):
            return value
    return default


def matches(pattern: str, module: str, *, field: str) -> bool:
    r"""Whether a pattern matches the whole of a module's path.

    >>> matches(r".*\.mlp\.w[02]", "layers.1.mlp.w2", field="feedforward_modules")
    True
    """
    if len(module) > _LONGEST:
        raise AdapterError(f"adapter_config.json: {field} is held against a name of {len(module)} characters; refused")
    return _compiled(pattern, field).fullmatch(module) is not None


@lru_cache(maxsize=_MOST_PATTERNS)
def _is_bare(key: str) -> bool:
    return _BARE.fullmatch(key) is not None


@lru_cache(maxsize=_MOST_PATTERNS)
def _quantifiers(key: str) -> int:
    return len(_QUANTIFIER.findall(key))


@lru_cache(maxsize=_MOST_PATTERNS)
def _compiled(key: str, field: str) -> re.Pattern[str]:
    if len(key) > _LONGEST or _DANGEROUS.search(key) or _quantifiers(key) > _MOST_QUANTIFIERS:
        raise AdapterError(
            f"adapter_config.json: {field} has the pattern {key[:80]!r}, which could run without end; "
            "write module names or a simpler pattern"
        )
    try:
        return re.compile(key)
    except re.error as error:
        raise AdapterError(f"adapter_config.json: {field} has the pattern {key[:80]!r}: {error}") from None
