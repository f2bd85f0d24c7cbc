"""Cosines between single leading vectors, against LAPACK's vectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.conftest import normal
from tests.matrices import iterative, with_spectrum
from wanalyze.operators import Dense
from wanalyze.result import Result
from wanalyze.spectra.overlaps import overlaps
from wanalyze.spectra.prepared import prepare
from wanalyze.spectra.values import spectra

K = 4


def similar(base: Tensor, tuned: Tensor) -> tuple[Tensor, Tensor]:
    ready = prepare([Dense(base)], K + 6)
    left, right = overlaps([Dense(tuned)], spectra([Dense(tuned)]), ready, k=K)[0]
    return left.similarity, right.similarity


def by_svd(base: Tensor, tuned: Tensor, side: str) -> Tensor:
    (u0, _, v0), (u1, _, v1) = (torch.linalg.svd(matrix, full_matrices=False) for matrix in (base, tuned))
    return (u1.mT @ u0).abs() if side == "left" else (v1 @ v0.mT).abs()


def pair() -> tuple[Tensor, Tensor]:
    """A spectrum with gaps, and a tuned matrix that mixes its vectors."""
    base = with_spectrum(torch.tensor([0.8**j for j in range(96)], dtype=torch.float64), 160, 96)
    return base, base + 0.05 * normal(160, 96, dtype=torch.float64) / 10


@pytest.mark.parametrize("way", ["whole", "iterative"])
def test_each_cosine_is_that_of_an_svd(way: str) -> None:
    base, tuned = pair()
    with iterative(on=way == "iterative"):
        found = similar(base, tuned)
    for side, cosines in zip(("left", "right"), found, strict=True):
        rows, columns = cosines.shape
        assert (rows, columns) == ((32, 32) if way == "whole" else (K, K + 6))
        true = by_svd(base, tuned, side)[:rows, :columns]
        known = cosines.isfinite()
        assert known[:K, :K].all()
        assert (cosines - true)[known].abs().max() < (2e-2 if way == "iterative" else 1e-5)


def test_a_matrix_and_itself_agree_vector_by_vector() -> None:
    base, _ = pair()
    for cosines in similar(base, base):
        torch.testing.assert_close(cosines[:20, :20], torch.eye(20), rtol=0, atol=1e-6)


def test_vectors_that_share_a_value_have_no_cosine_of_their_own() -> None:
    values = torch.tensor([3.0, 2.0, 2.0, *[1 / j for j in range(1, 94)]], dtype=torch.float64)
    base = with_spectrum(values, 160, 96)
    left, _ = similar(base, base + 1e-3 * normal(160, 96, dtype=torch.float64))
    assert left[:, 1:3].isnan().all()
    assert left[0, 0] == pytest.approx(1, abs=1e-4)
    assert not left[0].isnan()[3:10].any()


def test_a_run_keeps_them(trained: Result) -> None:
    for name in ("similarity_left", "similarity_right"):
        cosines = trained.arrays[f"lora-r8/model.layers.0.mlp.up_proj/{name}"]
        assert cosines.shape == (32, 32)
        assert cosines.max() <= 1
    assert not any("similarity" in key for key in trained.arrays if key.startswith("half-frozen/model.layers.0."))
