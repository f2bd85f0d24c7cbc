"""How many heads of queries and of keys a base has, by its config.json: some tools order rows by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.checkpoints.gguf.rope import Unpermuted
from wanalyze.errors import AdapterError


class Heads(NamedTuple):
    """Heads of queries, and of keys and values."""

    queries: int
    keys: int


def heads_of(base: Checkpoint, *, where: str, why: str) -> Heads:
    """What config.json says; AdapterError, with the reason why it is needed, where it does not."""
    fields = fields_of_language(base.config)
    queries = fields.get("num_attention_heads")
    keys = fields.get("num_key_value_heads", queries)
    if type(queries) is int and type(keys) is int and 0 < keys <= queries < 2**20:
        return Heads(queries, keys)
    raise AdapterError(
        f"{where}: {why}, and {base.name} has no config.json that says num_attention_heads; put it beside the weights"
    )


def fields_of_language(config: Mapping[str, object]) -> Mapping[str, object]:
    """A config's fields, or those that it has for its language model."""
    language = config.get("text_config")
    return language if isinstance(language, Mapping) else config


def in_halves(entry: TensorEntry, heads: int, *, where: str) -> TensorEntry:
    """Rows of queries or keys that lie in pairs, as Meta and llama.cpp have them, in Hugging Face's order."""
    if not entry.shape or entry.shape[0] % (2 * heads):
        raise AdapterError(
            f"{where}: tensor {entry.name[:80]!r} of shape {entry.shape} does not split into {heads} heads of pairs of "
            "rows; is this its base?"
        )
    return TensorEntry(entry.name, Unpermuted(entry.content, heads))
