"""`wanalyze inspect REF`."""

from __future__ import annotations

import json
from typing import Any

import click

from wanalyze.cli import options
from wanalyze.errors import ExitCode


@click.command()
@click.argument("reference", metavar="REF")
@options.format_option("table", "json")
@options.offline
@options.verbose
def inspect(reference: str, format_: str, offline: bool, verbose: bool) -> int:  # noqa: ARG001 - read by main
    """Say what is in a checkpoint or adapter, from its headers alone."""
    from wanalyze.checkpoints import AdapterFiles, open_source, parse_reference

    source = open_source(parse_reference(reference).location, offline=offline)
    weights = source.weights if isinstance(source, AdapterFiles) else source
    facts: dict[str, Any] = {
        "files": {file.name: file.size for file in weights.files},
        "tensors": len(weights.entries),
        "bytes": sum(file.size for file in weights.files),
    }
    if weights.revision is not None:
        facts["revision"] = weights.revision
    if isinstance(source, AdapterFiles):
        from wanalyze.adapters import parse_adapter

        adapter = parse_adapter(source)
        facts |= {"method": adapter.method, "parameters": adapter.trained_parameters, **adapter.facts}
    tensors = [(entry.name, entry.dtype.name, list(entry.shape)) for entry in weights.entries.values()]
    click.echo(_json(facts, tensors) if format_ == "json" else _table(facts, tensors), nl=False)
    return ExitCode.done


def _json(facts: dict[str, Any], tensors: list[tuple[str, str, list[int]]]) -> str:
    listed = [dict(zip(("name", "dtype", "shape"), tensor, strict=True)) for tensor in tensors]
    return json.dumps({**facts, "entries": listed}, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _table(facts: dict[str, Any], tensors: list[tuple[str, str, list[int]]]) -> str:
    from wanalyze import terminal

    rows = [(name, dtype, " × ".join(map(str, shape)) or "scalar") for name, dtype, shape in tensors]
    lines = [(key.replace("_", " "), _plain(value)) for key, value in facts.items()]
    return terminal.facts_table(lines) + "\n" + terminal.tensors_table(rows)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{key} ({item:,})" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else "not said" if value is None else value
