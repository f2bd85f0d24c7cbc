"""inspect: what is in a checkpoint or an adapter, and the numbers that an update has without its base."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import wanalyze
from tests.conftest import FIXTURES, Run, lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from tests.foreign_files import of, written
from wanalyze.errors import NumericsError, PairingError, UsageError
from wanalyze.measure import measure_update
from wanalyze.metrics import ALONE
from wanalyze.operators import Dense, Kronecker, LowRank, Operator
from wanalyze.result import AdapterInventory, Change, Status

UP = "model.layers.0.mlp.up_proj"


def by_svd(matrix: Tensor) -> dict[str, float]:
    """The metrics by their definitions, from LAPACK's values."""
    values = torch.linalg.svdvals(matrix.double())
    shares = values[values > 0] / values.sum()
    found = (
        torch.linalg.vector_norm(values),
        values[0],
        torch.exp(-(shares * shares.log()).sum()),
        (values / values[0]).square().sum(),
    )
    return {key: float(value) for key, value in zip(ALONE, found, strict=True)}


def inspected(path: Path, base: Path | None = None, *, headers: bool = False) -> AdapterInventory:
    adapter = wanalyze.inspect(path, base, headers=headers).adapter
    assert adapter is not None
    return adapter


def the_only(adapter: AdapterInventory) -> Change:
    [change] = adapter.changes
    return change


@pytest.mark.parametrize(
    "update",
    [
        LowRank(normal(30, 3), normal(3, 20, seed=1), 0.5),
        LowRank(normal(3, 30), normal(30, 4, seed=1)),
        Kronecker(Dense(normal(4, 3)), Dense(normal(5, 6, seed=1)), -2.0),
        Dense(normal(30, 20)),
    ],
    ids=["low rank", "more rank than sides", "kronecker", "dense"],
)
def test_an_update_alone_has_the_values_of_its_matrix(update: Operator) -> None:
    found = measure_update(update.map(lambda factor: factor.double()))
    assert found.metrics == pytest.approx(by_svd(update.map(lambda factor: factor.double()).dense()), rel=1e-9)
    assert not found.missing


def test_of_a_large_dense_update_only_the_norm_is_measured() -> None:
    matrix = normal(800, 790)
    found = measure_update(Dense(matrix))
    assert found.metrics["delta_norm"] == pytest.approx(matrix.double().norm().item(), rel=1e-12)
    assert [key for key in ALONE if found.metrics[key] is None] == [*found.missing] == [*ALONE[1:]]
    assert all("compare it with its base" in reason for reason in found.missing.values())
    assert measure_update(Dense(torch.zeros(800, 790))).is_zero


def test_what_is_not_finite_is_said_to_be_so() -> None:
    for update in (
        Dense(torch.full((3, 3), torch.nan)),
        LowRank(torch.full((3, 1), 1e100, dtype=torch.float64), torch.full((1, 3), 1e100, dtype=torch.float64)),
    ):
        with pytest.raises(NumericsError):
            measure_update(update)


def test_a_lora_is_described_by_its_numbers(tmp_path: Path) -> None:
    factors = lora_factors(UP, 20, 16)
    change = the_only(inspected(save_adapter(tmp_path / "adapter", factors)))
    a, b = factors.values()
    assert (change.name, change.layer, change.kind) == (UP, 0, "up_proj")
    assert (change.rank, change.scale, change.shape, change.dtype) == (2, 2.0, [20, 16], "float32")
    assert change.bytes == 4 * 2 * (20 + 16)
    assert change.metrics == pytest.approx(by_svd(2.0 * b.double() @ a.double()), rel=1e-9)


def test_the_scale_shows_in_the_numbers(tmp_path: Path) -> None:
    factors = lora_factors(UP, 20, 16)
    plain = the_only(inspected(save_adapter(tmp_path / "plain", factors)))
    root = the_only(inspected(save_adapter(tmp_path / "root", factors, use_rslora=True)))
    assert (plain.scale, root.scale) == (2.0, pytest.approx(4 / 2**0.5))
    assert root.metrics["delta_norm"] == pytest.approx(2**0.5 * (plain.metrics["delta_norm"] or 0))


