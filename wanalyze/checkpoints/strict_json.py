"""JSON from strangers: no duplicate keys, only finite numbers, no surrogates, a size limit, one kind of error."""

from __future__ import annotations

import json
import math
from typing import NoReturn

from wanalyze.checkpoints.files import WeightFile
from wanalyze.errors import CheckpointError

_CONFIG_LIMIT = 16 * 2**20  # bytes; the largest shard indexes in the wild are about 10 MB


def parse_object(text: bytes, *, where: str) -> dict[str, object]:
    """The JSON object in `text`; `where` names it in errors.

    Python's own parser keeps the last of two equal keys, accepts NaN and makes infinity of 1e999: readers would
    disagree on such a file, so all three are refused.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates cannot be written anywhere
    except _BadJson as error:
        raise CheckpointError(f"{where}: {error}") from None
    except UnicodeError:
        raise CheckpointError(f"{where}: not valid UTF-8 text; download the file again") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{where}: not valid JSON ({reason}); download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds a JSON {type(value).__name__}, an object is needed")
    return value


def read_object(file: WeightFile) -> dict[str, object]:
    """The JSON object in a small file such as an index or a config."""
    if file.size > _CONFIG_LIMIT:
        raise CheckpointError(f"{file.where}: {file.size} bytes, more than the {_CONFIG_LIMIT} a JSON file may have")
    return parse_object(bytes(file.read(0, file.size)), where=file.where)


class _BadJson(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _BadJson(f"key {key[:80]!r} appears twice; readers disagree on which one counts")
        found[key] = value
    return found


def _finite(text: str) -> float:
    if not math.isfinite(found := float(text)):
        raise _BadJson(f"holds the number {text[:80]}, which is beyond all floats")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _BadJson(f"holds {name}, which is not JSON")
