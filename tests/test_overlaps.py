"""Laws of the certified overlaps: what they enclose is what a float64 SVD finds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.decisions import Cosines, Tally, decisions
from benchmarks.families import Pair, pairs
from benchmarks.plain import oracle
from tests.matrices import iterative, orthonormal, shaped, with_spectrum
from wanalyze.errors import NumericsError
from wanalyze.operators import Dense, LowRank, Sum
from wanalyze.spectra.certificate import Base, Certificate, Pairs
from wanalyze.spectra.comparison import Overlaps
from wanalyze.spectra.overlaps import GRID, overlaps
from wanalyze.spectra.prepared import arrays_of, prepare, restore, shapes_of
from wanalyze.spectra.values import spectra

K = 2  # blocks of eight: small matrices have room for several


def found(base: Tensor, tuned: Tensor, k: int = K) -> tuple[Overlaps, Overlaps]:
    ready = prepare([Dense(base)], min(k + 6, *base.shape))
    return overlaps([Dense(tuned)], spectra([Dense(tuned)]), ready, k=k)[0]


def assert_meets(one: Overlaps, other: Overlaps) -> None:
    """Two enclosures of the same number have a point in common."""
    assert (torch.maximum(one.low, other.low) <= torch.minimum(one.high, other.high) + 1e-9).all()


# --- over the families of the benchmarks, the adversarial ones included ---


def tally(pair: Pair, k: int = 10) -> Tally:
    k = min(k, int(torch.linalg.matrix_rank(pair.tuned)))
    truth = oracle(pair.base, pair.tuned, k)
    sides = zip(found(pair.base, pair.tuned, k), (truth.left, truth.right), strict=True)
    return sum((decisions(Cosines(ours.low, ours.high, ours.alone), true, GRID) for ours, true in sides), Tally())


@pytest.mark.parametrize("way", ["whole", "iterative"])
def test_no_decision_is_wrong_and_none_is_left_open(way: str) -> None:
    with iterative(on=way == "iterative"):
        total = sum((tally(pair) for pair in pairs("256")), Tally())
    assert total.right >= 8000
    assert (total.wrong, total.violations, total.unfounded, total.undecided) == (0, 0, 0, 0)


# --- on planted spectra ---

values = st.one_of(
    st.lists(st.floats(0.01, 10), min_size=96, max_size=96).map(lambda v: sorted(v, reverse=True)),
    st.floats(0.2, 2).map(lambda a: [j**-a for j in range(1, 97)]),
    st.integers(1, 5).map(lambda d: [3.0] * d + [1 / j for j in range(1, 97 - d)]),
    st.integers(4, 60).map(lambda r: [1 / j for j in range(1, r + 1)] + [0.0] * (96 - r)),
)
shapes = st.sampled_from([(96, 96), (160, 96), (96, 160)])
sizes = st.sampled_from([0.0, 1e-3, 0.1, 1.0])


@st.composite
def planted(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """W0 with a planted spectrum and W1 = W0 + a rank-2 update, or noise, of a size relative to σ₁."""
    (m, n), seed = draw(shapes), draw(st.integers(0, 50))
    base = with_spectrum(torch.tensor(draw(values), dtype=torch.float64), m, n, seed=seed)
    if draw(st.booleans()):
        update = orthonormal(m, 2, seed=seed + 7) @ orthonormal(n, 2, seed=seed + 8).mT
    else:
        update = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / n**0.5
    return base, base + draw(sizes) * torch.linalg.matrix_norm(base, 2) * update


def enclosed(base: Tensor, tuned: Tensor) -> None:
    k = min(K, int(torch.linalg.matrix_rank(tuned, rtol=1e-6)))
    truth = oracle(base, tuned, k)
    for ours, true in zip(found(base, tuned), (truth.left, truth.right), strict=True):
        assert ((ours.low <= true.high + 1e-7) & (ours.high >= true.low - 1e-7)).all()
        assert (ours.low <= ours.high).all()


@given(planted())
@settings(max_examples=40, deadline=None)
def test_enclosures_hold_lapacks_cosines(pair: tuple[Tensor, Tensor]) -> None:
    with iterative():
        enclosed(*pair)


@given(planted(), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_rotations_change_nothing(pair: tuple[Tensor, Tensor], seed: int) -> None:
    base, tuned = pair
    left, right = (orthonormal(size, size, seed=seed + size) for size in base.shape)
    with iterative():
        for one, other in zip(found(base, tuned), found(left @ base @ right, left @ tuned @ right), strict=True):
            if one.alone.all() and other.alone.all():
                assert_meets(one, other)


@given(planted(), st.integers(-40, 40))
@settings(max_examples=15, deadline=None)
def test_the_scale_changes_nothing(pair: tuple[Tensor, Tensor], power: int) -> None:
    base, tuned = pair
    with iterative():
        for one, other in zip(found(base, tuned), found(base * 2.0**power, tuned * 2.0**power), strict=True):
            assert_meets(one, other)


@given(planted())
@settings(max_examples=15, deadline=None)
def test_transposition_swaps_the_sides(pair: tuple[Tensor, Tensor]) -> None:
    base, tuned = pair
    with iterative():
        for one, other in zip(found(base, tuned), reversed(found(base.mT, tuned.mT)), strict=True):
            assert_meets(one, other)


@pytest.mark.parametrize("way", ["whole", "iterative"])
@pytest.mark.parametrize("shape", [(128, 128), (128, 96), (96, 128)])
def test_the_base_matches_itself(way: str, shape: tuple[int, int]) -> None:
    base = shaped("power law", *shape)
    with iterative(on=way == "iterative"):
        for side in found(base, base.clone(), 4):
            assert (side.low > 1 - 1e-5).all()
            assert side.matched.tolist() == [0, 1, 2, 3]


def test_a_batch_is_a_loop() -> None:
    bases = [Dense(shaped(name, 128, 96)) for name in ("flat", "power law", "deficient")]
    noise = 0.05 * shaped("flat", 128, 96).flip(0)
    tuned = [Dense(base.matrix + noise) for base in bases]
    with iterative():
        together = overlaps(tuned, spectra(tuned), prepare(bases, 8), k=K)
        for sides, base, other in zip(together, bases, tuned, strict=True):
            for one, alone in zip(sides, found(base.matrix, other.matrix), strict=True):
                assert torch.allclose(one.low, alone.low, atol=1e-9)
                assert torch.allclose(one.high, alone.high, atol=1e-9)
                assert torch.equal(one.matched, alone.matched)


def test_an_adapter_needs_no_merged_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    base = shaped("power law", 128, 128)
    update = LowRank(3 * orthonormal(128, 4, seed=1), orthonormal(128, 4, seed=2).mT.contiguous(), 0.5)
    with iterative():
        merged = found(base, base + update.dense())
        monkeypatch.setattr(Sum, "dense", None)
        whole = Sum(Dense(base), update)
        unmerged = overlaps([whole], spectra([whole]), prepare([Dense(base)], 8), k=K)[0]
    for one, other in zip(unmerged, merged, strict=True):
        assert torch.allclose(one.low, other.low, atol=1e-6)
        assert torch.allclose(one.high, other.high, atol=1e-6)


def test_the_values_of_the_tuned_can_be_left_out() -> None:
    base, tuned = shaped("power law", 160, 160), shaped("power law", 160, 160) + 0.1 * shaped("flat", 160, 160).flip(1)
    with iterative():
        without = overlaps([Dense(tuned)], None, prepare([Dense(base)], 8), k=K)[0]
        for one, other in zip(without, found(base, tuned), strict=True):
            assert_meets(one, other)


def test_what_is_restored_is_what_was_prepared() -> None:
    base, tuned = shaped("power law", 128, 96), shaped("power law", 128, 96) + 0.1 * shaped("flat", 128, 96).flip(1)
    with iterative():
        ready = prepare([Dense(base)], 8)[0]
        arrays = arrays_of(ready)
        assert {name: tuple(array.shape) for name, array in arrays.items()} == shapes_of((128, 96), 8)
        again = restore(Dense(base), arrays, torch.device("cpu"), torch.float64)
        for one, other in zip(
            *(overlaps([Dense(tuned)], spectra([Dense(tuned)]), [found], k=K)[0] for found in (ready, again)),
            strict=True,
        ):
            assert torch.equal(one.low, other.low)
            assert torch.equal(one.high, other.high)


# --- multiplicities ---


@pytest.mark.parametrize("way", ["whole", "iterative"])
def test_a_multiple_value_of_the_base_encloses_every_basis(way: str) -> None:
    spectrum = torch.tensor([3.0, 2.0, 2.0, 2.0, *(1 / j for j in range(1, 93))], dtype=torch.float64)
    left, right = orthonormal(110, 96, seed=1), orthonormal(97, 96, seed=2)
    base = (left * spectrum) @ right.mT
    inside = torch.nn.functional.normalize(left[:, 1:4] @ torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), dim=0)
    tuned = 50 * torch.outer(inside, orthonormal(97, 1, seed=5)[:, 0])
    with iterative(on=way == "iterative"):
        ours, _ = found(base, tuned, 1)
    assert ours.high[0] == pytest.approx(1.0)
    assert ours.low[0] == pytest.approx(1 / math.sqrt(3), abs=1e-6)
    assert ours.matched[0] == -1


@pytest.mark.parametrize("way", ["whole", "iterative"])
def test_unseparated_vectors_of_the_tuned_have_only_a_subspace(way: str) -> None:
    spectrum = torch.tensor([2.0, 2.0, 1.0, *(0.5 / j for j in range(1, 94))], dtype=torch.float64)
    tuned, base = with_spectrum(spectrum, 96, 96, seed=3), shaped("power law", 96, 96)
    with iterative(on=way == "iterative"):
        ours, _ = found(base, tuned, 3)
    assert ours.group.tolist() == [0, 0, 1]
    assert ours.alone.tolist() == [False, False, True]
    assert ours.low[:2].tolist() == [0.0, 0.0]
    u1, u0 = torch.linalg.svd(tuned)[0][:, :2], torch.linalg.svd(base)[0]
    assert ours.high[0] >= torch.linalg.vector_norm(u1.mT @ u0, dim=0).max() - 1e-9
    assert ours.low[2] > 0


# --- the self-check ---


def test_bounds_that_cross_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def crossed(self: Certificate, pairs: Pairs) -> None:
        self.low[:], self.high[:] = 0.6, 0.5

    monkeypatch.setattr(Certificate, "learn", crossed)
    base = shaped("power law", 40, 30)
    with pytest.raises(NumericsError, match="above its upper bound"):
        found(base, base + 0.1 * shaped("flat", 40, 30))


def test_a_certificate_knows_nothing_at_first_and_all_from_all_vectors() -> None:
    base = shaped("power law", 30, 30)
    u, s, _ = torch.linalg.svd(base)
    direction = orthonormal(30, 1, seed=4)
    certificate = Certificate(Base.of(spectra([Dense(base)])[0], (30, 30)), 1, torch.finfo(torch.float64).eps)
    assert certificate.low.max() == 0
    assert certificate.high.min() == 1
    certificate.learn(Pairs((u.mT @ direction).abs(), s, torch.full_like(s, 1e-14)))
    cosine = (u.mT @ direction).abs().mT
    assert torch.allclose(certificate.low, cosine, atol=1e-9)
    assert torch.allclose(certificate.high, cosine, atol=1e-9)


# --- what a review broke ---


def steep_with_intruders(m: int, n: int, decades: float) -> tuple[Tensor, Tensor]:
    """W0 over many decades and W1 with its top vectors leaning on weak ones of W0."""
    base = with_spectrum(10 ** (-decades * torch.arange(n, dtype=torch.float64) / n), m, n, seed=3)
    u, _, vh = torch.linalg.svd(base, full_matrices=False)
    update = torch.zeros_like(base)
    for i, j in enumerate((n // 60, n // 12, n // 4)):
        left = u[:, j] + 0.3 * orthonormal(m, 1, seed=i)[:, 0]
        update += (1.5 - 0.2 * i) * torch.outer(left, vh[j] + 0.3 * orthonormal(n, 1, seed=9 + i)[:, 0])
    return base, base + update


@pytest.mark.parametrize("decades", [2, 4, 6])
@pytest.mark.parametrize("shape", [(240, 240), (300, 240)])
def test_errors_of_small_values_do_not_make_a_bound_too_tight(shape: tuple[int, int], decades: float) -> None:
    with iterative():
        enclosed(*steep_with_intruders(*shape, decades))


@pytest.mark.parametrize("last", [2e-8, 5e-8, 9e-8, 3e-7])
def test_a_value_in_the_null_space_claims_no_vector(last: float) -> None:
    spectrum = torch.linspace(1, 0.5, 100, dtype=torch.float64)
    spectrum[-1] = last
    u, v = orthonormal(100, 100, seed=1), orthonormal(100, 100, seed=2)
    base = (u * spectrum) @ v.mT
    tuned = base + 10 * torch.outer(u[:, 98] + u[:, 99], v[:, 98] + v[:, 99])
    enclosed(base, tuned)
    with iterative():
        enclosed(base, tuned)


@pytest.mark.parametrize("last", [1e-4, 1e-6, 3e-7])
def test_the_long_side_knows_the_error_of_its_values(last: float) -> None:
    spectrum = torch.linspace(2, 1, 120, dtype=torch.float64)
    spectrum[-1] = 2 * last
    u, v = orthonormal(120, 120, seed=1), orthonormal(120, 120, seed=2)
    base = (u * spectrum) @ v.mT
    with iterative():
        enclosed(base, base + 20 * torch.outer(u[:, 3], 0.3 * v[:, 5] + 0.954 * v[:, 119]))


def test_an_exact_shift_is_no_crash() -> None:
    base = torch.diag(torch.arange(200.0, 0, -1, dtype=torch.float64))
    direction = torch.eye(200, dtype=torch.float64)[:, 70] + 0.02 * orthonormal(200, 1, seed=2)[:, 0]
    with iterative():
        enclosed(base, base + 1000 * torch.outer(direction, direction))


def test_a_subspace_cut_off_by_a_partial_spectrum_is_not_taken_for_whole() -> None:
    base, tuned = shaped("power law", 120, 120), orthonormal(120, 120, seed=4)
    with iterative():
        for side in overlaps([Dense(tuned)], None, prepare([Dense(base)], 8), k=K)[0]:
            assert not side.alone.any()
            assert side.high.tolist() == [1.0, 1.0]


def test_many_directions_take_the_short_way() -> None:
    base, tuned = shaped("flat", 400, 400), shaped("flat", 400, 400) + 0.1 * shaped("power law", 400, 400).flip(1)
    with iterative():
        k = 200
        truth = oracle(base, tuned, k)
        for ours, true in zip(found(base, tuned, k), (truth.left, truth.right), strict=True):
            assert ((ours.low <= true.high + 1e-7) & (ours.high >= true.low - 1e-7)).all()
