"""The factors of a LoRA as they lie in the file: paired by their names, nothing refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wanalyze.checkpoints import TensorEntry

_FACTOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_(?:embedding_)?[AB])(?:\.default)?(?:\.weight)?")
OTHER = {"lora_A": "lora_B", "lora_B": "lora_A"}
OTHER |= {"lora_embedding_A": "lora_embedding_B", "lora_embedding_B": "lora_embedding_A"}


@dataclass
class Factors:
    """The A and B of one module, by the names of their tensors."""

    parts: dict[str, TensorEntry] = field(default_factory=dict)

    @property
    def pairs(self) -> Iterator[tuple[TensorEntry, TensorEntry]]:
        for part in ("lora_A", "lora_embedding_A"):
            if part in self.parts and OTHER[part] in self.parts:
                yield self.parts[part], self.parts[OTHER[part]]


def factors_of(tensors: Mapping[str, TensorEntry]) -> dict[str, Factors]:
    """The factors of a LoRA by module, as they lie in the file: nothing is refused."""
    found: dict[str, Factors] = {}
    for name, entry in tensors.items():
        if match := _FACTOR.fullmatch(name):
            found.setdefault(match["module"], Factors()).parts[match["part"]] = entry
    return found
