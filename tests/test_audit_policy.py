"""Policies: strict, with a hint for what is misspelt, and every rule's origin told."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest

import wanalyze
from tests.conftest import Run, lora_factors
from tests.planted import base, with_fields, with_file, write
from wanalyze.auditing import RULES, Severity, Verdict, effective_policy, policy_text
from wanalyze.auditing.policy import PRESETS
from wanalyze.errors import ExitCode, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def policy(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fail_onn = 'error'", "did you mean 'fail_on'"),
        ("fail_on = 'fatal'", "fail_on"),
        ("preset = 'strikt'", "did you mean 'strict'"),
        ("servers = ['vlm']", "did you mean 'vllm'"),
        ("servers = 'vllm'", "servers"),
        ("[severity]\ncode-fle = 'error'", "did you mean 'code-file'"),
        ("[severity]\ncode-file = 'fatal'", "severity.code-file"),
        ("[limits]\ncode-file = 3", "no rule with a limit"),
        ("[limits]\nvllm-rank = 'many'", "limits.vllm-rank"),
        ("[limits]\nvllm-rank = nan", "limits.vllm-rank"),
        ("base_sha256 = ['abc']", "base_sha256"),
        ("fail_on =", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
    ],
)
def test_a_wrong_policy_is_refused_with_a_hint(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        effective_policy(str(policy(tmp_path, text)))


def test_no_such_policy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'strict'"):
        effective_policy("strct")
    with pytest.raises(UsageError, match="cannot be read"):
        effective_policy(str(tmp_path))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_shown_policy_is_a_policy_that_says_the_same(preset: str, tmp_path: Path) -> None:
    shown = effective_policy(preset)
    text = policy_text(shown)
    assert tomllib.loads(text)["severity"].keys() == RULES.keys()
    again = effective_policy(str(policy(tmp_path, text)))
    assert [(r.code, r.severity, r.limit) for r in again.rules] == [(r.code, r.severity, r.limit) for r in shown.rules]
    assert (again.fail_on, again.servers) == (shown.fail_on, shown.servers)


def test_a_shown_policy_names_the_origin_of_every_rule(cli: Run, tmp_path: Path) -> None:
    path = policy(tmp_path, "preset = 'strict'\n[severity]\nspike = 'off'\n[limits]\nvllm-rank = 64\n")
    lines = cli("audit", "--show-policy", "--policy", path).out.splitlines()
    assert 'spike = "off"  # policy.toml' in lines
    assert "vllm-rank = 64  # policy.toml" in lines
    assert 'pickle-file = "error"  # strict' in lines
    assert 'code-file = "error"  # rule' in lines


def test_severity_off_silences_and_a_limit_moves(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with_file("evil.py")(folder)
    assert wanalyze.audit(folder).verdict is Verdict.failed
    off = policy(tmp_path, "[severity]\ncode-file = 'off'")
    assert wanalyze.audit(folder, policy=off).verdict is Verdict.passed
    strange = with_fields(lora_alpha=200)
    strange(tmp_path / "scaled")
    for limit, found in ((64, True), (128, False)):
        given = policy(tmp_path, f"[limits]\nscale-extreme = {limit}")
        [adapter] = wanalyze.audit(tmp_path / "scaled", policy=given).adapters
        assert ("scale-extreme" in {finding.code for finding in adapter.findings}) is found


def test_a_named_server_decides_and_the_others_inform(tmp_path: Path) -> None:
    with_fields(use_rslora=True)(tmp_path / "adapter")
    severities = {
        name: {
            found.code: found.severity
            for found in wanalyze.audit(tmp_path / "adapter", policy=given).adapters[0].findings
        }
        for name, given in (
            ("vllm", policy(tmp_path, "servers = ['vllm']")),
            ("sglang", policy(tmp_path / "adapter", "servers = ['sglang']")),
        )
    }
    assert severities["vllm"]["sglang-scale"] is Severity.info
    assert severities["sglang"]["sglang-scale"] is Severity.error
    assert severities["sglang"]["llama-cpp-scale"] is Severity.info


def test_serving_vllm_with_a_larger_limit(tmp_path: Path) -> None:
    tensors = {name: 0.05 * tensor for name, tensor in lora_factors("model.q_proj", 64, 64, rank=32).items()}
    wide = write(tmp_path / "wide", tensors, r=32, lora_alpha=32, target_modules=["q_proj"])
    assert wanalyze.audit(wide, policy="serving-vllm").verdict is Verdict.failed
    raised = policy(tmp_path, "preset = 'serving-vllm'\n[limits]\nvllm-rank = 32")
    assert wanalyze.audit(wide, policy=raised).verdict is Verdict.passed


def test_strict_fails_on_warnings(cli: Run, tmp_path: Path) -> None:
    with_file("training_args.bin")(tmp_path / "adapter")
    assert cli("audit", tmp_path / "adapter").code == ExitCode.done
    assert cli("audit", tmp_path / "adapter", "--policy", "strict").code == ExitCode.policy_failed


def test_an_allowed_base_passes(tmp_path: Path) -> None:
    given = base(tmp_path)
    allowed = hashlib.sha256((given / "model.safetensors").read_bytes()).hexdigest()
    path = policy(tmp_path, f"base_sha256 = ['{allowed.upper()}']")
    assert wanalyze.audit(write(tmp_path / "adapter"), base=given, policy=path).verdict is Verdict.passed
