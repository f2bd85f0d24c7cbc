"""Every bad input of the list: one line, the right code, no traceback, no hang, little memory, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_inputs import BAD, HOSTILE_NAMES, Bad, hostile_names
from tests.conftest import FIXTURES, Run, save_checkpoint, tiny_base
from tests.limits import within_limits


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_input_is_said_in_one_line(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    (tmp_path / "in").mkdir()
    path = bad.make(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    before = {found for found in tmp_path.rglob("*") if "in" not in found.parts[-2:]}
    with within_limits():
        done = cli("compare", base, f"t={path}", "-o", "out")
    assert done.code == bad.code, done.err
    assert bad.says in " ".join((done.out if bad.code in (0, 3) else done.err).split())
    assert "Traceback" not in done.err
    assert not {"\x1b", "\u202e", "\0"} & set(done.out + done.err)
    after = {found for found in tmp_path.rglob("*") if "in" not in found.parts[-2:]}
    if bad.code == 2:
        assert len(done.err.strip().splitlines()) == 1
        assert len(done.err) < 2000
        assert after == before
    else:
        assert {found.relative_to(tmp_path).parts[0] for found in after - before} <= {"out"}


@pytest.mark.parametrize(
    "bad", [bad for bad in BAD.values() if bad.code == 2], ids=[k for k, b in BAD.items() if b.code == 2]
)
def test_inspect_does_not_fall_over_it(cli: Run, tmp_path: Path, bad: Bad) -> None:
    path = bad.make(tmp_path)
    with within_limits():
        done = cli("inspect", path)
    assert done.code in (0, 2)
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == (1 if done.code else 0)


def test_hostile_names_are_inert_in_every_file(cli: Run, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    assert cli("compare", hostile_names(tmp_path), f"t={base}", "-o", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "report.html").read_text()
    ordinary = (FIXTURES.parent / "reports" / "example" / "report.html").read_text()
    assert page.count("<script") == ordinary.count("<script") == 2  # the data and the page's own
    assert not {"\x1b", "\u202e", "\0"} & set(page)
    assert "default-src 'none'" in page
    rows = (tmp_path / "out" / "modules.csv").read_text().splitlines()
    assert not [row for row in rows if row.startswith(("=", "+", "@"))]
    shown = cli("show", tmp_path / "out").out + cli("inspect", tmp_path / "bad.safetensors").out
    assert not {"\x1b", "\u202e", "\0"} & set(shown)
    assert len(HOSTILE_NAMES) == 16
