"""The run folder: valid, whole, and the same bytes every time."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from safetensors.numpy import load_file

import wanalyze
from tests.conftest import FIXTURES
from wanalyze.errors import ResultError, UsageError
from wanalyze.report import page
from wanalyze.result import Result, check_output, read_run, write_run
from wanalyze.result.records import json_schema


def test_the_result_is_valid_by_the_schema_that_ships(trained_run: Path) -> None:
    schema = json.loads(files("wanalyze.result").joinpath("schema.json").read_text())
    assert schema == json_schema(), "regenerate it: see CONTRIBUTING"
    jsonschema.Draft202012Validator.check_schema(schema)
    value = json.loads((trained_run / "result.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**value, "schema": "wanalyze.result/2"})


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        wanalyze.compare(FIXTURES / "base", FIXTURES / "full", FIXTURES / "lora-r8", output=tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_no_path_of_this_machine_is_published(trained_run: Path) -> None:
    for path in trained_run.iterdir():
        assert str(FIXTURES.parent).encode() not in path.read_bytes()


def test_what_is_read_back_is_what_was_written(trained_run: Path, trained: Result) -> None:
    assert trained.to_json() == (trained_run / "result.json").read_text()
    assert trained.arrays.keys() == load_file(trained_run / "arrays.safetensors").keys()


def test_a_run_replaces_a_run_and_nothing_else(tmp_path: Path, trained: Result) -> None:
    write_run(tmp_path / "run", trained, page(trained))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    write_run(tmp_path / "run", trained, page(trained))
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_a_killed_write_leaves_no_result(tmp_path: Path, trained: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run", trained, page(trained))
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.name == "report.html":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "run", trained, page(trained))
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_unwritable_parent_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, as in many containers, may write anywhere
    with pytest.raises(UsageError, match="not a writable folder"):
        check_output(tmp_path / "run")


def test_a_full_disk_is_one_sentence(tmp_path: Path, trained: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: str, **options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left"):
        write_run(tmp_path / "run", trained, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "wanalyze.result/9"}', "\x00"])
def test_a_damaged_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ResultError, match="no result this version can read"):
        read_run(tmp_path)


FORGED: dict[str, tuple[tuple[str | int, ...], object]] = {
    "a record of no model": (("modules", 0, "model"), "ghost"),
    "two models of one label": (("models", 1, "label"), "full"),
    "no sides": (("modules", 0, "shape"), []),
    "three sides": (("modules", 0, "shape"), [2, 3, 4]),
    "a side below zero": (("modules", 0, "shape", 0), -1),
    "no vectors looked at": (("settings", "top_k"), 0),
    "no limit": (("settings", "epsilon"), 0),
    "no number": (("models", 0, "summary", "median_relative_norm"), float("nan")),
    "no float": (("modules", 0, "metrics", "relative_norm"), 10**400),
    "a layer below zero": (("modules", 0, "layer"), -1),
}


@pytest.mark.parametrize(("place", "value"), FORGED.values(), ids=FORGED)
def test_a_forged_result_is_refused(
    tmp_path: Path, trained_run: Path, place: tuple[str | int, ...], value: object
) -> None:
    result = json.loads((trained_run / "result.json").read_text())
    inside = result
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ResultError, match="no result this version can read"):
        read_run(tmp_path)
