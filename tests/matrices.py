"""Matrices whose singular values are known because they were put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor


def orthonormal(rows: int, columns: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def with_spectrum(values: Tensor, rows: int, columns: int, *, seed: int = 0) -> Tensor:
    left = orthonormal(rows, len(values), seed=2 * seed)
    right = orthonormal(columns, len(values), seed=2 * seed + 1)
    return (left * values) @ right.mT


def shaped(name: str, rows: int, columns: int) -> Tensor:
    """Spectra that have broken solvers: flat, steep, an outlier, deficient, zero."""
    r = min(rows, columns)
    j = torch.arange(1, r + 1, dtype=torch.float64)
    spectra = {
        "flat": torch.ones(r, dtype=torch.float64) + 0.01 * j.flip(0),
        "power law": 1 / j,
        "steep": 10.0 ** -(12 * (j - 1) / max(r - 1, 1)),
        "outlier": torch.cat([torch.full((1,), 1e8, dtype=torch.float64), 1 / j[1:]]) if r > 1 else j,
        "deficient": torch.where(j <= max(r // 3, 1), 1 / j, 0.0),
        "zero": torch.zeros(r, dtype=torch.float64),
        "tiny": 1e-200 / j,
    }
    return with_spectrum(spectra[name], rows, columns, seed=rows + columns)


SPECTRA = ("flat", "power law", "steep", "outlier", "deficient", "zero", "tiny")
SHAPES = ((40, 40), (60, 25), (25, 60), (1, 30), (30, 1), (1, 1))


@contextmanager
def iterative(*, on: bool = True) -> Iterator[None]:
    """Small matrices take the way of large ones: Gram values, Krylov spaces, certificates."""
    with pytest.MonkeyPatch.context() as patch:
        if on:
            for room in ("values", "triplets", "overlaps"):
                patch.setattr(f"wanalyze.spectra.{room}.SMALL", 0)
            patch.setattr("wanalyze.spectra.overlaps._KRYLOV", 0)
        yield
