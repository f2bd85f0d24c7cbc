"""Rules on the shape of updates: each fires on what was planted for it, and informs only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import wanalyze
from tests.conftest import FIXTURES, Run, normal, save_adapter, save_checkpoint
from wanalyze.auditing import RULES, Finding
from wanalyze.auditing.peers import FEWEST, robust_scores
from wanalyze.auditing.rules.fidelity import FIDELITY_RULES
from wanalyze.auditing.rules.weights import WEIGHTS
from wanalyze.metrics import ALONE, INTRUDERS

LAYERS = 12
RANK = 8
MODULE = "model.layers.{}.mlp.up_proj"


def factors(layer: int, *, values: Tensor | None = None, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """B (40, r) and A (r, 32) of one layer; of flat spectrum unless `values` say otherwise."""
    left, right = (torch.linalg.qr(normal(side, rank, seed=2 * layer + i))[0] for i, side in enumerate((40, 32)))
    return left * (torch.ones(rank) if values is None else values), right.mT


def written(folder: Path, layers: dict[int, tuple[Tensor, Tensor]]) -> Path:
    tensors = {}
    for layer in range(LAYERS):
        left, right = layers.get(layer, factors(layer))
        tensors[f"base_model.model.{MODULE.format(layer)}.lora_B.weight"] = left
        tensors[f"base_model.model.{MODULE.format(layer)}.lora_A.weight"] = right
    rank = next(iter(layers.values()))[1].shape[0] if layers else RANK
    return save_adapter(folder, tensors, r=rank, lora_alpha=rank, target_modules=["up_proj"])


def found(path: Path, base: Path | None = None, policy: Path | None = None) -> dict[str, Finding]:
    [adapter] = wanalyze.audit(path, base=base, policy=policy).adapters
    ours = {rule.code for rule in (*WEIGHTS, *FIDELITY_RULES)}
    return {finding.code: finding for finding in adapter.findings if finding.code in ours}


def test_a_plain_adapter_has_no_finding(tmp_path: Path) -> None:
    assert found(written(tmp_path / "plain", {})) == {}


@pytest.mark.parametrize("layer", [0, 7])
def test_a_module_unlike_its_peers_is_found(layer: int, tmp_path: Path) -> None:
    left, right = factors(layer)
    finding = found(written(tmp_path / "odd", {layer: (3 * left, right)}))["outlier-module"]
    assert finding.module == MODULE.format(layer)
    assert finding.value is not None
    assert finding.value >= 14 == finding.limit


def test_too_few_peers_are_no_measure(tmp_path: Path) -> None:
    tensors = {}
    for layer in range(FEWEST - 1):
        left, right = factors(layer)
        size = 100 if layer == 3 else 1
        tensors[f"base_model.model.{MODULE.format(layer)}.lora_B.weight"] = size * left
        tensors[f"base_model.model.{MODULE.format(layer)}.lora_A.weight"] = right
    assert "outlier-module" not in found(save_adapter(tmp_path / "few", tensors, r=RANK, target_modules=["up_proj"]))


def test_a_rank_that_is_not_used_is_found(tmp_path: Path) -> None:
    values = torch.tensor([1.0] + [0.01] * (RANK - 1))
    finding = found(written(tmp_path / "flat", {4: factors(4, values=values)}))["rank-collapsed"]
    assert (finding.module, finding.value) == (MODULE.format(4), 1 / RANK)
    assert finding.message.startswith(f"1 of {LAYERS} up_proj")


def test_an_update_of_one_direction_is_found_unless_it_promised_no_more(tmp_path: Path) -> None:
    values = torch.tensor([1.0] + [0.05] * (RANK - 1))
    assert found(written(tmp_path / "one", {4: factors(4, values=values)}))["one-direction"].module == MODULE.format(4)
    rank_one = {layer: factors(layer, rank=1) for layer in range(LAYERS)}
    assert "one-direction" not in found(written(tmp_path / "promised", rank_one))


@pytest.mark.parametrize("side", ["row", "column"])
def test_a_line_that_stands_out_is_found(side: str, tmp_path: Path) -> None:
    left, right = factors(5)
    if side == "row":
        left[3] *= 300
    else:
        right[:, 3] *= 300
    assert found(written(tmp_path / "line", {5: (left, right)}))["extreme-lines"].module == MODULE.format(5)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tensors = {f"{MODULE.format(layer)}.weight": normal(40, 32, seed=layer + 50) for layer in range(LAYERS)}
    return save_checkpoint(tmp_path / "base", tensors)


def test_an_update_as_strong_as_its_base_is_found(base: Path, tmp_path: Path) -> None:
    left, right = factors(2)
    path = written(tmp_path / "strong", {2: (30 * left, right)})
    finding = found(path, base)["large-update"]
    weight = normal(40, 32, seed=52).double()
    ratio = torch.linalg.matrix_norm(30 * (left @ right).double(), 2) / torch.linalg.matrix_norm(weight, 2)
    assert finding.value == pytest.approx(float(ratio), rel=1e-5)
    assert "large-update" not in found(path)


def test_what_merging_drowns_is_found_by_format(base: Path, tmp_path: Path) -> None:
    weak = {layer: (factors(layer)[0] * 0.02, factors(layer)[1]) for layer in range(LAYERS)}
    findings = found(written(tmp_path / "weak", weak), base)
    assert {"merge-error-bf16", "merge-error-fp8"} <= {*findings}
    assert "merge-error-fp16" not in findings
    assert f"{LAYERS} of {LAYERS} updates" in findings["merge-error-bf16"].message
    assert findings["merge-error-bf16"].severity.value == "info"


def test_overflow_in_fp16_is_a_warning_where_it_happens(base: Path, tmp_path: Path) -> None:
    left, right = factors(2)
    finding = found(written(tmp_path / "huge", {2: (1e6 * left, right)}), base)["merge-overflow-fp16"]
    assert (finding.severity.value, finding.module) == ("warning", MODULE.format(2))


def test_without_a_base_what_merging_loses_is_null_with_the_reason(tmp_path: Path) -> None:
    [adapter] = wanalyze.audit(written(tmp_path / "plain", {})).adapters
    assert adapter.modules[0].metrics["merge_error_bf16"] is None
    assert adapter.modules[0].missing["merge_error_bf16"] == "no base at hand to measure it against"
    unchecked = {code: item.reason for item in adapter.unchecked for code in item.rules}
    assert unchecked["merge-error-bf16"] == "no base was given (--base)"


def test_intruders_are_those_of_compare_and_counted_only_when_asked_for() -> None:
    [adapter] = wanalyze.audit(FIXTURES / "lora-r8", base=FIXTURES / "base", intruders=True).adapters
    compared = {module.name: module for module in wanalyze.compare(FIXTURES / "base", FIXTURES / "lora-r8").modules}
    for change in adapter.modules:
        assert {key: change.metrics[key] for key in INTRUDERS} == {
            key: compared[change.name].metrics[key] for key in INTRUDERS
        }
    assert "intruders" in {finding.code for finding in adapter.findings}
    [quick] = wanalyze.audit(FIXTURES / "lora-r8", base=FIXTURES / "base").adapters
    assert "intruders_left" not in quick.modules[0].metrics
    [reason] = [item.reason for item in quick.unchecked if "intruders" in item.rules]
    assert "--intruders" in reason


def test_the_numbers_agree_with_those_of_compare() -> None:
    [adapter] = wanalyze.audit(FIXTURES / "lora-r64", base=FIXTURES / "base").adapters
    compared = {module.name: module for module in wanalyze.compare(FIXTURES / "base", FIXTURES / "lora-r64").modules}
    shared = ("relative_norm", "relative_spectral_norm", "energy_rank_90", "energy_rank_99", *ALONE)
    for change in adapter.modules:
        for key in shared:
            assert change.metrics[key] == pytest.approx(compared[change.name].metrics[key], rel=1e-7)


def test_the_terminal_shows_numbers_without_a_verdict(cli: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "plain", {})
    assert "kurt." not in cli("audit", path, "-q").out + cli("audit", path).out
    shown = cli("audit", path, "--statistics").out
    [row] = [line.split() for line in shown.splitlines() if line.startswith("up_proj")]
    assert row[:4] == ["up_proj", str(LAYERS), "2.83", "1.00"]  # eight directions of one size: √8 and 1
    (tmp_path / "bank.json").write_text(wanalyze.build_bank(written(tmp_path / "other", {0: factors(40)})).to_json())
    shown = cli("audit", path, "--statistics", "--bank", tmp_path / "bank.json").out
    assert "among 1 adapter of the same recipe in the bank" in shown
    assert "safe" not in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", ["lora-r1", "lora-r8", "lora-r64", "rslora-r64"])
def test_trained_adapters_have_nothing_above_info(name: str) -> None:
    findings = found(FIXTURES / name, FIXTURES / "base")
    assert {finding.severity.value for finding in findings.values()} <= {"info"}


def test_a_limit_of_the_policy_counts(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[limits]\none-direction = 0.1\n")
    assert "one-direction" in found(written(tmp_path / "plain", {}), policy=policy)


def test_rules_claim_nothing_and_say_what_such_tests_are_worth() -> None:
    for rule in (*WEIGHTS, *FIDELITY_RULES):
        assert RULES[rule.code] is rule
        assert rule.severity is not None
        assert rule.severity.value == "info" or rule.code == "merge-overflow-fp16"
    told = [rule for rule in WEIGHTS if rule.code not in ("large-update", "intruders")]
    assert all("never safe or backdoored" in rule.caveat for rule in told)


def test_robust_scores_do_not_move_with_the_outlier() -> None:
    plain = [float(x) for x in range(20)]
    assert robust_scores([*plain, 1e6])[:20] == pytest.approx(robust_scores([*plain, 1e9])[:20])
    assert robust_scores([1.0] * 9) == [0.0] * 9
    shifted = robust_scores([3 * x + 5 for x in plain])
    assert shifted == pytest.approx(robust_scores(plain))
