"""What an audit is written as: valid for the readers it is meant for, and inert whatever a stranger put into it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import junitparser
import pytest

import wanalyze
from tests.conftest import Run, lora_factors, normal
from tests.planted import PLANTED, factors, named, write
from wanalyze import report, terminal
from wanalyze.auditing import WRITERS, Audit
from wanalyze.auditing.records import Unchecked
from wanalyze.errors import ExitCode
from wanalyze.printable import printable

SCHEMA = json.loads((Path(__file__).parent / "data" / "sarif-schema-2.1.0.json").read_text())
EVIL = "x\x1b[2J\n::error::owned\r%0A::warning::<script>alert(1)</script>|`@`\u202e\u2028]]>&"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """One adapter whose every name is an attack, one that is unreadable, one with all faults that need no base."""
    folder = tmp_path_factory.mktemp("hostile")
    tensors = {**factors(), named(f"{EVIL}.weight"): normal(2, 2)}
    tensors |= lora_factors(f"model.{EVIL}.q_proj", 4, 4)
    write(folder / "many" / "names", tensors, base_model_name_or_path=EVIL, **{EVIL: EVIL})
    (folder / "many" / "names" / "a\x1b[31m\n::error::.py").write_text("")
    write(folder / "many" / "torn")
    (folder / "many" / "torn" / "adapter_model.safetensors").write_bytes(b"")
    for number, planted in enumerate(PLANTED[::7]):
        planted.make(folder / "many" / f"p{number:02}")
    before = Path.cwd()
    os.chdir(folder)
    try:
        return wanalyze.audit("many")
    finally:
        os.chdir(before)


def test_sarif_is_valid_by_the_schema_of_oasis(hostile: Audit) -> None:
    found = json.loads(WRITERS["sarif"](hostile))
    jsonschema.Draft4Validator(SCHEMA).validate(found)
    [run] = found["runs"]
    assert len(run["results"]) == sum(len(adapter.findings) for adapter in hostile.adapters)
    assert run["invocations"][0]["executionSuccessful"] is False
    [note] = run["invocations"][0]["toolExecutionNotifications"]
    assert note["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "many/torn/adapter_config.json"
    for result in run["results"]:
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"many/[A-Za-z0-9_.~/%-]+", uri)
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert len({result["partialFingerprints"]["wanalyze/1"] for result in run["results"]}) == len(run["results"])


def test_the_check_of_the_schema_can_fail(hostile: Audit) -> None:
    found = json.loads(WRITERS["sarif"](hostile))
    found["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SCHEMA).validate(found)


def test_findings_that_sarif_has_no_room_for_are_counted(hostile: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["wanalyze.auditing.writers.sarif"], "_MOST", 3)
    found = json.loads(WRITERS["sarif"](hostile))
    jsonschema.Draft4Validator(SCHEMA).validate(found)
    [run] = found["runs"]
    assert [result["level"] for result in run["results"]] == ["error"] * 3
    left = sum(len(adapter.findings) for adapter in hostile.adapters) - 3
    assert f"{left} findings" in run["invocations"][0]["toolExecutionNotifications"][-1]["message"]["text"]


def test_junit_is_read_by_a_reader_of_it(hostile: Audit, tmp_path: Path) -> None:
    path = tmp_path / "audit.xml"
    path.write_text(WRITERS["junit"](hostile), encoding="utf-8")
    suites = [*junitparser.JUnitXml.fromfile(str(path))]
    assert len(suites) == len(hostile.adapters)
    for suite, adapter in zip(suites, hostile.adapters, strict=True):
        results = [result for case in suite for result in case.result]
        failing = {finding.code for finding in adapter.findings if finding.severity.value == "error"}
        assert sum(isinstance(result, junitparser.Failure) for result in results) == len(failing) == suite.failures
        assert sum(isinstance(result, junitparser.Error) for result in results) == suite.errors
        assert sum(isinstance(result, junitparser.Skipped) for result in results) == suite.skipped
        assert suite.tests == len([*suite])


def test_annotations_are_one_command_a_line_and_none_is_forged(hostile: Audit) -> None:
    lines = WRITERS["github"](hostile).split("\n")
    assert lines.pop() == ""
    findings = sum(len(adapter.findings) for adapter in hostile.adapters)
    assert len(lines) == findings + 1
    for line in lines:
        assert re.fullmatch(r"::(error|warning|notice) file=[^,:]+,title=wanalyze [a-z0-9-]+::[^\x00-\x1f]+", line)
    ranks = [("error", "warning", "notice").index(line[2:].split(" ")[0]) for line in lines]
    assert ranks == sorted(ranks)


def test_markdown_has_no_markup_of_a_stranger(hostile: Audit) -> None:
    text = WRITERS["markdown"](hostile)
    assert "<script>" not in text
    assert not re.search(r"(?<!\\)[<>]", text)
    assert not re.search(r"^::", text, flags=re.MULTILINE)
    rows = [line for line in text.splitlines() if line.startswith("| many")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert len(rows) == len(hostile.adapters)


@pytest.mark.parametrize("name", ["table", "html", *WRITERS])
def test_no_control_character_gets_through(name: str, hostile: Audit) -> None:
    text = {"table": terminal.audit, "html": report.audit_page, **WRITERS}[name](hostile)
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f\u2028-\u202e]", json.dumps(json.loads(text)) if name == "json" else text
    )


class Page(HTMLParser):
    """Tags, attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_without_script_and_without_markup_of_a_stranger(hostile: Audit) -> None:
    text = report.audit_page(hostile)
    page = Page(text)
    assert page.open == []
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not {"onerror", "onload", "src"} & page.attributes
    assert "default-src 'none'" in text
    digest = base64.b64encode(hashlib.sha256(re.findall(r"<style>(.*?)</style>", text, re.DOTALL)[0].encode()).digest())
    assert f"style-src 'sha256-{digest.decode()}'" in text
    for adapter in hostile.adapters:
        for finding in adapter.findings:
            assert html.escape(printable(finding.message)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text


def test_the_table_fits_a_terminal_and_ranks_the_worst_first(hostile: Audit) -> None:
    lines = terminal.audit(hostile).splitlines()
    order = ["unreadable", "failed", "passed"]
    table = [line.split()[1] for line in lines if re.match(rf"many/\S+ +({'|'.join(order)}) +\d", line)]
    assert len(table) == len(hostile.adapters)
    assert table == sorted(table, key=order.index)
    assert table[0] == "unreadable"


def test_files_are_written_by_their_names(cli: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    names = ("a.json", "a.sarif", "a.sarif.json", "a.xml", "a.md", "a.html")
    done = cli("audit", folder, "-q", *(part for name in names for part in ("-o", tmp_path / name)))
    assert (done.code, done.out) == (ExitCode.done, "")
    starts = [(tmp_path / name).read_text()[:2] for name in names]
    assert starts == ["{\n", "{\n", "{\n", "<?", "##", "<!"]
    assert json.loads((tmp_path / "a.sarif.json").read_text())["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("name", "says"),
    [("a.txt", "must end in"), ("nothing/a.json", "no such folder"), ("folder.json", "cannot be written")],
)
def test_a_file_that_cannot_be_written_is_said(name: str, says: str, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    done = cli("audit", write(tmp_path / "adapter"), "-o", tmp_path / name)
    assert done.code == ExitCode.unreadable
    assert says in done.err


@pytest.mark.parametrize("name", ["adapter/README.md", "adapter/adapter_config.json", "old.json", "bank.json"])
def test_nothing_that_is_read_is_written_over(name: str, cli: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    old, bank = tmp_path / "old.json", tmp_path / "bank.json"
    assert cli("audit", folder, "-q", "-o", old).code == ExitCode.done
    assert cli("bank", "build", folder, "-o", bank).code == ExitCode.done
    before = (tmp_path / name).read_bytes()
    done = cli("audit", folder, "--baseline", old, "--bank", bank, "-o", tmp_path / name)
    assert done.code == ExitCode.unreadable
    assert "choose another file" in done.err
    assert (tmp_path / name).read_bytes() == before
    assert cli("audit", folder, "-q", "-o", old, "-o", old).code == ExitCode.unreadable


def test_a_link_of_a_stranger_is_replaced_and_not_followed(cli: Run, tmp_path: Path) -> None:
    folder, victim = write(tmp_path / "adapter"), tmp_path / "victim"
    victim.write_text("mine")
    for _ in range(2):
        (folder / "audit.json").unlink(missing_ok=True)
        (folder / "audit.json").symlink_to(victim)
        assert cli("audit", folder, "-q", "-o", folder / "audit.json").code == ExitCode.policy_failed
        victim = tmp_path / "nowhere"
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert not [*folder.glob(".*")]


@pytest.mark.parametrize(("kind", "code"), [("good", 0), ("bad", 1), ("torn", 2)])
def test_a_closed_pipe_does_not_change_the_verdict(kind: str, code: int, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", r={"bad": 0}.get(kind, 2))
    if kind == "torn":
        (folder / "adapter_model.safetensors").write_bytes(b"")
    command = f"{sys.executable} -m wanalyze audit {folder} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (code, b"")


def test_a_full_disk_is_unreadable_and_no_verdict(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "wanalyze", "audit", str(write(tmp_path / "adapter"))]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == ExitCode.unreadable
    assert b"no space left" in done.stderr


def test_a_failure_of_a_rule_that_was_applied_in_part_is_no_skipped_test(hostile: Audit) -> None:
    [adapter] = [each for each in hostile.adapters if any(found.code == "code-file" for found in each.findings)][:1]
    partly = adapter.model_copy(update={"unchecked": [Unchecked(rules=["code-file"], reason="in part")]})
    text = WRITERS["junit"](hostile.model_copy(update={"adapters": [partly]}))
    [suite] = junitparser.JUnitXml.fromstring(text)
    assert suite.skipped == 0
    [case] = [case for case in suite if case.name == "code-file"]
    assert [type(result) for result in case.result] == [junitparser.Failure]
