"""What stands out in a run, on runs where that is known."""

from __future__ import annotations

from pathlib import Path

import torch

import wanalyze
from tests.conftest import Run, normal, save_checkpoint
from wanalyze import terminal
from wanalyze.result import Result, Status


def layers(sizes: list[float], dtype: torch.dtype = torch.float32) -> tuple[dict[str, torch.Tensor], ...]:
    """A base of one kind of matrix, and a tuned model whose layers moved by these sizes."""
    base = {f"layers.{i}.mlp.up_proj.weight": normal(24, 16, seed=i).to(dtype) for i in range(len(sizes))}
    tuned = {
        name: (weight.double() + size * normal(24, 16, seed=90 + i, dtype=torch.float64)).to(dtype)
        for i, ((name, weight), size) in enumerate(zip(base.items(), sizes, strict=True))
    }
    return base, tuned


def compared(folder: Path, sizes: list[float], dtype: torch.dtype = torch.float32) -> Result:
    base, tuned = (
        save_checkpoint(folder / name, part) for name, part in zip(("base", "tuned"), layers(sizes, dtype), strict=True)
    )
    return wanalyze.compare(base, tuned, output=folder / "run", cache=False)


def summary_of(result: Result) -> str:
    return " ".join(terminal.summary(result, None).split())


def test_a_matrix_that_moved_far_is_named_with_its_limit(tmp_path: Path, cli: Run) -> None:
    result = compared(tmp_path, [0.01, 0.012, 0.5, 0.009, 0.011])
    [finding] = result.findings
    assert (finding.code, finding.severity, finding.module) == ("moved-far", "warning", "layers.2.mlp.up_proj")
    norms = {module.name: module.metric("relative_norm") or 0.0 for module in result.modules}
    assert finding.value == norms["layers.2.mlp.up_proj"]
    assert finding.limit == 8 * sorted(norms.values())[2]
    assert "moved-far" in cli("report", tmp_path / "run").out
    assert "moved-far tuned layers.2.mlp.up_proj" in summary_of(result)


def test_a_factor_below_the_limit_and_too_few_to_compare_say_nothing(tmp_path: Path) -> None:
    assert not compared(tmp_path / "near", [0.01, 0.012, 0.06, 0.009, 0.011]).findings
    assert not compared(tmp_path / "few", [0.01, 0.5, 0.012]).findings


def test_unchanged_matrices_do_not_make_the_others_stand_out(tmp_path: Path) -> None:
    result = compared(tmp_path, [0.0, 0.0, 0.0, 0.01, 0.012, 0.011, 0.009])
    assert sum(module.status is Status.unchanged for module in result.modules) == 3
    assert not result.findings


def test_what_rounding_explains_is_said_once_for_a_model(tmp_path: Path) -> None:
    result = compared(tmp_path, [1e-3] * 4, torch.bfloat16)
    told = [module for module in result.modules if module.metric("signal_rank") == 0]
    [finding] = [finding for finding in result.findings if finding.code == "rounding-only"]
    assert told
    assert (finding.severity, finding.module, finding.value) == ("info", None, len(told))
    assert not [
        f for f in compared(tmp_path / "large", [0.1] * 4, torch.bfloat16).findings if f.code == "rounding-only"
    ]
