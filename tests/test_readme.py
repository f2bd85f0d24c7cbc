"""The README's commands are run, and what it shows is what they print."""

from __future__ import annotations

import re
import shlex
from decimal import Decimal
from pathlib import Path

import pytest

import wanalyze.cli
from tests.conftest import FIXTURES, Run

ROOT = FIXTURES.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def beside_the_fixtures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixtures").symlink_to(FIXTURES)
    monkeypatch.chdir(tmp_path)


def test_the_commands_run(cli: Run) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("wanalyze")]
    assert len(lines) >= 6
    for line in lines:
        done = cli(*shlex.split(line, comments=True)[1:])
        assert done.code == 0, line
        assert done.out or "-q" in line.split(), line


def test_the_shell_parts_of_workflows_run(cli: Run) -> None:
    text = "\n".join(blocks("yaml"))
    steps = re.findall(r"^ *- run: wanalyze (.*)$", text, flags=re.MULTILINE)
    hooks = re.findall(r"^ *entry: wanalyze (.*)\n *files: (.*)$", text, flags=re.MULTILINE)
    assert len(steps) == len(hooks) == 1
    assert cli(*shlex.split(steps[0])).code == 0
    assert Path("wanalyze.sarif").stat().st_size > 0
    entry, pattern = hooks[0]
    changed = [str(path) for path in sorted(Path("fixtures").rglob("*")) if re.search(pattern, str(path))]
    assert len(changed) > 3  # what pre-commit would pass
    assert cli(*shlex.split(entry), *changed).code == 0


def test_the_policy_shown_is_one() -> None:
    from wanalyze.auditing import effective_policy

    Path("policy.toml").write_text(blocks("toml")[0])
    found = {rule.code: (rule.severity, rule.limit) for rule in effective_policy("policy.toml").rules}
    assert found["tokenizer-shipped"] == (None, None)
    assert found["vllm-rank"][1] == 64


def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_summary_shown_is_the_one_printed(cli: Run) -> None:
    command = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "-o reports/demo" in line)
    printed = cli(*command.split("wanalyze ")[1].split()).out
    assert blocks("text")[0] in printed


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_command_is_in_the_readme() -> None:
    for command in wanalyze.cli.wanalyze.commands:
        assert f"wanalyze {command}" in README


def test_the_example_is_what_the_tool_writes_today(tmp_path: Path) -> None:
    names = ("full", "lora-r8", "lora-r64")
    wanalyze.compare("fixtures/base", *(f"fixtures/{name}" for name in names), output=tmp_path / "run")
    for name in ("report.html", "modules.csv", "result.json"):
        words, numbers = _parts((tmp_path / "run" / name).read_text())
        kept_words, kept = _parts((ROOT / "reports" / "example" / name).read_text())
        assert words == kept_words, name
        assert [pair for pair in zip(numbers, kept, strict=True) if not _agree(*pair)] == [], name


def test_a_number_that_moved_is_noticed() -> None:
    assert _agree("0.123456789012", "0.123456789034")
    assert _agree("2.35", "2.36")
    assert not _agree("0.123456789012", "0.123457789012")
    assert not _agree("2.35", "2.37")
    assert not _agree("7", "8")


_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")


def _parts(text: str) -> tuple[list[str], list[str]]:
    return _NUMBER.split(text), _NUMBER.findall(text)


def _agree(one: str, other: str) -> bool:
    """Equal up to what differs between processors: 1e-7 of the number, or its last digit where it was cut to print."""
    first, second = Decimal(one), Decimal(other)
    cut = Decimal(1).scaleb(int(second.as_tuple().exponent)) if "." in other else Decimal(0)
    return abs(first - second) <= max(cut, Decimal("1e-7") * abs(second))
