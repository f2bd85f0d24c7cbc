"""The statistics of an update that an audit asks for, against numpy on the matrix written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import normal
from tests.matrices import orthonormal, with_spectrum
from wanalyze.measure import measure_statistics, measure_with_base
from wanalyze.measure.statistics import COMPUTE
from wanalyze.metrics import ALONE, EXPLAINED, FIDELITY, SIGNATURE, STATISTICS, WITH_BASE
from wanalyze.operators import Dense, Kronecker, LowRank, Operator, Scaled, Sum
from wanalyze.spectra import entries
from wanalyze.spectra.entries import Kurtosis, kurtosis, line_norms
from wanalyze.spectra.largest import largest_value

UPDATES: dict[str, Operator] = {
    "low rank": LowRank(normal(60, 4), normal(4, 50, seed=1), 0.5),
    "with a mean": LowRank(normal(60, 4) + 1, normal(4, 50, seed=1) + 2),
    "bfloat16": LowRank(normal(60, 4, dtype=torch.bfloat16), normal(4, 50, seed=1, dtype=torch.bfloat16)),
    "float8": LowRank(normal(60, 4).to(torch.float8_e4m3fn), normal(4, 50, seed=1).to(torch.float8_e4m3fn)),
    "large and small factors": LowRank(1e30 * normal(60, 4).double(), 1e-60 * normal(4, 50, seed=1).double()),
    "more rank than sides": LowRank(normal(3, 30), normal(30, 4, seed=1)),
    "what cancels": LowRank(
        torch.cat([normal(60, 2), -normal(60, 2)], 1), torch.cat([normal(2, 50) + 1e-7, normal(2, 50)])
    ),
    "kronecker": Kronecker(Dense(normal(6, 5)), Dense(normal(7, 4, seed=1)), -2.0),
    "dense": Dense(normal(40, 30)),
    "a sum": Sum(Dense(normal(40, 30)), LowRank(normal(40, 1), normal(1, 30, seed=3))),
    "scaled": Scaled(Dense(normal(40, 30)), normal(40, seed=5), normal(30, seed=6)),
}


def written_out(update: Operator) -> np.ndarray:
    found: np.ndarray = update.columns(slice(0, update.shape[1]), torch.float64).numpy()
    return found


def fourth_moment(matrix: np.ndarray) -> float:
    """Of the entries, brought to mean 0 and variance 1."""
    return float((((matrix - matrix.mean()) / matrix.std()) ** 4).mean())


def by_definition(update: Operator) -> dict[str, float]:
    matrix = written_out(update)
    values = np.linalg.svd(matrix, compute_uv=False)
    energy, share = values**2 / (values**2).sum(), values / values.sum()
    alive = share[share > 1e-13]
    rows, columns = (np.linalg.norm(matrix, axis=axis) for axis in (1, 0))
    return {
        "energy_rank_90": 1 + np.searchsorted(energy.cumsum(), 0.9 - 1e-12),
        "energy_rank_99": 1 + np.searchsorted(energy.cumsum(), 0.99 - 1e-12),
        "dominance": energy[0],
        "concentration": share[0],
        "spectral_entropy": -(alive * np.log(alive)).sum(),
        "kurtosis": fourth_moment(matrix),
        "row_peak": rows.max() / np.sort(rows)[(len(rows) - 1) // 2],
        "column_peak": columns.max() / np.sort(columns)[(len(columns) - 1) // 2],
    }


@pytest.mark.parametrize("name", UPDATES)
def test_statistics_are_those_of_the_matrix_written_out(name: str) -> None:
    found = measure_statistics(UPDATES[name])
    assert [*found.metrics] == [*ALONE, *STATISTICS]
    assert [*COMPUTE] == [*STATISTICS]
    for key, expected in by_definition(UPDATES[name]).items():
        assert found.metrics[key] == pytest.approx(expected, rel=1e-7), key
    assert found.metrics["kurtosis_error"] == 0


def test_the_weakest_promised_direction() -> None:
    values = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    update = LowRank(orthonormal(30, 3, seed=1) * values, orthonormal(20, 3, seed=2).mT)
    assert measure_statistics(update).metrics["weakest_direction"] == pytest.approx(0.25)
    idle = LowRank(torch.cat([normal(30, 2), torch.zeros(30, 1)], 1), normal(3, 20))
    assert measure_statistics(idle).metrics["weakest_direction"] == pytest.approx(0, abs=1e-15)
    assert "promises no number" in measure_statistics(Dense(normal(30, 20))).missing["weakest_direction"]


def test_a_large_dense_update_has_the_statistics_of_its_entries_only() -> None:
    matrix = normal(800, 790, seed=3)
    found = measure_statistics(Dense(matrix))
    assert found.metrics["kurtosis"] == pytest.approx(fourth_moment(matrix.double().numpy()))
    assert found.metrics["dominance"] is None
    assert "compare it with its base" in found.missing["dominance"]


def test_a_zero_update_has_reasons_for_every_statistic() -> None:
    found = measure_statistics(LowRank(torch.zeros(5, 2), normal(2, 4)))
    assert {key for key, value in found.metrics.items() if value is None} == {*found.missing} > {*STATISTICS}
    assert set(found.missing.values()) == {"the update is zero"}


def test_peaks_without_a_median_say_why() -> None:
    matrix = torch.zeros(9, 6)
    matrix[3] = 1
    found = measure_statistics(Dense(matrix))
    assert found.metrics["row_peak"] is None
    assert "zero" in found.missing["row_peak"]
    assert found.metrics["column_peak"] == 1


# --- laws ---


@pytest.mark.parametrize("factor", [1e-100, -3.0, 1e100])
def test_statistics_do_not_depend_on_scale(factor: float) -> None:
    update = LowRank(normal(60, 4).double(), normal(4, 50, seed=1).double())
    found, scaled = (measure_statistics(LowRank(update.left, update.right, scale)).metrics for scale in (1.0, factor))
    norms = ("delta_norm", "delta_spectral_norm")
    assert {key: scaled[key] for key in norms} == pytest.approx({key: abs(factor) * found[key] for key in norms})
    for key in (*STATISTICS, "effective_rank", "stable_rank"):
        assert scaled[key] == pytest.approx(found[key], rel=1e-9)


def test_transposition_exchanges_rows_and_columns_and_nothing_else() -> None:
    update = LowRank(normal(60, 4), normal(4, 50, seed=1))
    found, turned = (measure_statistics(item).metrics for item in (update, update.T))
    exchange = {"row_peak": "column_peak", "column_peak": "row_peak"}
    assert {key: turned[exchange.get(key, key)] for key in found} == pytest.approx(found, rel=1e-9)


def test_rotations_change_no_statistic_of_the_spectrum() -> None:
    update = LowRank(normal(60, 4).double(), normal(4, 50, seed=1).double())
    rotated = LowRank(orthonormal(60, 60, seed=5) @ update.left, update.right @ orthonormal(50, 50, seed=6))
    found, other = (measure_statistics(item).metrics for item in (update, rotated))
    for key in ("dominance", "concentration", "spectral_entropy", "weakest_direction", "energy_rank_90"):
        assert other[key] == pytest.approx(found[key], rel=1e-9)


def test_the_same_product_by_other_factors_has_the_same_kurtosis() -> None:
    left, right, mix = normal(60, 4).double(), normal(4, 50, seed=1).double(), normal(4, 4, seed=2).double()
    found = kurtosis(LowRank(left @ mix, torch.linalg.inv(mix) @ right))
    assert found is not None
    assert found.value == pytest.approx(kurtosis(LowRank(left, right)).value, rel=1e-9)  # type: ignore[union-attr]


# --- kurtosis: three ways, one number ---


@pytest.mark.parametrize(("rank", "way"), [(2, "pairs"), (30, "entries")])
def test_the_cheaper_exact_way_is_taken(rank: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"pairs": "_of_entries", "entries": "_pair_gram"}[way]
    monkeypatch.setattr(entries, other, lambda *_: pytest.fail("the dearer way was taken"))
    update = LowRank(normal(70, rank), normal(rank, 60, seed=1))
    expected = fourth_moment(written_out(update))
    assert kurtosis(update) == Kurtosis(pytest.approx(expected))


@pytest.mark.parametrize("side", ["rows", "columns"])
def test_an_estimate_lies_within_its_error(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = torch.exp(normal(400, 1, seed=9))
    by_rows = LowRank(normal(400, 6) * heavy, normal(6, 300, seed=1))
    update = by_rows if side == "rows" else by_rows.T
    exact = fourth_moment(written_out(update))
    monkeypatch.setattr(entries, "_MOST", 0)
    found = [kurtosis(update, seed=seed) for seed in range(20)]
    misses = [abs(one.value - exact) / one.error for one in found if one and one.error]
    assert len(misses) == 20
    assert max(misses) < 5
    assert sum(miss < 2 for miss in misses) > 15
    assert all(one.error < 0.05 * exact for one in found if one and one.error)
    assert kurtosis(update, seed=3) == found[3]


def test_a_constant_has_no_kurtosis() -> None:
    assert kurtosis(Dense(torch.full((5, 4), 0.3))) is None
    assert kurtosis(LowRank(torch.full((5, 1), 0.1), torch.full((1, 4), 0.7))) is None
    found = measure_statistics(LowRank(torch.full((5, 1), 0.1), torch.full((1, 4), 0.7)))
    assert found.missing["kurtosis"].startswith("all entries of the update are equal")


def test_where_too_much_cancels_to_tell_there_is_no_kurtosis() -> None:
    left, right = normal(60_000, 1).double(), normal(1, 60_000, seed=1).double()
    halves = (
        torch.cat([left, -left, torch.full_like(left, 1e-12)], 1),
        torch.cat([right, right, torch.ones_like(right)]),
    )
    assert kurtosis(LowRank(*halves)) is None
    few = kurtosis(LowRank(halves[0][:50], halves[1][:, :40]))
    assert few is None or few.error is None


def test_of_too_many_entries_only_those_of_factors_are_told() -> None:
    found = measure_statistics(Kronecker(Dense(normal(200, 200)), Dense(normal(100, 100))))
    assert found.metrics["kurtosis"] is found.metrics["row_peak"] is None
    assert "so many entries" in found.missing["kurtosis"]
    assert found.metrics["dominance"] is not None


@pytest.mark.parametrize("name", UPDATES)
def test_norms_of_rows_and_columns(name: str) -> None:
    matrix = written_out(UPDATES[name])
    rows, columns = line_norms(UPDATES[name])
    size = np.linalg.norm(matrix)
    np.testing.assert_allclose(rows.numpy(), np.linalg.norm(matrix, axis=1), rtol=1e-7, atol=1e-7 * size)
    np.testing.assert_allclose(columns.numpy(), np.linalg.norm(matrix, axis=0), rtol=1e-7, atol=1e-7 * size)


# --- with the base: what merging loses ---

BASE = 0.02 * normal(40, 64, seed=1)
SMALL = LowRank(0.001 * normal(40, 3, seed=2), 0.1 * normal(3, 64, seed=3))


def nearest(matrix: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Each entry to the nearest of `numbers`, of two the even one: rounding by hand."""
    numbers = np.unique(numbers)
    after = np.searchsorted(numbers, matrix).clip(1, len(numbers) - 1)
    low, high = numbers[after - 1], numbers[after]
    below, above = matrix - low, high - matrix
    low_is_even = (after - 1 - len(numbers) // 2) % 2 == 0  # counted from zero, which is even
    return np.where((below < above) | ((below == above) & low_is_even), low, high)


def numbers_of(exponents: range, bits: int, subnormal: int) -> np.ndarray:
    """All numbers of a format: a sign, `bits` of fraction, exponents, and subnormal ones at the exponent given."""
    fractions = 1 + np.arange(2**bits) / 2**bits
    found = [2.0**e * fractions for e in exponents] + [2.0**subnormal * np.arange(2**bits) / 2**bits]
    positive = np.concatenate(found)
    return np.concatenate([-positive, positive])


GRIDS = {
    "bf16": numbers_of(range(-30, 4), 7, -30),
    "fp16": numbers_of(range(-14, 16), 10, -14),
    "fp8": numbers_of(range(-6, 9), 3, -6),
}
GRIDS["fp8"] = GRIDS["fp8"][abs(GRIDS["fp8"]) <= 448]  # the last pattern of e4m3fn is NaN


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_merging_loses_is_what_rounding_by_hand_loses(name: str, dtype: torch.dtype) -> None:
    base = BASE.to(dtype)
    before, delta = base.double().numpy(), written_out(SMALL)
    merged = before + delta
    unit = abs(merged).max(1, keepdims=True) / 448 if name == "fp8" else 1.0
    stored, without = (nearest(matrix / unit, GRIDS[name]) * unit for matrix in (merged, before))
    found = measure_with_base(base, SMALL).metrics
    energy = (delta**2).sum()
    assert found[f"merge_error_{name}"] == pytest.approx(
        np.sqrt(((stored - without - delta) ** 2).sum() / energy), rel=1e-3
    )
    assert found[f"merge_swallowed_{name}"] == pytest.approx((delta**2)[stored == without].sum() / energy, rel=1e-3)
    assert found["merge_overflow_fp16"] == 0
    assert found["relative_norm"] == pytest.approx(np.sqrt(energy) / np.linalg.norm(before))
    largest = [np.linalg.norm(matrix, 2) for matrix in (delta, before)]
    assert found["relative_spectral_norm"] == pytest.approx(largest[0] / largest[1])


def test_every_loss_has_its_definition() -> None:
    found = measure_with_base(BASE, SMALL)
    assert {*found.metrics} == {*WITH_BASE}
    assert {*STATISTICS, *SIGNATURE, *WITH_BASE} <= {*EXPLAINED}
    assert {*FIDELITY} < {*WITH_BASE}


def test_an_update_on_the_grid_loses_nothing() -> None:
    found = measure_with_base(torch.ones(8, 8, dtype=torch.bfloat16), Dense(torch.full((8, 8), 0.5)))
    assert found.metrics["merge_error_bf16"] == found.metrics["merge_swallowed_bf16"] == 0


def test_an_update_far_below_the_grid_is_swallowed_whole() -> None:
    found = measure_with_base(torch.ones(8, 8, dtype=torch.bfloat16), Dense(torch.full((8, 8), 1e-4)))
    assert found.metrics["merge_error_bf16"] == found.metrics["merge_swallowed_bf16"] == 1
    assert found.metrics["merge_swallowed_fp16"] == 1
    assert measure_with_base(torch.ones(8, 8), Dense(torch.full((8, 8), 1e-3))).metrics["merge_swallowed_fp16"] == 0


def test_what_overflows_is_counted_and_leaves_no_error() -> None:
    base = torch.zeros(4, 4)
    base[1, 2] = 65500.0
    update = torch.zeros(4, 4)
    update[1, 2], update[0, 0] = 20.0, 70000.0
    found = measure_with_base(base, Dense(update))
    assert found.metrics["merge_overflow_fp16"] == 2
    assert found.metrics["merge_error_fp16"] is None
    assert found.missing["merge_error_fp16"] == "the merged matrix overflows"
    assert found.metrics["merge_error_bf16"] is not None
    beyond = measure_with_base(torch.full((2, 2), 1e100, dtype=torch.float64), Dense(torch.ones(2, 2)))
    assert {key for key, value in beyond.metrics.items() if value is None} == {
        "merge_error_bf16",
        "merge_error_fp16",
        "merge_error_fp8",
    } & {*beyond.missing}


def test_a_zero_base_has_no_ratio() -> None:
    found = measure_with_base(torch.zeros(6, 5), Dense(normal(6, 5)))
    assert found.metrics["relative_norm"] is found.metrics["relative_spectral_norm"] is None
    assert found.missing["relative_norm"] == "the base is zero"


@pytest.mark.parametrize(
    ("base", "accuracy"),
    [
        (with_spectrum(1.0 / torch.arange(1, 781, dtype=torch.float64), 800, 780), 1e-5),
        (1e30 * with_spectrum(1.0 / torch.arange(1, 781, dtype=torch.float64), 800, 780), 1e-5),
        (normal(1000, 800, dtype=torch.bfloat16), 2e-3),
        (torch.ones(800, 780), 1e-5),
    ],
    ids=["decaying", "large", "noise", "one direction"],
)
def test_the_largest_value_of_a_large_base_comes_from_below(base: Tensor, accuracy: float) -> None:
    expected = np.linalg.norm(base.double().numpy(), 2)
    assert (1 - accuracy) * expected <= largest_value(Dense(base)) <= (1 + 1e-5) * expected
