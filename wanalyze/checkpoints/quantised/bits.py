"""Integers of few bits, unpacked from the bytes they were packed into."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` integers of every row of bytes: (..., bytes) to (..., count), both uint8.

    A row is one stream of bits, the lowest of every byte first, in which integer i takes those from i·bits on; an
    integer may lie across two bytes, or across two of the little-endian words that the bytes are of.
    """
    import torch

    if 8 % bits == 0:  # none lies across two bytes
        places = torch.arange(0, 8, bits, dtype=torch.uint8)
        integers: Tensor = (packed.unsqueeze(-1) >> places) & (2**bits - 1)
        return integers.flatten(-2)[..., :count]
    eights = -(-count // 8)  # eight integers take `bits` whole bytes
    rows = torch.nn.functional.pad(packed, (0, max(0, eights * bits - packed.shape[-1])))
    rows = rows[..., : eights * bits].reshape(*packed.shape[:-1], eights, bits)
    stream = torch.zeros(rows.shape[:-1], dtype=torch.int64)
    for place in range(bits):
        stream |= rows[..., place].to(torch.int64) << 8 * place
    found = torch.empty((*stream.shape, 8), dtype=torch.uint8)
    for place in range(8):
        found[..., place] = (stream >> bits * place) & (2**bits - 1)
    return found.flatten(-2)[..., :count]


def turned(stored: Tensor, size: int = 4) -> Tensor:
    """Bytes of words of `size` bytes with rows and columns of words exchanged: (..., m, n·size) to (..., n, m·size)."""
    *stack, rows, width = stored.shape
    words = stored.reshape(*stack, rows, width // size, size)
    return words.transpose(-3, -2).reshape(*stack, width // size, rows * size)


def words_of(count: int, bits: int, size: int = 32) -> int:
    """How many words of `size` bits a stream of `count` integers takes.

    >>> words_of(11, 3)
    2
    """
    return -(-count * bits // size)
