"""Which layer a module's tensors are for, and how they multiply."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

import torch

from wanalyze.adapters.adapter import Parts
from wanalyze.adapters.dora import Side
from wanalyze.adapters.layout import bounded
from wanalyze.adapters.lora.config import LoraConfig
from wanalyze.adapters.peft import need
from wanalyze.checkpoints import TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import widened

if TYPE_CHECKING:
    from torch import Tensor

Factors: TypeAlias = "Callable[[Parts], tuple[Tensor, Tensor]]"
_BLOCKS = "a block-diagonal factor"
_FACTORS = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}


@dataclass(frozen=True)
class Layer:
    """A layer with LoRA: `factors` makes (out, rank) and (rank, rest) of its tensors; `shape` is (out, rest).

    `norm_of` are those sides that DoRA has a magnitude for each of.
    """

    kind: Literal["linear", "embedding", "convolution", "merged"]
    factors: Factors
    shape: tuple[int, int]
    rank: int
    norm_of: Side = "outputs"
    is_grouped: bool = False

    @property
    def magnitudes(self) -> int:
        return self.shape[0 if self.norm_of == "outputs" else 1]


def layer_of(where: str, module: str, parts: Mapping[str, TensorEntry], rank: int, config: LoraConfig) -> Layer:
    """The layer that the shapes tell; AdapterError where they contradict each other or the rank of the config."""
    is_embedding = any(name.startswith("lora_embedding_") for name in parts)
    names = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A", "lora_B")
    need(parts, names, module=module, where=where)
    misfit = partial(_misfit, where, module, parts, names, rank)
    if _FACTORS & parts.keys() != set(names):
        misfit()
    a, b = (parts[name].shape for name in names)
    if is_embedding:
        return _embedding(a, b, rank, misfit)
    if len(a) == len(b) == 2:
        return _linear(module, a, b, rank, config, misfit)
    if len(a) == 2 and len(b) == 3:
        return _merged(a, b, rank, config.enable_lora, misfit)
    return _convolution(module, a, b, rank, misfit)


def _misfit(where: str, module: str, parts: Mapping[str, TensorEntry], names: tuple[str, ...], rank: int) -> NoReturn:
    shapes = " and ".join(f"{name} {parts[name].shape}" for name in sorted({*names, *(_FACTORS & parts.keys())}))
    if any(len(parts[name].shape) < 2 for name in names):
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {shapes}: a shard that ZeRO-3 or FSDP did not gather; save it again"
        )
    raise AdapterError(
        f"{where}: module {module[:80]!r} has {shapes}, but adapter_config.json gives it rank {rank}; "
        "the scale would be wrong, so one of the two must be mended"
    )


Shape: TypeAlias = "tuple[int, ...]"
Refuse: TypeAlias = "Callable[[], NoReturn]"


def _embedding(a: Shape, b: Shape, rank: int, misfit: Refuse) -> Layer:
    if not (len(a) == len(b) == 2 and a[0] == b[1] == rank):
        misfit()
    return Layer("embedding", _of_embedding, (a[1], b[0]), rank, norm_of="inputs")


def _of_embedding(parts: Parts) -> tuple[Tensor, Tensor]:
    return parts["lora_embedding_A"].mT, parts["lora_embedding_B"].mT


def _linear(module: str, a: Shape, b: Shape, rank: int, config: LoraConfig, misfit: Refuse) -> Layer:
    side = config.use_bdlora.side(module) if config.use_bdlora else None
    blocks = {side: config.use_bdlora.nblocks} if config.use_bdlora and side else {}
    in_a, in_b = blocks.get("lora_A", 1), blocks.get("lora_B", 1)
    if a[0] != rank or b[1] * in_b != rank or a[0] % in_a or b[0] % in_b:
        misfit()
    bounded(max(a[0] * a[1] * in_a if in_a > 1 else 0, b[0] * rank if in_b > 1 else 0), _BLOCKS, module=module)
    if config.kasa_config is not None:
        return Layer("linear", _of_scaled, (b[0], a[1]), rank)
    return Layer("linear", partial(_of_blocks, in_a=in_a, in_b=in_b), (b[0], a[1] * in_a), rank)


def _of_scaled(parts: Parts) -> tuple[Tensor, Tensor]:
    """Of KaSA, whose singular values lie between the factors."""
    left, values = (widened(parts[name], torch.float64) for name in ("lora_B", "lora_diag"))
    return left * values.flatten(), parts["lora_A"]


def _of_blocks(parts: Parts, *, in_a: int, in_b: int) -> tuple[Tensor, Tensor]:
    return _block_diagonal(parts["lora_B"], in_b), _block_diagonal(parts["lora_A"], in_a)


def _block_diagonal(rows: Tensor, count: int) -> Tensor:
    """The blocks that are stored one below the other, put on a diagonal."""
    return rows if count == 1 else torch.block_diag(*rows.chunk(count))  # type: ignore[no-untyped-call]


def _merged(a: Shape, b: Shape, rank: int, enabled: list[bool], misfit: Refuse) -> Layer:
    """The layer of peft 0.2 for fused queries, keys and values: an update of each third that is enabled."""
    count = sum(enabled)
    if not count or a[0] != rank * count or b[1:] != (rank, 1) or b[0] % count:
        misfit()
    return Layer("merged", partial(_of_merged, enabled=enabled), (b[0] // count * len(enabled), a[1]), rank * count)


def _of_merged(parts: Parts, *, enabled: list[bool]) -> tuple[Tensor, Tensor]:
    blocks = parts["lora_B"].squeeze(-1).chunk(sum(enabled))
    (rows, rank), places = blocks[0].shape, [i for i, is_enabled in enumerate(enabled) if is_enabled]
    left = blocks[0].new_zeros(len(enabled) * rows, len(blocks) * rank)
    for i, (place, block) in enumerate(zip(places, blocks, strict=True)):
        left[place * rows : (place + 1) * rows, i * rank : (i + 1) * rank] = block
    return left, parts["lora_A"]


def _convolution(module: str, a: Shape, b: Shape, rank: int, misfit: Refuse) -> Layer:
    is_kernel = 3 <= len(a) == len(b) <= 5 and set(b[2:]) == {1}
    if not is_kernel or a[0] != rank or rank % b[1] or b[0] % (rank // b[1]):
        misfit()
    groups = rank // b[1]
    bounded(b[0] * rank if groups > 1 else 0, _BLOCKS, module=module)
    return Layer(
        "convolution", partial(_of_convolution, groups=groups), (b[0], math.prod(a[1:])), rank, is_grouped=groups > 1
    )


def _of_convolution(parts: Parts, *, groups: int) -> tuple[Tensor, Tensor]:
    """Of a grouped one, the outputs of a group see its own rows of A."""
    return _block_diagonal(parts["lora_B"].flatten(1), groups), parts["lora_A"].flatten(1)
