"""Reading safetensors: equal to the reference reader, and strict with everything else."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.conftest import FIXTURES, normal, save_checkpoint, tiny_base
from tests.limits import within_limits
from wanalyze.checkpoints import Checkpoint, open_checkpoint
from wanalyze.errors import CheckpointError, WanalyzeError

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_read_as_the_reference_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {
        "a.weight": (10 * normal(3, 5)).to(dtype),
        "b": torch.zeros((), dtype=dtype),
        "c": torch.zeros(0, 4).to(dtype),
    }
    save_file(stored, tmp_path / "x.safetensors")
    found = open_checkpoint(tmp_path / "x.safetensors")
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert found.read(name).dtype == tensor.dtype
        assert found.read(name).tolist() == tensor.tolist()


def test_shards_are_read_as_the_reference_reads_them() -> None:
    found = open_checkpoint(FIXTURES / "base")
    expected: dict[str, torch.Tensor] = {}
    for shard in FIXTURES.glob("base/*.safetensors"):
        expected |= load_file(shard)
    assert len(found.files) == 2
    assert found.entries.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found.read(name), tensor)


def write(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin: int = 0, end: int = 8, shape: object = (2,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD_HEADERS = {
    "not UTF-8": (b'{"\xff": 1}', b"", "UTF-8"),
    "a list": (b"[]", b"", "begin"),
    "a leading space": (b' {"a": 1}', b"", "begin"),
    "not JSON": (b"{oops}", b"", "JSON"),
    "nested without end": (b'{"a":' * 100_000, b"", "nested"),
    "NaN": (b'{"a": NaN}', b"", "NaN"),
    "infinity": (b'{"a": -1e999}', b"", "beyond all floats"),
    "a huge number": (b'{"a": ' + b"9" * 5000 + b"}", b"", "JSON"),
    "a lone surrogate": (b'{"\\ud800": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8), "UTF-8"),
    "a key twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"\\u0061":{}}', bytes(8), "twice"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "data_offsets"),
    "an unknown dtype": ({"a": entry(dtype="F31")}, bytes(8), "F31"),
    "a dtype that is no text": ({"a": entry(dtype=[1])}, bytes(8), "dtype"),
    "a negative size": ({"a": entry(shape=[-2])}, bytes(8), "shape"),
    "a fractional size": ({"a": entry(shape=[2.0])}, bytes(8), "shape"),
    "a size beyond all memory": ({"a": entry(shape=[2**63, 0], end=0)}, b"", "shape"),
    "ten thousand dimensions": ({"a": entry(shape=[1] * 10_000)}, bytes(8), "shape"),
    "a range of another length": ({"a": entry(shape=[3])}, bytes(8), "12 bytes"),
    "a hole": ({"a": entry(4, 12)}, bytes(12), "hole"),
    "an overlap": ({"a": entry(), "b": entry(4, 12)}, bytes(12), "overlaps"),
    "too little data": ({"a": entry()}, bytes(5), "3 bytes shorter"),
    "too much data": ({"a": entry()}, bytes(11), "3 bytes follow"),
}


@pytest.mark.parametrize(("header", "data", "rule"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_bad_header_is_refused_by_its_rule(tmp_path: Path, header: object, data: bytes, rule: str) -> None:
    path = write(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(CheckpointError, match=rule) as caught:
        open_checkpoint(path)
    assert "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "too short"),
        (b"1234567", "too short"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "header is"),
        (struct.pack("<Q", 100) + b"{}", "header is"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"PK\x03\x04" + bytes(60), "zip"),
        (b"\x80\x04\x95" + bytes(60), "pickle"),
        (b"<!doctype html><html>not found</html>", "web page"),
        (b"GGUF\x03\x00\x00\x00" + bytes(60), "GGUF"),
    ],
)
def test_what_is_no_safetensors_is_named(tmp_path: Path, content: bytes, rule: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rule):
        open_checkpoint(path)


@given(st.binary(max_size=40), st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_a_mutated_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    save_file({"a.weight": normal(3, 2), "b": normal(4)}, folder / "x.safetensors")
    content = bytearray((folder / "x.safetensors").read_bytes())
    content[at : at + len(noise)] = noise
    (folder / "x.safetensors").write_bytes(content)
    try:
        found = open_checkpoint(folder / "x.safetensors")
        for name, tensor in found.entries.items():
            if tensor.dtype.holds.name != "unsupported":
                found.read(name)
    except WanalyzeError:
        pass


def sharded(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    save_file({"a": normal(2)}, folder / "one.safetensors")
    save_file({"b": normal(2)}, folder / "two.safetensors")
    weight_map: dict[str, object] = {"a": "one.safetensors", "b": "two.safetensors", **changes}
    weight_map = {name: shard for name, shard in weight_map.items() if shard is not None}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"b": "three.safetensors"}, "missing"),
        ({"b": "../outside.safetensors"}, "outside"),
        ({"b": "/etc/passwd.safetensors"}, "outside"),
        ({"b": "C:\\x.safetensors"}, "outside"),
        ({"b": "..\\x.safetensors"}, "outside"),
        ({"b": "pytorch_model.bin"}, "no .safetensors"),
        ({"b": 7}, "no text"),
        ({"b": None, "a": "two.safetensors"}, "does not list"),
        ({"c": "two.safetensors"}, "does not hold"),
        ({"a": "two.safetensors", "b": "one.safetensors"}, "lists it in"),
    ],
)
def test_an_index_must_agree_with_its_shards(tmp_path: Path, changes: dict[str, object], rule: str) -> None:
    with pytest.raises(CheckpointError, match=rule):
        open_checkpoint(sharded(tmp_path / "model", **changes))


@given(st.binary(max_size=12), st.integers(0, 80))
@settings(max_examples=150, deadline=None)
def test_a_mutated_index_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    folder = sharded(tmp_path_factory.mktemp("fuzz") / "model")
    index = folder / "model.safetensors.index.json"
    content = bytearray(index.read_bytes())
    content[at : at + len(noise)] = noise
    index.write_bytes(content)
    with suppress(WanalyzeError):
        assert open_checkpoint(folder).entries.keys() == {"a", "b"}


def test_a_shard_may_not_be_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    (folder / "two.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "two.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="link out of the folder"):
        open_checkpoint(folder)


def test_the_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "blobs")
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert open_checkpoint(snapshot).entries.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        ([], "no weights"),
        (["README.md"], "no weights"),
        (["pytorch_model.bin"], "not a file that torch.save wrote"),
        (["model.gguf"], "GGUF"),
        (["a.safetensors", "b.safetensors"], "pass one of them"),
        (["adapter_config.json", "model.safetensors"], "an adapter and a checkpoint"),
        (["adapter_config.json"], "missing"),
    ],
)
def test_a_folder_says_what_it_lacks(tmp_path: Path, names: list[str], rule: str) -> None:
    for name in names:
        if name.endswith(".safetensors"):
            save_file({"a": normal(2)}, tmp_path / name)
        else:
            (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=rule):
        open_checkpoint(tmp_path)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", tiny_base())
    found = open_checkpoint(folder)
    save_checkpoint(folder, tiny_base(seed=3) | {"more": normal(5)})
    with pytest.raises(CheckpointError, match="changed while"):
        found.read("model.embed_tokens.weight")


def test_a_truncated_file_is_an_error_and_no_crash(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", tiny_base())
    found = open_checkpoint(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError):
        found.read("model.layers.1.norm.weight")


@pytest.mark.parametrize(
    "read", [lambda found: found.read("model.layers.1.norm.weight"), lambda found: found.files[0].sha256()]
)
@pytest.mark.parametrize("other", ["a pipe", "a device"])
def test_what_takes_the_place_of_a_file_is_noticed_at_once(
    tmp_path: Path, read: Callable[[Checkpoint], object], other: str
) -> None:
    folder = save_checkpoint(tmp_path / "m", tiny_base())
    found = open_checkpoint(folder)
    path = folder / "model.safetensors"
    path.unlink()
    os.mkfifo(path) if other == "a pipe" else path.symlink_to("/dev/zero")
    with within_limits(), pytest.raises(CheckpointError, match="changed while"):
        read(found)


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(tmp_path / "m", tiny_base())

    def forbid(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)  # what a mode of 000 does to all but root
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read \(Permission denied"):
        open_checkpoint(folder)


def test_a_tensor_larger_than_memory_is_refused_before_it_is_asked_for(tmp_path: Path) -> None:
    size = 2**38
    path = write(tmp_path / "x.safetensors", {"a": entry(0, size, [size // 4])})
    with path.open("rb+") as stream:
        stream.truncate(path.stat().st_size + size)  # sparse: takes no room
    with pytest.raises(CheckpointError, match="of memory are free"):
        open_checkpoint(path).read("a")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="regular file"):
        open_checkpoint(tmp_path)


def test_listing_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanalyze.checkpoints.checkpoint.TensorEntry.read", lambda self: pytest.fail("read"))
    found = open_checkpoint(save_checkpoint(tmp_path / "m", tiny_base()))
    assert isinstance(found, Checkpoint)
    assert found.entries["model.layers.0.mlp.up_proj.weight"].shape == (20, 16)
