"""audit: every planted fault is found under its code, sound adapters pass, and the exit code says which is which."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from importlib import resources
from pathlib import Path

import jsonschema
import peft
import pytest

import wanalyze
from tests.bad_inputs import SAFETENSORS
from tests.conftest import FIXTURES, Run
from tests.peft_oracle import make
from tests.planted import CLEAN, PLANTED, Planted, base, factors, kohya, with_fields, with_file, write
from wanalyze.auditing import RULES, Audit, Audited, Severity, Verdict, json_schema
from wanalyze.auditing.rules.bases import BASES
from wanalyze.auditing.rules.config import CONFIG
from wanalyze.auditing.rules.files import FILES
from wanalyze.auditing.rules.provenance import PROVENANCE
from wanalyze.auditing.rules.servers import SERVER_RULES
from wanalyze.auditing.rules.tensors import TENSORS
from wanalyze.auditing.rules.values import VALUES
from wanalyze.errors import ExitCode


def audited(folder: Path, **options: object) -> Audited:
    [adapter] = wanalyze.audit(folder, **options).adapters  # type: ignore[arg-type]
    return adapter


def codes(adapter: Audited) -> Counter[str]:
    return Counter(finding.code for finding in adapter.findings)


def prepared(planted: Planted, folder: Path) -> dict[str, object]:
    """The options that a planted adapter is audited with."""
    planted.make(folder / "adapter")
    options: dict[str, object] = {"base": base(folder)} if planted.with_base else {}
    if planted.policy:
        (folder / "policy.toml").write_text(planted.policy)
        options["policy"] = folder / "policy.toml"
    return options


@pytest.mark.parametrize("planted", PLANTED, ids=[f"{i} {planted.code}" for i, planted in enumerate(PLANTED)])
def test_every_planted_fault_is_found_under_its_code(planted: Planted, tmp_path: Path) -> None:
    found = audited(tmp_path / "adapter", **prepared(planted, tmp_path))
    assert found.verdict is not Verdict.unreadable, found.reason
    hits = [finding for finding in found.findings if finding.code == planted.code]
    assert hits, codes(found)
    assert any(planted.says in hit.message for hit in hits), [hit.message for hit in hits]
    assert found.verdict is (Verdict.failed if _worst(found) is Severity.error else Verdict.passed)


def _worst(found: Audited) -> Severity:
    return max((finding.severity for finding in found.findings), key=list(Severity).index, default=Severity.info)


def test_every_rule_on_structure_and_servers_is_planted() -> None:
    assert len(PLANTED) >= 40
    families = (FILES, CONFIG, PROVENANCE, TENSORS, VALUES, BASES, SERVER_RULES)
    takes_two = {"same-weights"}
    assert {planted.code for planted in PLANTED} | takes_two == {rule.code for family in families for rule in family}


# kohya's is for another sort of base.
@pytest.mark.parametrize(
    ("kind", "with_base"),
    [(kind, given) for kind in CLEAN for given in (False, True) if not (given and kind == "kohya")],
)
def test_sound_adapters_have_nothing_above_info(kind: str, with_base: bool, tmp_path: Path) -> None:
    folder = CLEAN[kind](tmp_path / "adapter")
    found = audited(folder, base=base(tmp_path) if with_base else None)
    assert [finding for finding in found.findings if finding.severity is not Severity.info] == []
    assert found.verdict is Verdict.passed


@pytest.mark.parametrize("name", ["lora-r1", "lora-r8", "lora-r64", "rslora-r64"])
def test_the_trained_adapters_pass(name: str) -> None:
    found = audited(FIXTURES / name, base=FIXTURES / "base")
    assert [finding for finding in found.findings if finding.severity is not Severity.info] == []


@pytest.mark.parametrize("name", [name for name in SAFETENSORS if not name.startswith(("18", "25 "))])
def test_what_cannot_be_read_is_unreadable_and_never_passed_or_failed(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    SAFETENSORS[name].make(tmp_path).rename(folder / "adapter_model.safetensors")
    found = audited(folder)
    assert found.verdict is Verdict.unreadable
    assert found.reason
    assert SAFETENSORS[name].says in found.reason
    assert str(tmp_path) not in found.reason


@pytest.mark.parametrize("text", ["", "[]", "{", '{"r": 1, "r": 2}', '{"r": NaN}', '{"a":' * 5000], ids=range(6))
def test_a_config_that_is_no_strict_json_is_unreadable(text: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(text)
    assert audited(folder).verdict is Verdict.unreadable


def test_what_lies_around_unreadable_weights_is_still_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "evil.py").write_text("")
    found = audited(folder)
    assert found.verdict is Verdict.unreadable
    assert codes(found)["code-file"] == 1


def test_exit_codes(cli: Run, tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad")
    with_fields(r=0)(tmp_path / "broken")
    (bad / "adapter_model.safetensors").write_bytes(b"")
    assert cli("audit", good).code == ExitCode.done
    assert cli("audit", tmp_path / "broken").code == ExitCode.policy_failed
    assert cli("audit", bad).code == ExitCode.unreadable
    assert cli("audit", good, tmp_path / "broken", bad).code == ExitCode.unreadable
    assert cli("audit").code == ExitCode.unreadable
    assert cli("audit", good, "--policy", tmp_path / "nothing.toml").code == ExitCode.unreadable
    assert cli("audit", good, "--base", tmp_path / "nothing").code == ExitCode.unreadable
    assert cli("audit", FIXTURES / "base").code == ExitCode.unreadable


def test_a_folder_counts_as_the_adapters_in_it_and_one_bad_file_stops_no_other(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / "many" / name)
    (tmp_path / "many" / "b" / "adapter_model.safetensors").write_bytes(b"no")
    (tmp_path / "many" / "notes").mkdir()
    found = wanalyze.audit(tmp_path / "many", write(tmp_path / "d"))
    assert [adapter.verdict.value for adapter in found.adapters] == ["passed", "unreadable", "passed", "passed"]
    assert found.verdict is Verdict.unreadable


def test_no_adapter_at_any_depth_of_a_folder_is_passed_over(cli: Run, tmp_path: Path) -> None:
    many = tmp_path / "many"
    for name in ("a", "team/b", "team/deep/er/c", "a/checkpoint-9"):
        write(many / name)
    (many / "training_args.bin").write_bytes(b"x")
    kohya(many / "style")
    (many / "a" / "checkpoint-9" / "optimizer.pt").write_bytes(b"x")
    (many / "a" / "state").mkdir()
    (many / "a" / "state" / "optimizer.pt").write_bytes(b"x")
    (many / "linked").symlink_to(write(tmp_path / "elsewhere"))
    (many / "circle").symlink_to(many / "team")
    verdicts = {Path(each.ref).relative_to("many"): each.verdict.value for each in wanalyze.audit(many).adapters}
    passed = ("a", "style", "team/b", "team/deep/er/c", "a/checkpoint-9", "linked")
    assert verdicts == {
        **{Path(name): "passed" for name in passed},
        **{Path(name): "unreadable" for name in (".", "circle")},
    }
    assert cli("audit", many).code == ExitCode.unreadable


def test_what_lies_too_deep_is_unreadable_and_never_passed(cli: Run, tmp_path: Path) -> None:
    write(tmp_path / "many" / "a")
    write(tmp_path / "many" / "/".join("bcdefghij"))
    assert cli("audit", tmp_path / "many").code == ExitCode.unreadable


def test_a_folder_that_cannot_be_listed_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "many" / "a")
    for number in range(9):
        write(tmp_path / "many" / "b" / str(number))
    monkeypatch.setattr("wanalyze.checkpoints.folders._MOST_NAMES", 5)
    found = wanalyze.audit(tmp_path / "many")
    assert [adapter.verdict.value for adapter in found.adapters] == ["passed", "unreadable"]


def test_the_same_weights_under_two_names_are_told(tmp_path: Path) -> None:
    write(tmp_path / "many" / "a")
    write(tmp_path / "many" / "b", lora_alpha=8)
    write(tmp_path / "many" / "c", factors(seed=7))
    first, second, third = wanalyze.audit(tmp_path / "many").adapters
    [finding] = [finding for finding in second.findings if finding.severity is not Severity.info]
    assert finding.code == "same-weights"
    assert first.ref in finding.message
    assert codes(first)["same-weights"] == codes(third)["same-weights"] == 0


def test_updates_that_were_not_measured_are_told(tmp_path: Path) -> None:
    folder = CLEAN["DoRA"](tmp_path / "adapter")
    told = [each for each in audited(folder).unchecked if "6 of 6 updates were not measured" in each.reason]
    assert [("idle-adapter" in each.rules, "not-finite" in each.rules) for each in told] == [(True, False)]
    assert not any("updates" in each.reason for each in audited(folder, base=base(tmp_path)).unchecked)


def test_without_the_base_what_was_not_checked_is_said(tmp_path: Path) -> None:
    reasons = {code: each.reason for each in audited(write(tmp_path / "a")).unchecked for code in each.rules}
    assert "no base was given" in reasons["module-not-in-base"]
    given = {code for each in audited(tmp_path / "a", base=base(tmp_path)).unchecked for code in each.rules}
    assert "module-not-in-base" not in given


def test_the_json_is_valid_and_equal_every_time(cli: Run, tmp_path: Path) -> None:
    schema = json.loads(resources.files("wanalyze").joinpath("auditing/schema.json").read_text())
    assert schema == json_schema()
    write(tmp_path / "many" / "good")
    with_fields(r=0)(tmp_path / "many" / "broken")
    texts = [cli("audit", tmp_path / "many", "--base", base(tmp_path), "--format", "json").out for _ in range(2)]
    assert texts[0] == texts[1]
    jsonschema.validate(json.loads(texts[0]), schema)
    assert Audit.model_validate_json(texts[0]).to_json() == texts[0]
    assert str(tmp_path) not in texts[0]


def test_what_was_read_is_hashed_and_what_was_listed_is_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    found = {file.name: file.sha256 for file in audited(folder).files}
    read = ("adapter_config.json", "adapter_model.safetensors")
    assert found == {**{name: sha256((folder / name).read_bytes()).hexdigest() for name in read}, "README.md": None}


def test_a_baseline_leaves_what_is_new(cli: Run, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with_fields(target_modules=["q_proj"])(folder)
    old = tmp_path / "old.json"
    assert cli("audit", folder, "-o", old, "-q").code == ExitCode.policy_failed
    again = cli("audit", folder, "--baseline", old)
    assert again.code == ExitCode.done
    assert "known from the baseline" in again.out
    (folder / "evil.py").write_text("")
    new = wanalyze.audit(folder, baseline=old).adapters[0]
    assert codes(new) == {"code-file": 1}
    assert new.known > 0
    assert new.verdict is Verdict.failed


def test_a_baseline_hides_nothing_that_weighs_more_than_it_did(cli: Run, tmp_path: Path) -> None:
    folder, old = tmp_path / "adapter", tmp_path / "old.json"
    with_file("training_args.bin")(folder)
    assert cli("audit", folder, "-q", "-o", old).code == ExitCode.done
    assert cli("audit", folder, "-q", "--policy", "strict").code == ExitCode.policy_failed
    assert cli("audit", folder, "-q", "--policy", "strict", "--baseline", old).code == ExitCode.policy_failed
    assert cli("audit", folder, "-q", "--baseline", old).code == ExitCode.done


def test_a_baseline_never_makes_the_unreadable_pass(cli: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    old = tmp_path / "old.json"
    cli("audit", folder, "-o", old)
    assert cli("audit", folder, "--baseline", old).code == ExitCode.unreadable


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "wanalyze.result/1"}', "[" * 5000])
def test_a_baseline_that_is_none_is_refused(text: str, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    done = cli("audit", write(tmp_path / "a"), "--baseline", tmp_path / "old.json")
    assert done.code == ExitCode.unreadable
    assert "is no audit" in done.err


@pytest.mark.parametrize("code", sorted(RULES))
def test_every_rule_is_explained(code: str, cli: Run) -> None:
    done = cli("explain", code)
    assert done.code == 0
    assert RULES[code].definition in done.out
    assert RULES[code].caveat in done.out
    assert RULES[code].source


T = ["up", "down", "middle"]
BY_PEFT = {
    "LoRA with biases": peft.LoraConfig(target_modules=T, r=4, bias="all"),
    "LoRA with a bias beside B": peft.LoraConfig(target_modules=T, r=4, lora_bias=True),
    "LoRA of an embedding": peft.LoraConfig(target_modules=["tokens", "up"], r=4),
    "LoRA of convolutions": peft.LoraConfig(target_modules=["line", "plane", "point"], r=2),
    "LoRA of attention": peft.LoraConfig(target_modules=["attention"], r=2),
    "LoRA of tokens": peft.LoraConfig(target_modules=T, r=4, trainable_token_indices={"tokens": [1, 3]}),
    "AdaLoRA": peft.AdaLoraConfig(target_modules=T, init_r=4, target_r=4, total_step=10),
    "LoHa": peft.LoHaConfig(target_modules=T, r=2),
    "VeRA": peft.VeraConfig(target_modules=["middle"], r=4),
    "OFT": peft.OFTConfig(target_modules=T, oft_block_size=4),
    "LN tuning": peft.LNTuningConfig(target_modules=["norm"]),
    "FourierFT": peft.FourierFTConfig(target_modules=["up"], n_frequency=10),
}


@pytest.mark.parametrize("kind", BY_PEFT)
def test_what_peft_saves_has_nothing_above_info(kind: str, tmp_path: Path) -> None:
    made = make(tmp_path / "adapter", BY_PEFT[kind], merge=False)
    path = made.folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_mapping": None, "base_model_name_or_path": f"org/{made.base.name}"}))
    for given in (None, made.base):
        found = audited(made.folder, base=given)
        assert [finding for finding in found.findings if finding.severity is not Severity.info] == []
        assert found.verdict is Verdict.passed


def test_the_cause_is_told_once_and_silencing_it_never_makes_the_adapter_pass(tmp_path: Path) -> None:
    with_fields(r="8")(tmp_path / "adapter")
    found = audited(tmp_path / "adapter")
    assert codes(found)["bad-field"] == 1
    assert codes(found)["not-understood"] == 0
    assert {row.outcome for row in found.servers} == {"unknown"}
    (tmp_path / "policy.toml").write_text('[severity]\nbad-field = "info"')
    again = audited(tmp_path / "adapter", policy=tmp_path / "policy.toml")
    assert codes(again)["not-understood"] == 1
    assert again.verdict is Verdict.failed
