"""The command line: what goes where, and which code it leaves with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import wanalyze.cli
from tests.conftest import FIXTURES, Run, lora_factors, normal, save_adapter, save_checkpoint, tiny_base

ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore"}


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "base", tiny_base())


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", lora_factors("model.layers.0.mlp.up_proj", 20, 16))


def test_compare_writes_the_run_and_says_where(cli: Run, tmp_path: Path, base: Path, adapter: Path) -> None:
    done = cli("compare", base, adapter, "-o", tmp_path / "run")
    assert done.code == 0
    assert done.err == ""
    assert str(tmp_path / "run") in done.out
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("result.json", "modules.csv", "arrays.safetensors", "report.html")
    }


def test_the_summary_fits_a_terminal(cli: Run, tmp_path: Path) -> None:
    done = cli("compare", FIXTURES / "base", FIXTURES / "full", FIXTURES / "lora-r8", "-o", "run", "-q")
    assert done.out == ""
    from wanalyze import terminal
    from wanalyze.result import read_run

    lines = terminal.summary(read_run(Path("run")), "reports/demo").splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 18


def test_the_default_folder_is_named_by_the_labels(cli: Run, tmp_path: Path, base: Path, adapter: Path) -> None:
    assert cli("compare", base, f"mine={adapter}", "-q").code == 0
    assert (tmp_path / "reports" / "mine" / "result.json").is_file()


def test_json_on_stdout_is_the_result(cli: Run, tmp_path: Path, base: Path, adapter: Path) -> None:
    done = cli("compare", base, adapter, "-o", tmp_path / "run", "--format", "json")
    assert json.loads(done.out) == json.loads((tmp_path / "run" / "result.json").read_text())


def test_show_and_report_read_the_run_again(cli: Run, tmp_path: Path, base: Path, adapter: Path) -> None:
    cli("compare", base, adapter, "-o", "run")
    assert "up_proj" in cli("show", "run").out
    shown = json.loads(cli("show", "run", "*0.mlp.up_proj", "--format", "json").out)
    assert [module["name"] for module in shown] == ["model.layers.0.mlp.up_proj"]
    assert cli("show", "run", "--format", "csv").out == Path("run/modules.csv").read_text()
    assert cli("report", "run").out == Path("run/report.html").read_text()
    assert cli("report", "run", "--format", "json", "-o", "again.json").code == 0
    assert Path("again.json").read_text() == Path("run/result.json").read_text()


def test_explain_defines_every_metric(cli: Run) -> None:
    from wanalyze.auditing import RULES
    from wanalyze.findings import CHECKS
    from wanalyze.metrics import EXPLAINED

    known = {**EXPLAINED, **{code: row.explained() for table in (CHECKS, RULES) for code, row in table.items()}}
    for key in known:
        assert known[key].definition in cli("explain", key).out
    assert len(json.loads(cli("explain", "--format", "json").out)) == len(known)
    missed = cli("explain", "effectiv_rank")
    assert missed.code == 2
    assert "did you mean 'effective_rank'" in missed.err


def test_a_dry_run_writes_nothing(cli: Run, tmp_path: Path, base: Path, adapter: Path) -> None:
    done = cli("compare", base, adapter, "--dry-run")
    assert done.code == 0
    assert "estimate" in done.out
    assert not (tmp_path / "reports").exists()


def test_a_failed_matrix_leaves_a_run_and_code_3(cli: Run, tmp_path: Path, base: Path) -> None:
    tensors = tiny_base()
    tensors["model.layers.0.mlp.up_proj.weight"][1, 2] = float("nan")
    done = cli("compare", base, save_checkpoint(tmp_path / "bad", tensors), "-o", "run")
    assert done.code == 3
    assert "nan at [1, 2]" in done.out
    assert "nan at [1, 2]" in Path("run/report.html").read_text()


def test_an_update_that_cannot_be_worked_out_fails_alone(cli: Run, tmp_path: Path, base: Path) -> None:
    modules = [f"model.layers.{layer}.mlp.up_proj" for layer in range(2)]
    factors = {f"base_model.model.{module}.ia3_l": 1 + normal(20, 1, seed=i) for i, module in enumerate(modules)}
    factors[f"base_model.model.{modules[1]}.ia3_l"][5] = torch.nan
    adapter = save_adapter(tmp_path / "ia3", factors, peft_type="IA3", feedforward_modules=[])
    done = cli("compare", base, adapter, "-o", "run", "--format", "json")
    assert done.code == 3
    status = {module["name"]: module["status"] for module in json.loads(done.out)["modules"]}
    assert [status[module] for module in modules] == ["measured", "failed"]


# Said in a folder that holds what `bad_inputs` makes; each ends in one line with this in it.
BAD_INPUTS: dict[str, tuple[list[str], str]] = {
    "no arguments": (["compare"], "Missing argument"),
    "no tuned": (["compare", "base"], "Missing argument"),
    "missing path": (["compare", "base", "nowhere"], "no such file or folder"),
    "missing base": (["compare", "nowhere", "adapter"], "no such file or folder"),
    "folder without weights": (["compare", "base", "empty"], "no weights in it"),
    "truncated": (["compare", "base", "cut"], "10 bytes shorter"),
    "config without r": (["compare", "base", "no-r"], "r: field required"),
    "nothing matched": (["compare", "base", "other"], "are they of one model?"),
    "an adapter as base": (["compare", "adapter", "base"], "is an adapter"),
    "two of one label": (["compare", "base", "adapter", "adapter"], "both called"),
    "a label that is taken": (["compare", "base", "base=adapter"], "is taken"),
    "a label that is none": (["compare", "base", "a/b=adapter"], "cannot be a label"),
    "the Hub": (["compare", "base", "hf:name"], "names no repository"),
    "no vectors": (["compare", "base", "adapter", "--top-k", "0"], "--top-k 0"),
    "epsilon": (["compare", "base", "adapter", "--epsilon", "nan"], "--epsilon nan"),
    "device": (["compare", "base", "adapter", "--device", "warp"], "--device warp"),
    "no such GPU": (["compare", "base", "adapter", "--device", "cuda:77"], "--device cuda:77"),
    "nothing left": (["compare", "base", "adapter", "--only", "no*such"], "nothing is left"),
    "foreign folder": (["compare", "base", "adapter", "-o", "full-of-files"], "no run of wanalyze"),
    "output is a file": (["compare", "base", "adapter", "-o", "a-file"], "is a file"),
    "output below a file": (["compare", "base", "adapter", "-o", "a-file/run"], "cannot be written"),
    "no run": (["show", "base"], "no run of wanalyze"),
    "unknown option": (["compare", "base", "adapter", "--epsilom", "1"], "--epsilon"),
    "unknown command": (["compair"], "compare"),
    "too many threads": (["compare", "base", "adapter", "--jobs", str(10**14)], "--jobs"),
    "an endless name": (["compare", "base", "x" * 5000], "cannot be read"),
    "an endless output": (["compare", "base", "adapter", "-o", "x" * 5000], "cannot be written"),
    "control characters": (["compare", "base", "x\x1b[31m"], "x\\x1b[31m"),
}


@pytest.fixture
def bad_inputs(tmp_path: Path, base: Path, adapter: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full-of-files").mkdir()
    (tmp_path / "full-of-files" / "thesis.tex").write_text("")
    (tmp_path / "a-file").write_text("")
    cut = save_checkpoint(tmp_path / "cut", tiny_base()) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-10])
    save_adapter(tmp_path / "no-r", lora_factors("model.layers.0.mlp.up_proj", 20, 16), r=None)
    save_checkpoint(tmp_path / "other", {"x.weight": normal(3, 3)})


@pytest.mark.usefixtures("bad_inputs")
@pytest.mark.parametrize(("arguments", "says"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_one_line_and_code_2(cli: Run, tmp_path: Path, arguments: list[str], says: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert says in done.err
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    assert len(done.err.strip().splitlines()) == 1 or "Usage" in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bug_is_not_a_failed_policy(cli: Run, monkeypatch: pytest.MonkeyPatch, base: Path, adapter: Path) -> None:
    monkeypatch.setattr("wanalyze.plan", lambda *a, **k: 1 / 0)
    done = cli("compare", base, adapter)
    assert done.code == 70
    assert "a bug: ZeroDivisionError" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in cli("compare", base, adapter, "-v").err


def test_an_interrupt_writes_nothing(
    cli: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: Path, adapter: Path
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wanalyze.compare", interrupted)
    done = cli("compare", base, adapter, "-o", tmp_path / "run")
    assert done.code == 130
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("after", [0.8, 1.5])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, after: float) -> None:
    folder = tmp_path / "out" / "run"
    command = [sys.executable, "-m", "wanalyze", "compare", FIXTURES / "base", FIXTURES / "full", "-o", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    time.sleep(after)
    process.send_signal(signal.SIGINT)  # while Python starts, torch loads, matrices are read
    _, err = process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been done already
        assert process.returncode == 130
        assert b"Traceback" not in err
        assert not folder.exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m wanalyze explain --format json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["", *sorted(wanalyze.cli.wanalyze.commands)])
def test_every_command_has_help(cli: Run, command: str) -> None:
    done = cli(*command.split(), "--help")
    assert done.code == 0
    assert "Usage:" in done.out
