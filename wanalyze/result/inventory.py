"""What `inspect` found in a checkpoint or an adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue

from wanalyze.result.records import Document, File, Number, Record, Status, Tool

INVENTORY_ID: Literal["wanalyze.inventory/1"] = "wanalyze.inventory/1"


class Entry(Record):
    """A tensor as it is stored."""

    name: str
    dtype: str
    shape: list[int]
    bytes: int


class Change(Record):
    """What an adapter does to one matrix; `unchanged` if that is nothing.

    `rank` is what its kind promises, null where it promises none; `shape` null where only the base knows it.
    `missing` gives the reason for every null among `metrics`, `reason` why a change was skipped or failed.
    """

    name: str
    layer: int | None
    kind: str
    shape: list[int] | None
    dtype: str
    bytes: int
    rank: int | None
    scale: float | None
    status: Status
    reason: str | None = None
    metrics: dict[str, Number | None]
    missing: dict[str, str]


class AdapterInventory(Record):
    """An adapter: how it was made, and what it does to which tensor of its base.

    `vectors` are biases and norms that it moves, `saved_whole` tensors that it puts in the place of the base's.
    """

    method: str
    parameters: int
    facts: dict[str, JsonValue]
    changes: list[Change]
    vectors: list[str]
    saved_whole: list[Entry]


class Inventory(Document):
    """A checkpoint or an adapter; `adapter` is null for a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_id: Literal["wanalyze.inventory/1"] = Field(default=INVENTORY_ID, alias="schema")
    tool: Tool
    ref: str
    revision: str | None = None
    files: list[File]
    notes: list[str]
    tensors: list[Entry]
    adapter: AdapterInventory | None = None
