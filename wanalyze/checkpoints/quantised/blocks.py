"""Which scale belongs to which weights: the block sizes that shapes and config agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Block: TypeAlias = "tuple[int | None, int | None]"  # weights of one scale: rows and columns, None for all

PER_TENSOR: Block = (None, None)
PER_ROW: Block = (1, None)


def scale_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """The shape of the scales of a weight, ragged blocks at its edges included.

    >>> scale_shape((300, 130), (128, 128)), scale_shape((8, 300, 130), PER_ROW)
    ((3, 2), (8, 300, 1))
    """
    sides = [1 if size is None else -(-extent // size) for extent, size in zip(shape[-2:], block, strict=True)]
    return (*shape[:-2], *sides)


def block_of(stored: tuple[int, ...], shape: tuple[int, ...], told: Sequence[Block]) -> Block | None:
    """The block that makes scales of the shape `stored`: one that was `told`, or, without, one that divides.

    A single scale, and a list of one for each row, may be stored without the dimensions that are 1.

    >>> block_of((3, 2), (300, 130), [(128, 128)]), block_of((300,), (300, 128), []), block_of((7, 1), (300, 128), [])
    ((128, 128), (1, None), None)
    """
    found = _full(stored, shape)
    if told:
        return next((block for block in told if found == scale_shape(shape, block)), None)
    return _divided(found, shape)


def _full(found: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if all(side == 1 for side in found) and len(found) < len(shape):
        return (1,) * len(shape)
    return (*found, 1) if found == shape[:-1] else found


def _divided(found: tuple[int, ...], shape: tuple[int, ...]) -> Block | None:
    if len(found) != len(shape) or found[:-2] != shape[:-2]:
        return None
    if any(side == 0 or extent % side for extent, side in zip(shape[-2:], found[-2:], strict=True)):
        return None
    rows, columns = (None if side == 1 else extent // side for extent, side in zip(shape[-2:], found[-2:], strict=True))
    return rows, columns


def spread(scale: Tensor, block: Block, shape: tuple[int, ...]) -> Tensor:
    """Scales, one for each block, so that they broadcast to the weights of `shape`."""
    import torch

    found = scale.reshape(scale_shape(shape, block))
    for axis, size in zip((-2, -1), block, strict=True):
        if size is not None and found.shape[axis] != shape[axis]:
            found = found.index_select(axis, torch.arange(shape[axis]) // size)
    return found


def words(block: Block) -> str:
    """How a block is told to people.

    >>> words(PER_TENSOR), words(PER_ROW), words((1, 32)), words((128, 128))
    ('one scale', 'one scale a row', 'groups of 32', 'blocks of 128 × 128')
    """
    rows, columns = block
    if block in (PER_TENSOR, PER_ROW):
        return "one scale" if rows is None else "one scale a row"
    if rows == 1:
        return f"groups of {columns}"
    return f"blocks of {'all' if rows is None else rows} × {'all' if columns is None else columns}"
