"""Sorting tensors by what their names end in, for tools whose names are the model's own."""

from __future__ import annotations

from collections.abc import Mapping

from wanalyze.checkpoints import AdapterFiles, TensorEntry
from wanalyze.errors import AdapterError


def by_endings(
    files: AdapterFiles, endings: Mapping[str, str]
) -> tuple[dict[str, dict[str, TensorEntry]], dict[str, TensorEntry]]:
    """The parts of every module, sorted, by the part that an ending stands for; and all other tensors."""
    modules: dict[str, dict[str, TensorEntry]] = {}
    rest: dict[str, TensorEntry] = {}
    for name, entry in sorted(files.weights.entries.items()):
        if 0 in entry.shape:
            raise AdapterError(f"{files.name}: tensor {name[:80]!r} is empty; save the adapter again")
        ending = next((ending for ending in endings if name.endswith(ending) and len(name) > len(ending)), None)
        if ending is None:
            rest[name] = entry
        else:
            modules.setdefault(name.removesuffix(ending), {})[endings[ending]] = entry
    return modules, rest


def refuse_rest(rest: Mapping[str, TensorEntry], *, tool: str, where: str) -> None:
    """Refuse tensors that are no part of an update, for tools that save nothing else."""
    if rest:
        raise AdapterError(
            f"{where}: tensor {next(iter(rest))[:80]!r} is no part of an update of {tool} that is known, so what "
            "it does would be left out"
        )
