"""A bank of trusted adapters: how it is made, read from strangers, and what a number is worth beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wanalyze
from tests.conftest import Run, lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from wanalyze.auditing import Bank, read_bank
from wanalyze.auditing.bank import BANKED, BankAdapter, Recipe
from wanalyze.auditing.standing import Standings, stand, wilson
from wanalyze.errors import AdapterError, UsageError
from wanalyze.result import File, Tool

MODULES = [f"model.layers.{layer}.{name}" for layer in range(3) for name in ("mlp.up_proj", "mlp.down_proj")]


def adapter(folder: Path, seed: int, *, rank: int = 2, base: str = "org/base", size: float = 1.0) -> Path:
    tensors = {}
    for i, module in enumerate(MODULES):
        out, inp = (20, 16) if "up" in module else (16, 20)
        tensors |= lora_factors(module, out, inp, rank=rank, seed=100 * seed + 7 * i)
    tensors = {name: size * tensor if "lora_B" in name else tensor for name, tensor in tensors.items()}
    return save_adapter(folder, tensors, r=rank, base_model_name_or_path=base)


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    for seed in range(5):
        adapter(tmp_path / "trusted" / f"a{seed}", seed)
    return tmp_path / "trusted"


@pytest.fixture
def bank(trusted: Path, tmp_path: Path) -> Path:
    file = tmp_path / "bank.json"
    file.write_text(wanalyze.build_bank(trusted).to_json())
    return file


def standings(path: Path, bank: Path) -> Standings:
    [found] = wanalyze.audit(path, bank=bank).adapters
    assert found.bank is not None
    return found.bank


def test_a_bank_holds_the_numbers_of_every_adapter_with_where_they_came_from(bank: Path, trusted: Path) -> None:
    found = read_bank(bank)
    assert [item.ref for item in found.adapters] == [f"a{seed}" for seed in range(5)]
    first = found.adapters[0]
    assert first.recipe == Recipe(base="org/base", method="LoRA r=2", ranks=[2], kinds=["down_proj", "up_proj"])
    assert (
        [file.sha256 for file in first.files]
        == [file.sha256 for file in wanalyze.inspect(trusted / "a0").files[:1]]
        != [None]
    )
    for kind, by_key in first.statistics.items():
        changes = [change for change in wanalyze.audit(trusted / "a0").adapters[0].modules if change.kind == kind]
        assert {*by_key} == {*BANKED}
        for key, values in by_key.items():
            assert values == sorted(change.metrics[key] for change in changes)


def test_the_same_adapters_make_the_same_bytes(bank: Path, trusted: Path) -> None:
    again = wanalyze.build_bank(*reversed([*trusted.iterdir()])).to_json()
    assert again == bank.read_text() == read_bank(bank).to_json()
    assert str(trusted) not in again


def test_percentiles_are_those_of_the_medians_and_extremes_over_layers(bank: Path, tmp_path: Path) -> None:
    found = standings(adapter(tmp_path / "new", 9), bank)
    assert (found.adapters, found.matched, found.note) == (5, True, None)
    reduce: dict[str, Callable[[Any], float]] = {"smallest": min, "median": np.median, "largest": max}
    assert len(found.standings) == 2 * len(BANKED) * 3
    trusted_ones = read_bank(bank).adapters
    for item in found.standings:
        known = np.array([reduce[item.over](one.statistics[item.kind][item.statistic]) for one in trusted_ones])
        middle = (np.mean(known < item.value) + np.mean(known <= item.value)) / 2
        assert item.percentile == pytest.approx(100 * middle, abs=0.01)
        assert 0 <= item.low <= item.percentile <= item.high <= 100
    assert found.expected == pytest.approx(len(found.standings) * 2 / 6)
    assert found.outside == sum(item.percentile in (0, 100) for item in found.standings)


def test_an_adapter_is_not_held_against_itself(bank: Path, trusted: Path) -> None:
    found = standings(trusted / "a2", bank)
    assert found.adapters == 4
    assert found.note == "the adapter itself is in the bank, and was left out"


@pytest.mark.parametrize(
    ("change", "field"), [({"rank": 4}, "method, ranks"), ({"base": "org/other"}, "base")], ids=["rank", "base"]
)
def test_another_recipe_is_said(change: dict[str, Any], field: str, bank: Path, tmp_path: Path) -> None:
    found = standings(adapter(tmp_path / "new", 9, **change), bank)
    assert not found.matched
    assert found.adapters == 5
    assert (found.note or "").endswith(f"the nearest differs in {field}")


def test_a_bank_without_the_recipe_is_a_rule_unchecked(bank: Path, tmp_path: Path) -> None:
    for rank, is_checked in ((2, True), (4, False)):
        folder = adapter(tmp_path / f"r{rank}", 9, rank=rank)
        [found] = wanalyze.audit(folder, bank=bank).adapters
        assert ("outside-bank" in {code for each in found.unchecked for code in each.rules}) is not is_checked


def test_only_adapters_of_the_recipe_are_held_against(trusted: Path, tmp_path: Path) -> None:
    for seed in range(5, 8):
        adapter(trusted / f"a{seed}", seed, rank=4)
    file = tmp_path / "mixed.json"
    file.write_text(wanalyze.build_bank(trusted).to_json())
    assert standings(adapter(tmp_path / "new", 9, rank=4), file).adapters == 3


def test_what_the_bank_does_not_hold_has_no_standing(bank: Path, tmp_path: Path) -> None:
    other = save_adapter(tmp_path / "new", lora_factors("model.layers.0.self_attn.q_proj", 12, 16))
    found = standings(other, bank)
    assert (found.standings, found.outside, found.expected) == ([], 0, 0)


def test_numbers_far_outside_are_one_finding_without_a_verdict(bank: Path, tmp_path: Path) -> None:
    [found] = wanalyze.audit(adapter(tmp_path / "new", 9, size=50), bank=bank).adapters
    codes = {finding.code: finding for finding in found.findings}
    assert "outside-bank" not in codes  # of five adapters, a third of all numbers is outside by chance
    lenient = tmp_path / "policy.toml"
    lenient.write_text("[limits]\noutside-bank = 0.5\n")
    [found] = wanalyze.audit(tmp_path / "new", bank=bank, policy=lenient).adapters
    [finding] = [finding for finding in found.findings if finding.code == "outside-bank"]
    assert finding.severity.value == "info"
    assert found.bank is not None
    assert finding.value == pytest.approx(found.bank.outside / found.bank.expected)


def test_without_a_bank_nothing_is_judged(tmp_path: Path) -> None:
    [found] = wanalyze.audit(adapter(tmp_path / "new", 9)).adapters
    assert found.bank is None
    [reason] = [item.reason for item in found.unchecked if "outside-bank" in item.rules]
    assert reason == "no reference bank was given (--bank)"


# --- what a percentile is worth ---


def test_as_many_numbers_lie_outside_as_is_expected() -> None:
    """Adapters that are drawn alike: the rate of numbers beyond all of n is 2 / (n + 1)."""
    n, trials = 9, 400
    draws = normal(trials, n + 1, 5, seed=4).double().sort(-1).values.tolist()
    recipe = Recipe(base="b", method="m", ranks=[2], kinds=["q"])
    rates = []
    for first, *others in draws:
        entries = [
            BankAdapter(
                ref=str(i),
                files=[File(name="w", size=1, sha256=f"{i:064x}")],
                recipe=recipe,
                statistics={"q": {"kurtosis": values}},
            )
            for i, values in enumerate(others)
        ]
        known = Bank(schema="wanalyze.bank/1", tool=Tool(version="0"), adapters=entries)
        found = stand({"q": {"kurtosis": first}}, recipe, frozenset(), known)
        assert found.expected == pytest.approx(3 * 2 / (n + 1))
        rates.append(found.outside)
    assert np.mean(rates) == pytest.approx(3 * 2 / (n + 1), abs=0.1)


@pytest.mark.parametrize(("share", "n"), [(0.3, 10), (0.5, 1), (0.9, 200)])
def test_the_interval_ends_where_the_share_is_just_credible(share: float, n: int) -> None:
    for end in wilson(share, n):
        assert abs(share - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n))


# --- files of strangers ---


def broken(bank: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    given = json.loads(bank.read_text())
    change(given)
    bank.write_text(json.dumps(given))
    return bank


def kind_of(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = given["adapters"][0]["statistics"]["up_proj"]
    return found


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (lambda given: given.update(schema="wanalyze.bank/2"), "'wanalyze.bank/1' is needed"),
    "no schema": (lambda given: given.pop("schema"), "'wanalyze.bank/1' is needed"),
    "a key too many": (lambda given: given.update(more=1), "more: Extra inputs"),
    "no adapters": (lambda given: given.update(adapters=[]), "adapters: List should have at least 1"),
    "adapters no list": (lambda given: given.update(adapters={"a": 1}), "adapters: Input should be a valid list"),
    "values out of order": (lambda given: kind_of(given)["kurtosis"].reverse(), "not in ascending order"),
    "no values": (lambda given: kind_of(given).update(kurtosis=[]), "at least 1 item"),
    "text for a number": (lambda given: kind_of(given).update(kurtosis=["1"]), "valid number"),
    "a huge integer": (lambda given: kind_of(given).update(kurtosis=[10**400]), "number"),
    "truth for a number": (lambda given: kind_of(given).update(kurtosis=[True]), "valid number"),
    "an adapter twice": (lambda given: given["adapters"].append(given["adapters"][0]), "in the bank twice"),
    "no hash": (lambda given: given["adapters"][0]["files"][0].update(sha256=None), "has no hash"),
    "no files": (lambda given: given["adapters"][0].update(files=[]), "at least 1 item"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bank_that_is_not_right_is_refused_by_what_is_wrong(name: str, bank: Path) -> None:
    change, words = HOSTILE[name]
    with pytest.raises(UsageError, match=words) as caught:
        read_bank(broken(bank, change))
    assert str(bank) in str(caught.value)
    assert "wanalyze bank build" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema": "wanalyze.bank/1", "schema": 1}',
        '{"a": NaN}',
        '{"a": 1e999}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bank.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match=r"bank\.json"):
        read_bank(file)


def test_a_bank_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "bank.json"
    with file.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(UsageError, match="more than the 67108864"):
        read_bank(file)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "a folder"])
def test_what_is_no_file_is_refused(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "bank.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_bank(tmp_path / "bank.json")


# --- making one ---


def test_the_same_file_twice_is_refused(trusted: Path) -> None:
    with pytest.raises(UsageError, match=r"is the same file as .*name each adapter once"):
        wanalyze.build_bank(trusted, trusted / "a0")


def test_what_cannot_be_measured_in_full_stays_out(trusted: Path, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "base", tiny_base())
    with pytest.raises(AdapterError, match="is a checkpoint"):
        wanalyze.build_bank(checkpoint)
    broken = lora_factors(MODULES[0], 20, 16)
    broken[f"base_model.model.{MODULES[0]}.lora_A.weight"][0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"up_proj was not measured: .*leave this adapter out"):
        wanalyze.build_bank(trusted, save_adapter(tmp_path / "nan", broken))


def test_the_command_writes_the_bank_and_audit_takes_it(cli: Run, trusted: Path, tmp_path: Path) -> None:
    done = cli("bank", "build", trusted, "-o", tmp_path / "bank.json", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    audited = cli("audit", trusted / "a0", "--bank", tmp_path / "bank.json", "--format", "json", "-q")
    assert json.loads(audited.out)["adapters"][0]["bank"]["adapters"] == 4
    assert cli("audit", trusted / "a0", "--bank", tmp_path / "none.json", "-q").code == 2
    assert "no such" not in cli("bank", "build", trusted, "-o", tmp_path / "no" / "bank.json").out
    assert cli("bank", "build", trusted, "-o", tmp_path / "no" / "bank.json", "-q").code == 2
    assert cli("bank", "build", "-o", tmp_path / "bank.json").code == 2