def test_numbers_are_those_of_compare() -> None:
    result = wanalyze.compare(FIXTURES / "base", FIXTURES / "lora-r8", cache=False)
    found = {change.name: change.metrics for change in inspected(FIXTURES / "lora-r8").changes}
    measured = [module for module in result.modules if module.status is Status.measured]
    assert found.keys() == {module.name for module in measured}
    for module in measured:
        assert found[module.name] == pytest.approx({key: module.metrics[key] for key in ALONE}, rel=1e-9)


def test_modules_that_do_nothing_are_named(cli: Run, tmp_path: Path) -> None:
    factors = {**lora_factors(UP, 20, 16), **lora_factors(UP.replace("0", "1"), 20, 16)}
    factors[f"base_model.model.{UP}.lora_B.weight"].zero_()
    path = save_adapter(tmp_path / "adapter", factors)
    idle = next(change for change in inspected(path).changes if change.name == UP)
    assert idle.status is Status.unchanged
    assert (idle.metrics["delta_norm"], idle.metrics["effective_rank"]) == (0, None)
    assert set(idle.missing) == {"effective_rank", "stable_rank"}
    [line] = [line for line in cli("inspect", path).out.splitlines() if line.startswith("does nothing")]
    assert line.split(maxsplit=2)[2] == UP


def test_what_is_saved_whole_is_listed(cli: Run, tmp_path: Path) -> None:
    head = {"base_model.model.lm_head.weight": normal(30, 16)}
    path = save_adapter(tmp_path / "adapter", {**lora_factors(UP, 20, 16), **head}, modules_to_save=["lm_head"])
    [entry] = inspected(path).saved_whole
    assert (entry.name, entry.shape) == ("lm_head.weight", [30, 16])
    assert "lm_head.weight 30 × 16" in cli("inspect", path).out


