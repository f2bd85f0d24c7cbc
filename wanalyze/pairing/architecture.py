"""What config.json says of how a model's weights are laid out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

# Where the configs of composed models keep what concerns their language model.
_LANGUAGE = ("text_config", "llm_config", "language_config", "thinker_config")
_MODEL_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST = 2**31
_MOST_TYPES = 16  # a model that sees and hears is composed of three

_QUERIES = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEYS = ("num_key_value_heads", "num_kv_heads", "attn_config.kv_n_heads")
_DIMENSION = ("head_dim", "kv_channels")
_WIDTH = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class Heads:
    """Of attention: heads of queries, heads of keys and of values, and the rows of one head."""

    queries: int
    keys: int
    dimension: int


@dataclass(frozen=True)
class Architecture:
    """`types` are the model types of a config and of what it is composed of; `fields` those of its language model.

    A config comes from whoever made the checkpoint: every field may be missing or nonsense, which reads as None.
    """

    types: frozenset[str]
    fields: Mapping[str, object]

    @property
    def said(self) -> str:
        """The model type, for a sentence."""
        kind = self.fields.get("model_type")
        return f"model_type {kind!r}"[:80] if isinstance(kind, str) else "no model_type"

    @property
    def is_tied(self) -> bool | None:
        """Whether the output head is the embedding; None where the config does not say."""
        return self.flag("tie_word_embeddings")

    def flag(self, name: str) -> bool | None:
        value = self._value(name)
        return value if isinstance(value, bool) else None

    def count(self, *names: str) -> int | None:
        """The first of these fields that is there, if it is a count."""
        value = next((found for name in names if (found := self._value(name)) is not None), None)
        return value if type(value) is int and 0 < value < _MOST else None

    def heads(self) -> Heads | None:
        queries = self.count(*_QUERIES)
        if queries is None:
            return None
        keys = self.count(*_KEYS) if any(self._value(name) is not None for name in _KEYS) else queries
        dimension, width = self.count(*_DIMENSION), self.count(*_WIDTH)
        if dimension is None and width is not None and width % queries == 0:
            dimension = width // queries
        return None if keys is None or dimension is None else Heads(queries, keys, dimension)

    def _value(self, name: str) -> object:
        first, _, rest = name.partition(".")
        value = self.fields.get(first)
        if not rest:
            return value
        return value.get(rest) if isinstance(value, Mapping) else None


def architecture_of(config: Mapping[str, object]) -> Architecture:
    """What is known of a model by its config.json.

    >>> sorted(architecture_of({"model_type": "llava", "text_config": {"model_type": "llama"}}).types)
    ['llama', 'llava']
    """
    language = next((found for key in _LANGUAGE if isinstance(found := config.get(key), Mapping)), {})
    return Architecture(frozenset(islice(_types(config), _MOST_TYPES)), {**language, **config} if language else config)


def _types(config: Mapping[str, object]) -> Iterator[str]:
    for fields in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        kind = fields.get("model_type")
        if isinstance(kind, str) and _MODEL_TYPE.fullmatch(kind):
            yield kind
