"""Batches, devices, precision and the cache of the base: they change how fast a run is, not what it says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

import wanalyze
from tests.conftest import Run, lora_factors, normal, save_adapter, save_checkpoint
from tests.matrices import iterative
from wanalyze.engine import batches
from wanalyze.engine.batches import batch_size
from wanalyze.measure import Base
from wanalyze.result import Result, Status

run_module = sys.modules["wanalyze.engine.run"]  # the package gives its name to the function


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base of five matrices in two shapes, a full fine-tune of it and an adapter."""
    names = {f"model.layers.{i}.mlp.up_proj.weight": (96, 64) for i in range(3)}
    names |= {f"model.layers.{i}.self_attn.q_proj.weight": (64, 64) for i in range(2)}
    base = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(names.items())}
    tuned = {name: matrix + 0.1 * normal(*matrix.shape, seed=50 + i) for i, (name, matrix) in enumerate(base.items())}
    factors = lora_factors("model.layers.0.mlp.up_proj", 96, 64)
    return (
        save_checkpoint(tmp_path / "base", base),
        save_checkpoint(tmp_path / "tuned", tuned),
        save_adapter(tmp_path / "adapter", factors),
    )


def assert_same(one: Result, other: Result, *, rel: float = 1e-9) -> None:
    assert [(m.model, m.name) for m in one.modules] == [(m.model, m.name) for m in other.modules]
    for first, second in zip(one.modules, other.modules, strict=True):
        for key, value in first.metrics.items():
            expected = second.metrics[key]
            assert value == (expected if expected is None else pytest.approx(expected, rel=rel)), key
        for side in ("max_cosine_left", "max_cosine_right"):
            for a, b in zip(getattr(first, side), getattr(second, side), strict=True):
                assert a == pytest.approx(b, abs=rel)


# --- batches ---


@pytest.mark.parametrize("size", [1, 2, 64])
def test_batches_change_nothing(pair: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    base, *tuned = pair
    expected = wanalyze.compare(base, *tuned)
    monkeypatch.setattr(batches, "batch_size", lambda shape, device: size)
    assert_same(wanalyze.compare(base, *tuned), expected)


def test_equal_matrices_are_few_calls(pair: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = run_module.measure.compare
    monkeypatch.setattr(run_module.measure, "compare", lambda b, t, s: calls.append(len(b)) or original(b, t, s))
    wanalyze.compare(pair[0], pair[1])
    assert sorted(calls) == [2, 3]


def test_a_batch_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * 2**30, 140 * 2**30))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert batch_size((4096, 4096), gpu) == 57
    assert batch_size((16384, 65536), gpu) == 1
    assert batch_size((4096, 4096), cpu) == 1
    assert batch_size((8, 8), gpu) == batch_size((8, 8), cpu) == 64


def test_one_bad_matrix_of_a_batch_fails_alone(pair: tuple[Path, ...], tmp_path: Path) -> None:
    tensors = {f"layers.{i}.w.weight": normal(20, 10, seed=i) for i in range(4)}
    base = save_checkpoint(tmp_path / "b", tensors)
    bad = {name: 2 * matrix for name, matrix in tensors.items()}
    bad["layers.2.w.weight"][3, 4] = torch.nan
    result = wanalyze.compare(base, save_checkpoint(tmp_path / "t", bad))
    assert [module.status.value for module in result.modules] == ["measured", "measured", "failed", "measured"]
    assert "[3, 4]" in (result.modules[2].reason or "")


# --- out of GPU memory ---


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    ],
    ids=["torch", "cusolver"],
)
def test_out_of_memory_halves_the_batch_and_ends_on_the_cpu(
    pair: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    base, *tuned = pair
    expected = wanalyze.compare(base, *tuned)
    plan = wanalyze.plan(base, *tuned)
    pretended = replace(plan, device=torch.device("cuda"))
    monkeypatch.setattr(run_module, "_read_ahead", lambda opened, device: opened)
    monkeypatch.setattr(batches, "batch_size", lambda shape, device: 64)
    attempts: list[int] = []
    original = run_module._Bench._measure

    def starved(self: object, batch: list[object], device: torch.device, note: str | None = None) -> None:
        if note is None:
            attempts.append(len(batch))
            raise error
        original(self, batch, device, note)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module._Bench, "_measure", starved)
    result = run_module.run(pretended)
    assert attempts == [3, 1, 2, 1, 1, 2, 1, 1]
    assert_same(result, expected)
    assert all("ran out of memory" in (module.reason or "") for module in result.modules)


