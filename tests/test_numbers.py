"""The numbers of the trained checkpoints, against numpy's SVD and the definitions written out again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.conftest import COMPARED, FIXTURES
from wanalyze.measure import COMPUTE
from wanalyze.metrics import METRICS
from wanalyze.result import Module, Result, Status

EXACT = 1e-6


def tensors(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).to(torch.float64).numpy() for name in file.keys()}  # noqa: SIM118
    return found


def tuned_weights(label: str, base: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    stored = tensors(FIXTURES / label)
    config = FIXTURES / label / "adapter_config.json"
    if not config.exists():
        return stored
    fields = json.loads(config.read_text())
    divisor = math.sqrt(fields["r"]) if fields["use_rslora"] else fields["r"]
    weights = dict(base)
    for name, a in stored.items():
        if ".lora_A." in name:
            target = name.replace("base_model.model.", "").replace(".lora_A", "")
            b = stored[name.replace("lora_A", "lora_B")]
            weights[target] = base[target] + fields["lora_alpha"] / divisor * (b @ a)
    return weights


def entropy_rank(p: np.ndarray) -> float:
    p = p[p > 0] / p.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def energy_rank(s: np.ndarray, share: float) -> int:
    return int(np.argmax(np.cumsum(s**2) >= share * np.sum(s**2))) + 1


def by_definition(
    w0: np.ndarray, w1: np.ndarray, signal_rank: float | None
) -> tuple[dict[str, float | None], list[np.ndarray]]:
    """Every metric of design section 2 from three full SVDs; the max cosines of both sides.

    `signal_rank` is as measured, None for an adapter.
    """
    delta = w1 - w0
    u0, s0, v0 = np.linalg.svd(w0, full_matrices=False)
    u1, s1, v1 = np.linalg.svd(w1, full_matrices=False)
    ud, s, vd = np.linalg.svd(delta, full_matrices=False)
    cosines = [np.abs(u0.T @ u1[:, :10]).max(0), np.abs(v0 @ v1[:10].T).max(0)]
    intruders = [c < 0.5 for c in cosines]
    top = s1[:10] ** 2
    rows0, rows1 = np.linalg.norm(w0, axis=1), np.linalg.norm(w1, axis=1)
    eps = 2.0**-52 if signal_rank is None else 2.0**-7
    r = min(10, int((s > 1e-12 * s[0]).sum() if signal_rank is None else signal_rank))
    tolerance = max(w0.shape) * eps
    return (
        {
            "base_norm": np.linalg.norm(w0),
            "delta_norm": np.linalg.norm(delta),
            "relative_norm": np.linalg.norm(delta) / np.linalg.norm(w0),
            "delta_spectral_norm": s[0],
            "relative_spectral_norm": s[0] / s0[0],
            "effective_rank": entropy_rank(s),
            "effective_rank_energy": entropy_rank(s**2),
            "stable_rank": np.sum(s**2) / s[0] ** 2,
            "participation_ratio": np.sum(s**2) ** 2 / np.sum(s**4),
            **{f"energy_rank_{share}": energy_rank(s, share / 100) for share in (50, 90, 95, 99)},
            "numerical_rank": int((s > tolerance * s[0]).sum()) if tolerance < 1 else None,
            **dict.fromkeys(("noise_edge", "signal_rank", "merged_rank", "merged_sharpness"), ANY),  # test_rounding.py
            "changed_fraction": np.mean(w1 != w0),
            "intruders_left": int(intruders[0].sum()),
            "intruders_right": int(intruders[1].sum()),
            "intruder_energy_left": top[intruders[0]].sum() / top.sum(),
            "intruder_energy_right": top[intruders[1]].sum() / top.sum(),
            "magnitude_change": np.mean(np.abs(rows1 - rows0)),
            "direction_change": np.mean(1 - np.sum(w1 * w0, axis=1) / (rows0 * rows1)),
            "amplification": np.linalg.norm(delta) / np.linalg.norm(ud[:, :r].T @ w0 @ vd[:r].T) if r else None,
        },
        cosines,
    )


@pytest.mark.parametrize("label", COMPARED)
def test_every_number_is_its_definition(trained: Result, label: str) -> None:
    base = tensors(FIXTURES / "base")
    tuned = tuned_weights(label, base)
    own = [module for module in trained.modules if module.model == label]
    assert len(own) == sum(weight.ndim == 2 for weight in base.values())
    for module in own:
        w0, w1 = base[f"{module.name}.weight"], tuned[f"{module.name}.weight"]
        if np.array_equal(w0, w1):
            assert module.status is Status.unchanged
            assert module.metric("delta_norm") == 0
            continue
        expected, cosines = by_definition(w0, w1, module.metric("signal_rank"))
        assert module.status is Status.measured
        assert module.metrics.keys() == expected.keys()
        for key, value in expected.items():
            assert module.metrics[key] == (pytest.approx(value, rel=EXACT) if isinstance(value, float) else value), (
                module.name,
                key,
            )
        for found, cosine in zip((module.max_cosine_left, module.max_cosine_right), cosines, strict=True):
            assert np.allclose([low for low, _ in found], cosine, rtol=EXACT, atol=1e-8)
            assert np.allclose([high for _, high in found], cosine, rtol=EXACT, atol=1e-8)


def test_every_null_has_its_reason(trained: Result) -> None:
    for module in trained.modules:
        assert module.missing.keys() == {key for key, value in module.metrics.items() if value is None}
        assert all(module.missing.values())


def test_every_metric_is_defined_and_computed() -> None:
    assert COMPUTE.keys() == METRICS.keys()


def test_the_published_effect_shows_on_the_trained_checkpoints(trained: Result) -> None:
    found = {model.label: model.summary for model in trained.models}
    assert found["full"].matrices_with_intruders_left == 0
    assert found["lora-r8"].matrices_with_intruders_left > found["lora-r8"].measured / 2
    assert found["lora-r64"].matrices_with_intruders_left < 5
    ranks = [found[label].median_effective_rank or 0 for label in ("lora-r8", "lora-r64", "full")]
    assert ranks == sorted(ranks)


def test_frozen_layers_are_seen(trained: Result) -> None:
    frozen = [module for module in trained.modules if module.model == "half-frozen"]
    assert {module.layer for module in frozen if module.status is Status.unchanged} == {0, 1, 2, None}
    assert {module.layer for module in frozen if module.status is Status.measured} == {3, 4, 5, None}


def test_the_arrays_hold_what_the_metrics_come_from(trained: Result) -> None:
    module = next(m for m in trained.modules if m.model == "full" and m.name.endswith("1.mlp.down_proj"))
    values = trained.arrays[f"full/{module.name}/update_values"]
    assert entropy_rank(values) == pytest.approx(module.metric("effective_rank"))
    pairs = trained.arrays[f"full/{module.name}/max_cosine_left"]
    assert pairs.tolist() == [list(pair) for pair in module.max_cosine_left]
    assert len(trained.arrays[f"base/{module.name}/values"]) == min(module.shape)


def test_a_merged_adapter_equals_the_adapter_up_to_rounding() -> None:
    import wanalyze

    result = wanalyze.compare(FIXTURES / "base", FIXTURES / "lora-r8", FIXTURES / "lora-r8-merged")
    pairs: dict[str, dict[str, Module]] = {}
    for module in result.modules:
        pairs.setdefault(module.name, {})[module.model] = module
    for name, found in pairs.items():
        if found["lora-r8"].status is Status.measured:
            one, other = found["lora-r8"].metric("relative_norm"), found["lora-r8-merged"].metric("relative_norm")
            assert one == pytest.approx(other, rel=1e-3), name
            assert found["lora-r8"].metric("intruders_left") == found["lora-r8-merged"].metric("intruders_left")


def test_the_readme_of_the_fixtures_states_the_recorded_losses() -> None:
    text = (FIXTURES / "README.md").read_text()
    for run in json.loads((FIXTURES / "training.json").read_text())["runs"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{run['label']}`"))
        for key in ("code_loss", "prose_loss"):
            assert f"{run[key]:.3f}" in row
        assert str(run["steps"]) in row
