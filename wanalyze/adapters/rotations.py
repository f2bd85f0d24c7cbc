"""Orthogonal matrices from skew-symmetric ones, and a weight turned by a block-diagonal of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from wanalyze.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

Terms = Annotated[int, Field(ge=1, le=64, strict=True)]  # of a power series; peft's default is 5


def side_of(entries: int, *, what: str) -> int:
    """The side of the matrices with so many entries above their diagonal.

    >>> side_of(6, what="oft_R")
    4
    """
    side = (1 + math.isqrt(8 * entries + 1)) // 2
    if side * (side - 1) // 2 != entries:
        raise AdapterError(f"{what} has {entries} entries a block, but no matrix has so many above its diagonal")
    return side


def skew(vectors: Tensor, side: int) -> Tensor:
    """Skew-symmetric (b, side, side), of the entries above their diagonals (b, side · (side − 1) / 2), row by row."""
    rows, columns = torch.triu_indices(side, side, 1, device=vectors.device)
    found = vectors.new_zeros(len(vectors), side, side)
    found[:, rows, columns] = vectors
    return found - found.mT


def halves(matrices: Tensor) -> Tensor:
    """The skew-symmetric parts."""
    return (matrices - matrices.mT) / 2


def clipped(matrices: Tensor, radius: float) -> Tensor:
    """Each of the matrices (b, n, n), shrunk to the norm `radius` where it is longer."""
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    return torch.where(norms > radius, matrices * (radius / norms), matrices)


def cayley(skew: Tensor) -> Tensor:
    """(I − Q)(I + Q)⁻¹: orthogonal, and I + Q is never singular."""
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    found: Tensor = torch.linalg.solve_ex(identity + skew, identity - skew, left=False).result
    return found  # not finite where Q overflows


def neumann(skew: Tensor, terms: int, *, last_halved: bool) -> Tensor:
    """I + 2Q + 2Q² + …, an approximation of (I + Q)(I − Q)⁻¹.

    `last_halved` is what peft does since 0.18: the last power counts once, and three terms are as good as four.
    """
    coefficients = [1.0] + [2.0] * (terms - 1)
    if last_halved and terms > 2:
        coefficients = [1.0] + [2.0] * (max(terms, 4) - 2) + [1.0]
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    found = torch.zeros_like(skew)
    for coefficient in reversed(coefficients):
        found = found @ skew + coefficient * identity
    return found


def turned(weight: Tensor, blocks: Tensor) -> Tensor:
    """`weight` (m, b · n) times the transpose of the block-diagonal of `blocks` (b, n, n); one block is repeated."""
    side = blocks.shape[-1]
    columns = weight.reshape(len(weight), -1, side).transpose(0, 1)
    return (columns @ blocks.mT).transpose(0, 1).reshape(weight.shape)
