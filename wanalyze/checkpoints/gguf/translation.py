"""Tensors of a GGUF file as Hugging Face has them: its names, its order of rows, a tensor for every expert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.content import Content, item
from wanalyze.checkpoints.experts import MOST_EXPERTS
from wanalyze.checkpoints.gguf.header import Value
from wanalyze.checkpoints.gguf.names import DIALECTS, Dialect, Meaning, meaning_of
from wanalyze.checkpoints.gguf.rope import Unpermuted
from wanalyze.errors import CheckpointError

# What a config of Hugging Face calls what GGUF has under `<architecture>.`.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "expert_count": "num_local_experts",
}


@dataclass(frozen=True)
class Translator:
    """For one file, or the parts of one: its metadata and its architecture's dialect."""

    where: str
    metadata: Mapping[str, Value]
    architecture: str
    dialect: Dialect

    def translated(self, entry: TensorEntry) -> Iterator[TensorEntry]:
        """The tensors that Hugging Face has in the place of one; itself, where that is not known."""
        meaning = meaning_of(entry.name, self.dialect)
        if meaning is None:
            yield entry
        elif not meaning.is_stack:
            yield TensorEntry(meaning.name, self._ordered(entry, meaning))
        elif len(entry.shape) == 3 and entry.shape[0] <= MOST_EXPERTS:
            for expert in range(entry.shape[0]):
                yield TensorEntry(meaning.name.format(expert), item(entry.content, expert))
        else:
            yield entry

    def config(self, entries: Mapping[str, TensorEntry]) -> dict[str, object]:
        """What a config.json would say, of what pairing may ask."""
        experts = self.dialect.experts
        is_mixture = experts is not None and any(f".{experts.module}.experts." in name for name in entries)
        found: dict[str, object] = {
            ours: value
            for theirs, ours in _FIELDS.items()
            if type(value := self.metadata.get(f"{self.architecture}.{theirs}")) is int
        }
        found["model_type"] = experts.model_type if is_mixture and experts else self.dialect.model_type
        if "lm_head.weight" not in entries:
            found["tie_word_embeddings"] = True
        return found

    def _ordered(self, entry: TensorEntry, meaning: Meaning) -> Content:
        if meaning.part not in self.dialect.permuted or meaning.layer is None:
            return entry.content
        heads = self._heads(meaning.part, meaning.layer)
        if not entry.shape or entry.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{self.where}: tensor {entry.name[:80]!r} of shape {list(entry.shape)} does not split into {heads} "
                "heads of pairs of rows; the file is damaged or forged"
            )
        return Unpermuted(entry.content, heads)

    def _heads(self, part: str, layer: int) -> int:
        """How many heads queries or keys have; models whose layers differ list them."""
        key = f"{self.architecture}.attention.head_count"
        value = self.metadata.get(key)
        if part == "attn_k":
            value = self.metadata.get(f"{key}_kv", value)
        if isinstance(value, tuple):
            value = value[layer] if layer < len(value) else None
        if type(value) is not int or value <= 0:
            raise CheckpointError(
                f"{self.where}: {key} is {str(value)[:80]}; without a number of heads the rows of {part!r} in layer "
                f"{layer} cannot be put in order"
            )
        return value


def translator(where: str, metadata: Mapping[str, Value]) -> Translator | None:
    """Who knows how these tensors were converted; None for other architectures."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in DIALECTS:
        return None
    return Translator(where, metadata, architecture, DIALECTS[architecture])
