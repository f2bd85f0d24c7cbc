"""What a reader sees outside the page: sparklines, Markdown, notebooks, shells of every encoding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, Run, lora_factors, save_adapter, save_checkpoint, tiny_base
from wanalyze import figures, terminal
from wanalyze.metrics import METRICS
from wanalyze.result import Result, Status, write_run
from wanalyze.terminal.sparkline import BLOCKS, along_depth

HOSTILE = "model.layers.0.a|b`<img src=x>@org\x1b[31m"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run over a matrix with such a name."""
    base = save_checkpoint(tmp_path / "base", {f"{HOSTILE}.weight": tiny_base()["model.layers.0.mlp.up_proj.weight"]})
    import wanalyze

    wanalyze.compare(base, save_adapter(tmp_path / "a", lora_factors(HOSTILE, 20, 16)), output=tmp_path / "run")
    return tmp_path / "run"


def test_a_line_of_blocks_follows_the_numbers(trained: Result) -> None:
    lines = along_depth(trained, "relative_norm", "rel. norm")
    assert lines[0].startswith("rel. norm by layer (█ = ")
    runs = " ".join(lines[1:]).split("  ")
    drawn = dict(run.split() for run in (run.strip() for run in runs) if run)
    assert drawn.keys() == {model.label for model in trained.models}
    assert drawn["half-frozen"].startswith("▁▁▁")
    heights = {label: sum(map(BLOCKS.index, blocks)) for label, blocks in drawn.items()}
    assert max(heights, key=lambda label: heights[label]) == "lora-r8"
    assert max(map(len, lines)) <= terminal.tables.WIDTH


def test_of_one_model_there_is_a_line_for_each_kind(trained: Result) -> None:
    one = trained.model_copy(
        update={
            "models": [model for model in trained.models if model.label == "full"],
            "modules": [module for module in trained.modules if module.model == "full"],
        }
    )
    drawn = " ".join(along_depth(one, "relative_norm", "rel. norm")[1:])
    for kind in ("q_proj", "k_proj", "down_proj"):
        assert f"{kind} " in drawn


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_shell_of_any_encoding_gets_its_answer(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"}
    for arguments in (["inspect", str(FIXTURES / "lora-r8")], ["explain", "effective_rank"]):
        done = subprocess.run(
            [sys.executable, "-m", "wanalyze", *arguments], capture_output=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding)
        assert "‖ΔW‖" in text or encoding != "utf-8" or "inspect" not in arguments
        assert "|dW|" in text or encoding == "utf-8" or "inspect" not in arguments


def test_data_is_utf_8_whatever_the_shell(trained_run: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "wanalyze", "report", str(trained_run), "--format", "json"]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert done.stdout == (trained_run / "result.json").read_bytes()


def test_markdown_tells_what_the_summary_tells(cli: Run, trained_run: Path, trained: Result) -> None:
    text = cli("report", trained_run, "--format", "md").out
    for model in trained.models:
        assert f"| `{model.label}` | `{model.method}` |" in text
        assert all(file.sha256 in text for file in model.files if file.sha256)
    rows = cli("show", trained_run, "*.0.mlp.up_proj", "--format", "md").out.splitlines()
    assert len(rows) == 2 + len(trained.models)
    assert {row.count("|") for row in rows} == {rows[0].count("|")}


def test_a_hostile_name_is_inert_in_markdown(cli: Run, hostile: Path) -> None:
    for arguments in (("show", hostile), ("report", hostile)):
        text = cli(*arguments, "--format", "md").out
        assert "\x1b" not in text
        for row in (row for row in text.splitlines() if "img" in row):
            inside = row.split("`")[1::2]  # what lies between two backticks is code
            assert any("<img src=x>@org" in part for part in inside)
            assert "img" not in "".join(row.split("`")[::2])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.found.add(tag)


def test_a_notebook_shows_a_plain_table(trained: Result) -> None:
    forged = trained.models[0].model_copy(update={"method": "<script>alert(1)</script>" * 1000})
    html = trained.model_copy(update={"models": [*trained.models, *[forged] * 500]})._repr_html_()
    tags = Tags()
    tags.feed(html)
    assert tags.found == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert len(html.encode()) < 30_000
    assert "and 455 more models" in html


def test_a_data_frame_has_a_row_for_each_matrix(trained: Result) -> None:
    frame = trained.to_pandas()
    assert len(frame) == len(trained.modules)
    assert set(METRICS) < set(frame.columns)
    first = frame[(frame["model"] == "full") & (frame["name"] == "model.layers.0.mlp.up_proj")].iloc[0]
    [module] = [m for m in trained.modules if (m.model, m.name) == ("full", "model.layers.0.mlp.up_proj")]
    assert first["effective_rank"] == module.metric("effective_rank")
    assert first["shape"] == tuple(module.shape)


def test_without_pandas_the_way_out_is_said(trained: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    from wanalyze.errors import UsageError

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        trained.to_pandas()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(cli: Run, shell: str) -> None:
    done = cli("completion", shell)
    assert done.code == 0
    assert "_WANALYZE_COMPLETE" in done.out
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=done.out.encode(), check=True)


def test_what_completion_asks_is_answered() -> None:
    environment = {
        **os.environ,
        "_WANALYZE_COMPLETE": "bash_complete",
        "COMP_WORDS": "wanalyze comp",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from wanalyze.cli import main; main([])"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == {"compare", "completion"}


def test_estimates_and_reasons_are_told_wherever_numbers_are(cli: Run, trained: Result, tmp_path: Path) -> None:
    failed = trained.modules[0].model_copy(
        update={"status": Status.failed, "reason": "NaN at [3, 4]\x1b", "metrics": {}, "max_cosine_left": []}
    )
    settings = trained.settings.model_copy(update={"precision": "float32"})
    result = trained.model_copy(update={"modules": [failed, *trained.modules[1:]], "settings": settings})
    write_run(tmp_path / "run", result, "")
    shown = cli("show", tmp_path / "run", failed.name).out
    assert f"{failed.model} {failed.name}: NaN at [3, 4]\\x1b\n" in shown
    for text in (shown, cli("show", tmp_path / "run", "--format", "md").out, result._repr_html_()):
        assert "Estimates, computed in float32." in text
    assert "(estimate)" in figures.table(result)


def test_a_name_with_brackets_is_shown_by_its_name(cli: Run, trained: Result, tmp_path: Path) -> None:
    expert = trained.modules[0].model_copy(update={"name": "l.0.experts.down_proj[3]"})
    write_run(tmp_path / "run", trained.model_copy(update={"modules": [expert]}), "")
    assert "down_proj[3]" in cli("show", tmp_path / "run", expert.name).out


def test_a_report_is_what_its_name_ends_in(cli: Run, trained_run: Path, tmp_path: Path) -> None:
    for name, begins in (("a.md", "## What"), ("a.CSV", "model,name"), ("a.json", "{"), ("a.html", "<!doctype")):
        assert cli("report", trained_run, "-o", tmp_path / name).code == 0
        assert (tmp_path / name).read_text().startswith(begins)
    assert cli("report", trained_run, "-o", tmp_path / "a.md", "--format", "json").code == 0
    assert (tmp_path / "a.md").read_text().startswith("{")