def test_an_update_that_depends_on_the_base_is_measured_with_it(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    magnitude = {f"base_model.model.{UP}.lora_magnitude_vector": normal(20).abs()}
    path = save_adapter(tmp_path / "adapter", {**lora_factors(UP, 20, 16), **magnitude}, use_dora=True)
    alone = the_only(inspected(path))
    assert (alone.status, alone.metrics) == (Status.skipped, {})
    assert "name the base" in (alone.reason or "")
    found = the_only(inspected(path, base))
    module = wanalyze.compare(base, path, only=[UP], cache=False).modules[0]
    assert found.metrics == pytest.approx({key: module.metrics[key] for key in ALONE}, rel=1e-9)


def test_with_a_base_updates_go_by_its_names(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "unet", {"down.0.proj_in.weight": normal(6, 4), "other.weight": normal(6, 4)})
    tensors = of("lora_unet_down_0_proj_in", up=normal(6, 2, seed=1), down=normal(2, 4, seed=2))
    path = written(tmp_path / "kohya.safetensors", tensors)
    assert the_only(inspected(path, base)).name == "down.0.proj_in"
    assert the_only(inspected(path)).status is Status.measured


def test_what_the_base_has_in_parts_is_measured_in_parts(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", {f"l.0.mlp.{part}_proj.weight": normal(5, 3) for part in ("gate", "up")})
    (base / "config.json").write_text('{"model_type": "llama"}')
    factors = lora_factors("l.0.mlp.gate_up_proj", 10, 3)
    a, b = (tensor.double() for tensor in factors.values())
    changes = inspected(save_adapter(tmp_path / "adapter", factors), base).changes
    assert {change.name: change.metrics["delta_norm"] for change in changes} == {
        "l.0.mlp.gate_proj": pytest.approx((2 * b[:5] @ a).norm().item(), rel=1e-6),
        "l.0.mlp.up_proj": pytest.approx((2 * b[5:] @ a).norm().item(), rel=1e-6),
    }


def test_what_the_base_lacks_is_said_to_be_missing(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    path = save_adapter(tmp_path / "adapter", {**lora_factors(UP, 20, 16), **lora_factors("gone.proj", 20, 16)})
    lost = next(change for change in inspected(path, base).changes if change.name == "gone.proj")
    assert (lost.status, lost.reason) == (Status.skipped, "missing in base")
    with pytest.raises(PairingError, match="is this its base"):
        wanalyze.inspect(save_adapter(tmp_path / "other", lora_factors("gone.proj", 20, 16)), base)


def test_experts_of_a_stack_and_vectors_have_names_of_their_own() -> None:
    # Layouts and numbers of stacks are the subject of test_lora_experts; here, only how they are called.
    from wanalyze.adapters import Update
    from wanalyze.inspection.updates import name_of

    def update(**which: object) -> Update:
        return Update("mlp.experts", {}, lambda parts, base: Dense(normal(2, 2)), (2, 2), **which)  # type: ignore[arg-type]

    assert name_of(update(parameter="gate_up_proj", index=3)) == "mlp.experts.gate_up_proj[3]"
    assert name_of(update(replica=5)) == "mlp.experts[5]"
    assert name_of(update()) == "mlp.experts"


def test_headers_are_enough(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanalyze.checkpoints.checkpoint.TensorEntry.read", lambda self: pytest.fail("read"))
    assert "model.layers.1.mlp.down_proj.weight" in cli("inspect", FIXTURES / "base").out
    found = json.loads(cli("inspect", FIXTURES / "lora-r8", "--headers", "--format", "json").out)
    assert {change["status"] for change in found["adapter"]["changes"]} == {"skipped"}
    assert {file["name"]: file["sha256"] for file in found["files"]} == {
        "adapter_model.safetensors": None,
        "adapter_config.json": None,
    }


def test_json_and_csv_hold_every_module(cli: Run) -> None:
    found = json.loads(cli("inspect", FIXTURES / "lora-r8", "--format", "json").out)
    assert found["schema"] == "wanalyze.inventory/1"
    assert found["adapter"]["method"] == "LoRA r=8"
    assert found["adapter"]["facts"]["scales"] == {"2.0": 42}
    assert len(found["tensors"]) == 84
    rows = [*csv.DictReader(cli("inspect", FIXTURES / "lora-r8", "--format", "csv").out.splitlines())]
    for row, change in zip(rows, found["adapter"]["changes"], strict=True):
        assert row["name"] == change["name"]
        assert {key: float(row[key]) for key in ALONE} == change["metrics"]
    listed = [*csv.DictReader(cli("inspect", FIXTURES / "base", "--format", "csv").out.splitlines())]
    assert {row["name"] for row in listed} == wanalyze.open_checkpoint(FIXTURES / "base").entries.keys()


def test_the_files_of_an_adapter_are_hashed() -> None:
    names = ("adapter_config.json", "adapter_model.safetensors")
    found = {file.name: file.sha256 for file in wanalyze.inspect(FIXTURES / "lora-r8").files}
    assert found == {name: sha256((FIXTURES / "lora-r8" / name).read_bytes()).hexdigest() for name in names}


def test_the_table_has_a_row_for_each_kind(cli: Run) -> None:
    rows = cli("inspect", FIXTURES / "lora-r8").out.partition("kind       modules")[2].splitlines()[1:8]
    assert [row.split()[:2] for row in rows] == [
        *([kind, "6"] for kind in ("down_proj", "gate_proj", "up_proj", "k_proj", "o_proj", "q_proj", "v_proj"))
    ]


def test_a_failed_module_is_code_3_and_does_not_stop_the_others(cli: Run, tmp_path: Path) -> None:
    factors = {**lora_factors(UP, 20, 16), **lora_factors(UP.replace("0", "1"), 20, 16)}
    factors[f"base_model.model.{UP}.lora_A.weight"][0, 0] = torch.inf
    done = cli("inspect", save_adapter(tmp_path / "adapter", factors))
    assert done.code == 3
    assert "1 × a factor of the update holds inf at [0, 0]" in done.out
    assert " 2.00 " in done.out


def test_a_checkpoint_has_no_base(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compare it with its base"):
        wanalyze.inspect(FIXTURES / "full", FIXTURES / "base")


def test_names_of_strangers_are_inert(cli: Run, tmp_path: Path) -> None:
    path = save_adapter(
        tmp_path / "adapter", lora_factors("a.\x1b[31mq", 20, 16), base_model_name_or_path="\x1b]0;x\x07"
    )
    for arguments in ((), ("--format", "csv"), ("--format", "json")):
        done = cli("inspect", path, *arguments)
        assert done.code == 0
        if arguments != ("--format", "csv"):
            assert "\x1b" not in done.out
    save_file({"=1+1.weight": normal(2, 2)}, tmp_path / "x.safetensors")
    assert "'=1+1.weight" in cli("inspect", tmp_path / "x.safetensors", "--format", "csv").out
