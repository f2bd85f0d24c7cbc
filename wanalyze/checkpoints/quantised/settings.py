"""What a model's config says of its quantisation: a claim, to be held against the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from wanalyze.checkpoints.quantised.blocks import PER_ROW, PER_TENSOR, Block
from wanalyze.errors import CheckpointError

_KEYS = ("quantization_config", "compression_config", "quantization")
_FORMATS = {
    *("dense", "mixed-precision", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"),
}
_MOST_SCHEMES = 100  # recipes have one to five
_LARGEST = 2**31  # of the integers: numbers of bits, and of weights along a side of a block


@dataclass(frozen=True)
class Scheme:
    """How compressed-tensors quantised some of the weights: into how many bits, and which share a scale."""

    bits: int
    block: Block


@dataclass(frozen=True)
class Settings:
    """The `quantization_config` of a config.json; `method` is its quant_method, None without one."""

    where: str
    options: Mapping[str, object]

    @property
    def method(self) -> str | None:
        found = self.text("quant_method")
        if found:
            return found
        if self.options.get("load_in_4bit") or self.options.get("load_in_8bit"):
            return "bitsandbytes"
        return "mlx" if {"group_size", "bits"} <= self.options.keys() else None

    def refuse(self, why: str) -> NoReturn:
        raise CheckpointError(f"{self.where}: config.json: quantization_config: {why[:400]}")

    def text(self, key: str) -> str | None:
        """An option that is a word, in lower case; None if it is not given."""
        value = self.options.get(key)
        if value is not None and not isinstance(value, str):
            self.refuse(f"{key} is {_cut(value)}, a word is needed")
        return value.lower()[:80] if value else None

    def integer(self, key: str) -> int | None:
        return self._integer(self.options.get(key), key)

    def sizes(self, key: str) -> Block | None:
        """Two positive sizes, rows and columns of a block; None if they are not given."""
        value = self.options.get(key)
        return None if value is None else self._sizes(value, key)

    @cached_property
    def formats(self) -> frozenset[str]:
        """The layouts that compressed-tensors names, without those that say nothing of a single weight."""
        sparsity = self.options.get("sparsity_config")
        places = [self.options, *self._groups, sparsity if isinstance(sparsity, Mapping) else {}]
        found = {str(place["format"])[:80] for place in places if place.get("format") is not None}
        for name in found - _FORMATS:
            self.refuse(f"format {name!r} of compressed-tensors is not read; pass the 16-bit original")
        return frozenset(found - {"dense", "mixed-precision"})

    @cached_property
    def schemes(self) -> tuple[Scheme, ...]:
        """The different schemes of compressed-tensors; which weight has which is seen from its tensors.

        CheckpointError where weights were rotated first: they cannot be compared with those that were not.
        """
        if self.options.get("transform_config"):
            self.refuse("transform_config: the weights are rotated, which is not undone; pass the 16-bit original")
        parts = [group.get("weights") for group in self._groups]
        return tuple(dict.fromkeys(self._scheme(part) for part in parts if isinstance(part, Mapping)))

    @cached_property
    def _groups(self) -> list[Mapping[str, object]]:
        value = self.options.get("config_groups") or {}
        if not isinstance(value, Mapping) or not all(isinstance(group, Mapping) for group in value.values()):
            self.refuse(f"config_groups is {_cut(value)}, an object of objects is needed")
        if len(value) > _MOST_SCHEMES:
            self.refuse(f"config_groups has {len(value)} groups, more than {_MOST_SCHEMES}; refused")
        return list(value.values())

    def _scheme(self, weights: Mapping[str, object]) -> Scheme:
        bits = self._integer(weights.get("num_bits"), "num_bits")
        size = self._integer(weights.get("group_size"), "group_size")
        strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
        plain = {"tensor": PER_TENSOR, "channel": PER_ROW}
        if strategy in ("group", "tensor_group") and size is not None and size > 0:
            return Scheme(bits or 8, (1, size))
        if strategy == "block":
            return Scheme(bits or 8, self._sizes(weights.get("block_structure"), "block_structure"))
        if not isinstance(strategy, str) or strategy not in plain:
            self.refuse(f"strategy {_cut(strategy)} with group_size {size} is not read; pass the 16-bit original")
        return Scheme(bits or 8, plain[strategy])

    def _integer(self, value: object, key: str) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST:
            self.refuse(f"{key} is {_cut(value)}, an integer of at most {_LARGEST} is needed")
        return value

    def _sizes(self, value: object, key: str) -> Block:
        if isinstance(value, str):  # 128x128, in old files
            value = [int(part) for part in value.split("x") if part.isdecimal() and len(part) < 9]
        if not isinstance(value, Sequence) or len(value) != 2 or not all(_is_size(size) for size in value):
            self.refuse(f"{key} is {_cut(value)}, two positive sizes of at most {_LARGEST} are needed")
        return value[0], value[1]


def settings_of(config: Mapping[str, object], where: str) -> Settings:
    """What `config` says of quantisation, also where it says so of the language model of several parts."""
    parts = [config, config.get("text_config")]
    places = [part.get(key) for part in parts if isinstance(part, Mapping) for key in _KEYS]
    return Settings(where, next((place for place in places if isinstance(place, Mapping) and place), {}))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST


def _cut(value: object) -> str:
    return repr(value)[:80]
