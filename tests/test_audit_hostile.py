"""An adapter from a stranger stays inert: nothing is imported, opened, asked of a network or written."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wanalyze
from tests.conftest import Run
from tests.planted import PLANTED, UP, A, B, base, factors, named, with_fields, write
from wanalyze import report, terminal
from wanalyze.auditing import WRITERS, Verdict
from wanalyze.auditing.card import parse_card
from wanalyze.auditing.regexes import may_hang
from wanalyze.errors import ExitCode


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_nothing_is_asked_of_a_network_written_or_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, planted in enumerate(PLANTED[::5]):
        planted.make(tmp_path / "many" / f"p{number:02}")
    for adapter in (tmp_path / "many").iterdir():
        for name in ("tokenizer_config.json", "chat_template.jinja", "training_args.bin"):
            (adapter / name).write_text("{{ evil }}")
    before = tree(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", _refuse)
    opened: list[str] = []
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
    wanalyze.audit(tmp_path / "many")
    inside = {Path(path).name for path in opened if path.startswith(str(tmp_path))}
    assert inside <= {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md"}
    assert tree(tmp_path) == before


def _refuse(*_: object) -> None:
    raise AssertionError("a connection was opened")


def test_no_module_beside_the_weights_is_imported(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", auto_map={"AutoModel": "evil.Model"})
    for name in ("evil", "modeling_evil", "sitecustomize", "os"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    code = f"from wanalyze.cli import main; main(['audit', {str(folder)!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.policy_failed, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md"])
@pytest.mark.parametrize("what", ["pipe", "folder", "link out", "link nowhere", "loop"])
def test_what_is_no_file_is_told_and_blocks_nothing(name: str, what: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    path = folder / name
    path.unlink()
    outside = tmp_path / "outside"
    outside.write_text("secret")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to({"link out": outside, "link nowhere": tmp_path / "nothing", "loop": path}[what])
    [found] = wanalyze.audit(folder).adapters
    assert found.verdict is (Verdict.failed if name == "README.md" else Verdict.unreadable) or what == "folder"
    assert "secret" not in found.model_dump_json()
    if what != "folder":
        assert "unopenable-file" in {finding.code for finding in found.findings}


def test_a_loop_of_folders_ends(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    (folder / "again").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path)
    [found] = wanalyze.audit(folder).adapters
    hits = [finding.file for finding in found.findings if finding.code == "unopenable-file"]
    assert "out/" in hits
    assert len(found.files) < 100


def test_so_many_tensors_of_so_few_bytes_are_not_looked_into(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    entries = {
        f"base_model.model.layers.{i // 2}.w.lora_{'AB'[i % 2]}.weight": {
            "dtype": "BF16",
            "shape": [2, 2],
            "data_offsets": [8 * i, 8 * i + 8],
        }
        for i in range(20_000)
    }
    text = json.dumps(entries).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(8 * len(entries))
    (folder / "adapter_model.safetensors").write_bytes(content)
    [found] = wanalyze.audit(folder).adapters
    [finding] = [finding for finding in found.findings if finding.code == "not-understood"]
    assert "20,000 tensors" in finding.message
    assert found.modules == []
    assert any("not-finite" in each.rules for each in found.unchecked)


@pytest.mark.parametrize("kind", ["LORA", "LOKR"])
def test_a_matrix_that_no_machine_holds_is_not_made(kind: str, tmp_path: Path) -> None:
    parts = {"LORA": ("lora_A.weight", "lora_B.weight"), "LOKR": ("lokr_w1", "lokr_w2")}[kind]
    shapes = {"LORA": ((2, 10**6), (10**6, 2)), "LOKR": ((1000, 1000), (1000, 1000))}[kind]
    tensors = {
        named(f"{UP}.{part}"): torch.ones(shape, dtype=torch.bfloat16)
        for part, shape in zip(parts, shapes, strict=True)
    }
    [found] = wanalyze.audit(write(tmp_path / "adapter", tensors, peft_type=kind, alpha=2)).adapters
    [finding] = [finding for finding in found.findings if finding.code == "not-understood"]
    assert "1,000,000 × 1,000,000" in finding.message


def test_findings_of_one_rule_are_bounded(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    for number in range(300):
        (folder / f"f{number}.py").write_text("")
    [found] = wanalyze.audit(folder).adapters
    hits = [finding for finding in found.findings if finding.code == "code-file"]
    assert len(hits) == 101
    assert any("200 more" in hit.message for hit in hits)


def test_a_compressed_pickle_is_refused_unread(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    with zipfile.ZipFile(folder / "adapter_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
        archive.writestr("archive/data/0", bytes(10**8))
    assert (folder / "adapter_model.bin").stat().st_size < 10**6
    assert wanalyze.audit(folder).verdict is Verdict.unreadable


_UNSLOTH = (  # what unsloth writes for models that see
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj|up_proj|down_proj)))"
)


@pytest.mark.parametrize(
    ("pattern", "hangs"),
    [
        (r".*\.(q_proj|v_proj)$", False),
        (r"^(?!.*visual).*\.(?:q_proj|up_proj)$", False),
        (r"model\.layers\.(?:[0-9]|1[0-9])\.self_attn\.[qv]_proj", False),
        (_UNSLOTH, False),
        (r"[(+*]+x", False),
        (r"\(a\+\)\+", False),
        ("(a+)+$", True),
        ("((ab)*)*", True),
        ("(a|a)*b", True),
        ("(?:a|b)+c", True),
        ("(a{1,9}){1,9}", True),
        (r"(.)\1", True),
        (".*" * 6, True),
        ("x" * 5000, True),
    ],
)
def test_patterns_are_judged_by_their_form(pattern: str, hangs: bool) -> None:
    assert (may_hang(pattern) is not None) is hangs


@pytest.mark.parametrize(
    ("text", "license_"),
    [
        ("---\nlicense: mit\n---", ["mit"]),
        ("---\r\nlicense: 'mit'\r\n---\r\n", ["mit"]),
        ("---\nlicense: [mit, apache-2.0]\n---", ["mit", "apache-2.0"]),
        ("---\nlicense:\n  - mit\n  - other\n---", ["mit", "other"]),
        ("---\nlicense: !!python/object/apply:os.system ['id']\n---", []),
        ("---\nlicense: &a [*a, *a]\n---", []),
        ("---\nlicense: |\n  mit\n---", []),
        ("---\nlicense: mit\n", []),
        ("license: mit", []),
        ("---\ntags:\n- license: mit\n---", []),
        ("---\nlicense: <script>\n---", []),
        ("---\nlicense: " + "m" * 1000 + "\n---", []),
        ("", []),
    ],
)
def test_front_matter_is_read_by_a_reader_that_can_do_little(text: str, license_: list[str]) -> None:
    assert parse_card(text).values("license") == license_


def test_a_readme_of_any_size_is_read_in_part(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    with (folder / "README.md").open("r+b") as stream:
        stream.truncate(2**40)
    assert wanalyze.audit(folder).verdict is Verdict.passed


def test_a_config_of_great_depth_is_searched_without_recursion(tmp_path: Path) -> None:
    nested: object = {"trust_remote_code": True}
    for _ in range(400):
        nested = [nested]
    with_fields(loftq_config={"a": nested})(tmp_path / "adapter")
    [found] = wanalyze.audit(tmp_path / "adapter").adapters
    assert "config-code" in {finding.code for finding in found.findings}


def test_progress_and_hints_do_not_touch_stdout(cli: Run, tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "many" / name)
    json.loads(cli("audit", tmp_path / "many", "--format", "json").out)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "q_proj", ".*", "(a+)+", "pissa", "\x1b[0m", "\u202e", "a" * 3000]),
    st.lists(st.sampled_from(["q_proj", "", 1, None]), max_size=3),
    st.dictionaries(st.sampled_from(["q_proj", "", "trust_remote_code"]), st.integers(-1, 9), max_size=2),
)
_FIELDS = st.sampled_from(["r", "lora_alpha", "bias", "target_modules", "modules_to_save", "rank_pattern", "use_dora"])
_MORE = st.sampled_from(
    ["peft_type", "init_lora_weights", "layer_replication", "auto_mapping", "trainable_token_indices"]
)
_NAMES = st.sampled_from([A, B, named("lm_head.weight"), named(f"{UP}.lora_magnitude_vector"), "", "x"])
_SHAPES = st.sampled_from([(2, 16), (20, 2), (0, 3), (1,), (), (2, 2, 2), (16, 2), (1, 1, 1, 1, 1, 1)])
_DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    fields=st.dictionaries(st.one_of(_FIELDS, _MORE), _VALUES, max_size=3),
    tensors=st.dictionaries(_NAMES, st.tuples(_SHAPES, _DTYPES, st.sampled_from([1, 0, 1e30, torch.nan])), max_size=2),
    with_base=st.booleans(),
)
def test_whatever_it_holds_an_audit_ends_in_a_verdict_that_can_be_written(
    fields: dict[str, object],
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype, float]],
    with_base: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    drawn = {name: (torch.ones(shape) * scale).to(dtype) for name, (shape, dtype, scale) in tensors.items()}
    write(folder / "adapter", {**factors(), **drawn}, **fields)
    found = wanalyze.audit(folder / "adapter", base=base(folder) if with_base else None)
    for text in (terminal.audit(found), report.audit_page(found), *(write_(found) for write_ in WRITERS.values())):
        assert text.endswith("\n") or text.count("\n") == 0