def test_matrices_larger_than_memory_fail_alone(pair: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    base, *tuned = pair
    expected = {(module.model, module.name): module for module in wanalyze.compare(base, *tuned).modules}
    original = run_module.measure.compare

    def starved(bases: list[Base], *rest: object) -> object:
        if any(base.matrix.shape == (64, 64) for base in bases):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return original(bases, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module.measure, "compare", starved)
    found = wanalyze.compare(base, *tuned).modules
    failed = {module.name: module.reason for module in found if module.status is Status.failed}
    reason = "needs more memory than there is; use a larger machine"
    assert failed == {f"model.layers.{i}.self_attn.q_proj": reason for i in range(2)}
    assert all(module == expected[module.model, module.name] for module in found if module.name not in failed)
    assert len(found) == len(expected)


# --- a GPU ---


def test_the_next_batch_is_read_while_one_is_worked_on() -> None:
    filled: list[str] = []

    class Matrix:
        def __init__(self, name: str) -> None:
            self.name = name

        def fill(self) -> None:
            filled.append(self.name)

    names = ["first", "second", "third"]
    for number, (matrix,) in enumerate(
        run_module._read_ahead([[Matrix(name)] for name in names], torch.device("cuda"))
    ):
        assert matrix.name == names[number]
        assert filled[: number + 1] == names[: number + 1]
    assert filled == names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_gpu_says_the_same(pair: tuple[Path, ...], precision: Literal["exact", "fast"]) -> None:
    base, *tuned = pair
    with iterative():
        on_gpu = wanalyze.compare(base, *tuned, device="cuda", precision=precision, cache=False)
        on_cpu = wanalyze.compare(base, *tuned, device="cpu", cache=False)
    for one, other in zip(on_gpu.modules, on_cpu.modules, strict=True):
        for key in ("intruders_left", "intruders_right", "merged_rank"):
            assert one.metric(key) == other.metric(key)


# --- precision ---


def test_fast_is_near_and_called_an_estimate(pair: tuple[Path, ...], cli: Run, tmp_path: Path) -> None:
    base, *tuned = pair
    with iterative():
        exact = wanalyze.compare(base, *tuned)
        fast = wanalyze.compare(base, *tuned, precision="fast")
        done = cli("compare", base, tuned[0], "-o", tmp_path / "run", "--precision", "fast")
    assert fast.settings.precision == "float32"
    for one, other in zip(fast.modules, exact.modules, strict=True):
        for key in ("effective_rank", "stable_rank", "delta_norm"):
            assert one.metric(key) == (
                None if other.metric(key) is None else pytest.approx(other.metric(key), rel=1e-3)
            )
    assert done.code == 0
    assert done.out.startswith("Estimate, ")
    assert "Estimate, " in (tmp_path / "run" / "report.html").read_text()


# --- the cache of the base ---


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, used for matrices of any size."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("WANALYZE_CACHE", str(folder))
    monkeypatch.setattr("wanalyze.engine.bases.SMALL", 0)
    return folder


def json_of(result: Result) -> str:
    return result.to_json()


def test_a_run_with_the_cache_says_the_same_to_the_byte(pair: tuple[Path, ...], kept: Path) -> None:
    base, *tuned = pair
    with iterative():
        without = wanalyze.compare(base, *tuned, cache=False)
        assert not kept.exists()
        first = wanalyze.compare(base, *tuned)
        entries = sorted(kept.glob("*.safetensors"))
        second = wanalyze.compare(base, *tuned)
    assert len(entries) == 5
    assert json_of(without) == json_of(first) == json_of(second)


def test_the_cache_saves_the_work(pair: tuple[Path, ...], kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *tuned = pair
    with iterative():
        first = wanalyze.compare(base, *tuned)
        monkeypatch.setattr("wanalyze.measure.evidence.prepare_spectra", None)
        assert json_of(wanalyze.compare(base, *tuned)) == json_of(first)


def test_a_damaged_entry_is_recomputed(pair: tuple[Path, ...], kept: Path) -> None:
    base, *tuned = pair
    with iterative():
        first = wanalyze.compare(base, *tuned)
        for entry in kept.glob("*.safetensors"):
            content = bytearray(entry.read_bytes())
            content[len(content) // 2] ^= 1
            entry.write_bytes(content)
        assert json_of(wanalyze.compare(base, *tuned)) == json_of(first)


def test_another_base_has_other_entries(pair: tuple[Path, ...], kept: Path, tmp_path: Path) -> None:
    base, tuned, _ = pair
    with iterative():
        wanalyze.compare(base, tuned)
        before = len(list(kept.glob("*.safetensors")))
        wanalyze.compare(tuned, f"t={base}")
    assert len(list(kept.glob("*.safetensors"))) == 2 * before


def test_no_cache_is_an_option_of_the_command(pair: tuple[Path, ...], kept: Path, cli: Run, tmp_path: Path) -> None:
    done = cli("compare", pair[0], pair[1], "-o", tmp_path / "run", "--no-cache")
    assert done.code == 0
    assert not kept.exists()


def test_a_wrong_cache_limit_is_explained(pair: tuple[Path, ...], cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANALYZE_CACHE_LIMIT", "much")
    done = cli("compare", pair[0], pair[1])
    assert done.code == 2
    assert "WANALYZE_CACHE_LIMIT" in done.err
    assert "much" in done.err


@pytest.mark.parametrize("size", [1e20, 1e-20])
def test_what_float32_does_not_hold_is_refused_with_its_range(tmp_path: Path, size: float) -> None:
    base = save_checkpoint(tmp_path / "b", {"w.weight": size * normal(20, 10)})
    tuned = save_checkpoint(tmp_path / "t", {"w.weight": size * normal(20, 10, seed=1)})
    (module,) = wanalyze.compare(base, tuned, precision="fast").modules
    assert module.status.value == "failed"
    assert "outside 1e-14 to 1e+14" in (module.reason or "")
    (module,) = wanalyze.compare(base, tuned).modules
    assert module.status.value == "measured"


def test_a_solver_that_fails_is_a_failed_matrix(pair: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(matrix: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", broken)
    result = wanalyze.compare(pair[0], pair[1])
    assert {module.status.value for module in result.modules} == {"failed"}
    assert "did not converge" in (result.modules[0].reason or "")
