"""Quantised weights made by hand: packed with loops over Python integers, and worth what a formula in float64 says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tests.conftest import normal, save_checkpoint

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FP4 = [value / 12 for value in (0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3)]


@dataclass
class Made:
    """Tensors of the module `m`, the config they come with, and the weight they stand for."""

    tensors: dict[str, Tensor]
    config: dict[str, object] = field(default_factory=dict)
    weight: Tensor | None = None

    def save(self, folder: Path) -> Path:
        save_checkpoint(folder, self.tensors)
        (folder / "config.json").write_text(json.dumps({"quantization_config": self.config} if self.config else {}))
        return folder


def randoms(*shape: int, below: int, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def stream(integers: Sequence[int], bits: int) -> list[int]:
    """Integers as one stream of bits, cut into signed words of 32."""
    whole = sum(value << bits * i for i, value in enumerate(integers))
    words = [(whole >> 32 * i) & 0xFFFFFFFF for i in range(-(-len(integers) * bits // 32))]
    return [word - 2**32 if word >= 2**31 else word for word in words]


def packed_rows(integers: Tensor, bits: int) -> Tensor:
    return torch.tensor([stream(row, bits) for row in integers.tolist()], dtype=torch.int32)


def packed_columns(integers: Tensor, bits: int) -> Tensor:
    return packed_rows(integers.T, bits).T


def state_tensor(**fields: object) -> Tensor:
    return torch.tensor(list(json.dumps(fields).encode()), dtype=torch.uint8)


def four_bits(
    kind: str, shape: tuple[int, ...], *, block: int = 64, nested: bool = False, storage: str = "uint8"
) -> Made:
    """A weight as bitsandbytes stores it: nested scales in blocks of 8, so that there are several."""
    count = math.prod(shape)
    table = NF4 if kind == "nf4" else FP4
    data = randoms(-(-count // 2), below=256, seed=1).tolist()
    blocks = -(-count // block)
    absmax = (normal(blocks, seed=2).abs() + 0.1).double().tolist()
    tensors = {"m.weight.absmax": torch.tensor(absmax)}
    fields: dict[str, object] = {"quant_type": kind, "blocksize": block, "dtype": "float16", "shape": shape}
    if nested:
        codes = randoms(blocks, below=256, seed=3)
        levels, outer = normal(256, seed=4).clamp(-1, 1), normal(-(-blocks // 8), seed=5).abs()
        absmax = [levels[codes[j]].item() * outer[j // 8].item() + 0.75 for j in range(blocks)]
        tensors = {"m.weight.absmax": codes.to(torch.uint8), "m.weight.nested_absmax": outer}
        tensors["m.weight.nested_quant_map"] = levels
        fields |= {"nested_blocksize": 8, "nested_dtype": "float32", "nested_offset": 0.75}
    flat = []
    for i in range(count):
        code = data[i // 2] >> 4 if i % 2 == 0 else data[i // 2] & 15
        flat.append(table[code] * absmax[i // block])
    stored = torch.tensor(data, dtype=torch.uint8).view(getattr(torch, storage)).reshape(-1, 1)
    tensors |= {
        "m.weight": stored,
        "m.weight.quant_map": torch.tensor(table),
        f"m.weight.quant_state.bitsandbytes__{kind}": state_tensor(**fields),
    }
    weight = torch.tensor(flat, dtype=torch.float64).reshape(shape)
    return Made(tensors, {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": kind}, weight)


def gptq(bits: int, *, version: str = "gptq", order: bool = False, size: int = 32, inputs: int = 96) -> Made:
    """(inputs → 64) in groups; with `order`, inputs belong to groups in a random order."""
    outputs, groups = 64, -(-inputs // size)
    codes, zeros = randoms(inputs, outputs, below=2**bits, seed=1), randoms(groups, outputs, below=2**bits - 1, seed=2)
    scales = (normal(groups, outputs, seed=3).abs() + 0.1).half()
    index = torch.arange(inputs) // size
    if order:
        index = index[torch.randperm(inputs, generator=torch.Generator().manual_seed(4))]
    added = 1 if version == "gptq" else 0
    weight = torch.empty(outputs, inputs, dtype=torch.float64)
    for o in range(outputs):
        for i in range(inputs):
            g = int(index[i])
            weight[o, i] = (int(codes[i, o]) - (int(zeros[g, o]) + added)) * scales[g, o].double()
    tensors = {
        "m.qweight": packed_columns(codes, bits),
        "m.qzeros": packed_rows(zeros, bits),
        "m.scales": scales,
        "m.g_idx": index.int(),
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": size, "checkpoint_format": version}
    return Made(tensors, config, weight)


def awq() -> Made:
    """(96 → 40) in groups of 32; eight outputs to a word in the order of AutoAWQ's packer."""
    codes, zeros = randoms(96, 40, below=16, seed=1), randoms(3, 40, below=16, seed=2)
    scales = (normal(3, 40, seed=3).abs() + 0.1).half()

    def pack(integers: Tensor) -> Tensor:
        order = [8 * (i // 8) + (0, 2, 4, 6, 1, 3, 5, 7)[i % 8] for i in range(integers.shape[1])]
        return packed_rows(integers[:, order], 4)

    weight = torch.empty(40, 96, dtype=torch.float64)
    for o in range(40):
        for i in range(96):
            weight[o, i] = (int(codes[i, o]) - int(zeros[i // 32, o])) * scales[i // 32, o].double()
    tensors = {"m.qweight": pack(codes), "m.qzeros": pack(zeros), "m.scales": scales}
    return Made(tensors, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, weight)


def fp8(
    shape: tuple[int, ...] = (300, 140),
    *,
    suffix: str = "weight_scale_inv",
    scale: tuple[int, ...] = (3, 2),
    **config: object,
) -> Made:
    """8-bit floats and scales; what they stand for is left to who reads them."""
    codes = normal(*shape, seed=1).to(torch.float8_e4m3fn)
    scales = normal(math.prod(scale), seed=2).abs().reshape(scale) + 0.1
    fields: Mapping[str, object] = {"quant_method": "fp8", "weight_block_size": [128, 128], **config}
    return Made({"m.weight": codes, f"m.{suffix}": scales}, dict(fields))
