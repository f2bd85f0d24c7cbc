"""Distributed checkpoints, damaged or forged: refused in one sentence, in no time, and nothing in them is run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorProperties

from tests import torch_files as files
from tests.conftest import normal
from tests.distributed_files import Box, Made, Sharded, blob, grid, made
from tests.limits import within_limits
from tests.torch_files import Trap, mapping, number, numbers, pickled, record, text
from wanalyze.checkpoints import open_checkpoint
from wanalyze.errors import CheckpointError

Change = Callable[[Made], None]
TENSOR = normal(6, 4)
BOXES = grid((0, 2, 6), (0, 4))


def boxes(*found: Box) -> Change:
    return lambda it: it.metadata.state_dict_metadata.update(w=Sharded(TENSOR, [*found]).described)


def placed(index: int, **fields: object) -> Change:
    """The nth chunk lies elsewhere."""

    def change(it: Made) -> None:
        info = list(it.metadata.storage_data.values())[index]
        for name, value in fields.items():
            setattr(info, name, value)

    return change


def put(name: str, value: object) -> Change:
    return lambda it: setattr(it.metadata, name, value)


def described(**fields: object) -> Change:
    return lambda it: vars(it.metadata.state_dict_metadata["w"]).update(fields)


def chunk(content: bytes) -> Change:
    """Both chunks are these bytes."""
    return lambda it: vars(it).update(vars(made({"w": Sharded(TENSOR, BOXES, [content, content])})))


def file(content: bytes | None) -> Change:
    """The first file is this, or missing."""

    def change(it: Made) -> None:
        if content is None:
            del it.files["__0_0.distcp"]
        else:
            it.files["__0_0.distcp"] = content

    return change


def same_bytes(it: Made) -> None:
    first, second = it.metadata.storage_data.values()
    first.__dict__.update(vars(second))


HOLE = ((3, 0), (3, 4))
BROKEN: dict[str, tuple[Change, str]] = {
    # chunks
    "a hole": (boxes(BOXES[0], HOLE), r"'w' has a chunk at \[3, 0\] that lies nowhere"),
    "a chunk too few": (boxes(BOXES[0]), "'w' has chunks that overlap or leave a hole"),
    "a chunk twice": (boxes(BOXES[0], BOXES[0], BOXES[1]), "overlap or leave a hole"),
    "a longer chunk": (boxes(((0, 0), (3, 4)), BOXES[1]), "overlap or leave a hole"),
    "no chunks": (boxes(), "overlap or leave a hole"),
    "chunks that are no list": (described(chunks={}), "has no list of chunks"),
    "chunks of one dimension": (boxes(((0,), (2,)), ((2,), (4,))), r"has a chunk at \[0\] that lies nowhere"),
    "a negative place": (boxes(((-2, 0), (2, 4)), BOXES[1]), "sizes or offsets that are no whole numbers"),
    "a size of 2^62": (described(size=torch.Size([2**62, 4])), "sizes or offsets that are no whole numbers"),
    "nine dimensions": (described(size=torch.Size([1] * 9)), "sizes or offsets that are no whole numbers"),
    "another shape": (described(size=torch.Size([6, 5])), "overlap or leave a hole"),
    "a larger dtype": (described(properties=TensorProperties(torch.float64)), r"is float32 of .* says float64"),
    "a dtype too large for its chunks": (
        lambda it: it.metadata.state_dict_metadata.update(
            w=Sharded(torch.empty(2**20, 2**20, device="meta"), [((0, 0), (2**20, 2**20))]).described
        ),
        "a chunk of 4398046511104 bytes in a range of",
    ),
    "properties that are none": (described(properties=None), "something else where TensorProperties is needed"),
    # places
    "no places": (put("storage_data", None), "it has no storage_data"),
    "places that are a list": (put("storage_data", []), "it has no storage_data"),
    "a place that is none": (lambda it: it.metadata.storage_data.update({"w": 1}), "where MetadataIndex is needed"),
    "bytes that two chunks share": (same_bytes, r"two chunks share bytes of '__1_0\.distcp'"),
    "a file above the folder": (placed(0, relative_path="../x.distcp"), "outside the folder"),
    "an absolute file": (placed(0, relative_path="/etc/passwd"), "outside the folder"),
    "a file of another system": (placed(0, relative_path="C:\\x"), "outside the folder"),
    "a file with an end": (placed(0, relative_path="x\0"), "outside the folder"),
    "a file without a name": (placed(0, relative_path=""), "outside the folder"),
    "a file that is none": (placed(0, relative_path=7), "without a file, an offset and a length"),
    "a start below 0": (placed(0, offset=-1), "without a file, an offset and a length"),
    "a length of 2^62": (placed(0, length=2**62), "places a chunk up to byte 4611686018427387904; download it again"),
    "a place beyond": (placed(1, offset=9999), "places a chunk up to byte"),
    "a place a byte further": (placed(0, offset=1, length=1000), "not a file that torch.save wrote"),
    "compressed": (placed(0, transform_descriptors=["zstd"]), "compressed or encrypted"),
    # files
    "a missing file": (file(None), r"__0_0\.distcp: cannot be read \(No such file"),
    "an empty file": (file(b""), r"__0_0\.distcp: 0 bytes, \.metadata places a chunk up to byte"),
    "a file that is no zip": (file(bytes(5000)), r"__0_0\.distcp: not a file that torch\.save wrote"),
    "a chunk of another shape": (chunk(blob(normal(4, 2))), r"is float32 of \[4, 2\], \.metadata says float32 of"),
    "a chunk of another dtype": (chunk(blob(normal(2, 4).double())), "is float64 of"),
    "a chunk that is expanded": (chunk(blob(normal(1, 1).expand(2, 4))), "8 elements in 1 places"),
    "a chunk that is a dict": (chunk(blob({"w": normal(2, 4)})), "holds no tensor"),
    "a chunk that is a class": (chunk(blob(torch.nn.Linear(2, 4))), "a whole model"),
    "a chunk that is a bare pickle": (chunk(pickle.dumps([1.0] * 99)), "a bare pickle"),
    # the tree of names
    "a value that holds others": (
        lambda it: vars(it.metadata).update(
            state_dict_metadata=it.metadata.state_dict_metadata | {"x": BytesStorageMetadata()},
            planner_data={"w": ("a", "b"), "x": ("a",)},
        ),
        "'a' stands for two values",
    ),
    "others in a value": (
        lambda it: vars(it.metadata).update(
            state_dict_metadata={"x": BytesStorageMetadata()} | it.metadata.state_dict_metadata,
            planner_data={"w": ("a", "b"), "x": ("a",)},
        ),
        "'a' is a value and holds others",
    ),
    "a path without end": (put("planner_data", {"w": ("a",) * 1000}), "more than 32 names or numbers"),
    "a path of fractions": (put("planner_data", {"w": (0.5, 1)}), "more than 32 names or numbers"),
    "no tensors": (put("state_dict_metadata", {"x": BytesStorageMetadata()}), "holds no tensors"),
    "no values": (put("state_dict_metadata", None), "it has no state_dict_metadata"),
    "a name that is a number": (put("state_dict_metadata", {7: BytesStorageMetadata()}), "has no state_dict_metadata"),
}  # fmt: skip


def refused(folder: Path, why: str) -> None:
    with within_limits(), pytest.raises(CheckpointError, match=why) as caught:
        open_checkpoint(folder).read("w")
    said = str(caught.value)
    assert said.startswith(str(folder))
    assert len(said) < 500 + len(str(folder))
    assert said.isprintable()


@pytest.mark.parametrize(("change", "why"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Change, why: str) -> None:
    it = made({"w": Sharded(TENSOR, BOXES)})
    change(it)
    refused(it.save(tmp_path), why)


def test_a_tensor_larger_than_memory_is_refused_before_it_is_made(tmp_path: Path) -> None:
    size = 2**40
    it = made({"w": Sharded(torch.empty(size // 4, device="meta"), [((0,), (size // 4,))], [b""])})
    placed(0, length=size)(it)
    with (it.save(tmp_path) / "__0_0.distcp").open("wb") as stream:
        stream.truncate(size)  # sparse: takes no room
    refused(tmp_path, "bytes of memory are free")


@pytest.mark.parametrize("value", files.TRAPS.values(), ids=files.TRAPS)
def test_nothing_that_the_metadata_names_is_run(tmp_path: Path, value: bytes) -> None:
    Trap.sprung.clear()
    (tmp_path / ".metadata").write_bytes(pickled(value, 4))
    refused(tmp_path, "no state dict takes|which is not part of a state dict|which it has none")
    assert not Trap.sprung


_METADATA = "torch.distributed.checkpoint.metadata"
SIZE = files.called("torch.Size", numbers([1]))
CHUNK = record(f"{_METADATA}.ChunkStorageMetadata", {"offsets": SIZE, "sizes": SIZE})
IT = pickle.BINGET + b"\0"


def remembered(value: bytes) -> bytes:
    return value + pickle.BINPUT + b"\0"


def listed(values: bytes) -> bytes:
    return pickle.EMPTY_LIST + pickle.MARK + values + pickle.APPENDS


def tensors(chunks: bytes) -> bytes:
    """A thousand tensors that share a list of chunks."""
    fields = {"properties": pickle.NONE, "size": SIZE, "chunks": chunks}
    shared = remembered(record(f"{_METADATA}.TensorStorageMetadata", fields))
    items = b"".join(text(str(i)) + IT for i in range(1000))
    return pickle.EMPTY_DICT + pickle.MARK + text("w") + shared + items + pickle.SETITEMS


ONE = record(
    f"{_METADATA}.TensorStorageMetadata",
    {
        "properties": record(f"{_METADATA}.TensorProperties", {"dtype": files.named("torch.float32")}),
        "size": SIZE,
        "chunks": listed(CHUNK),
    },
)
INDEX = record(f"{_METADATA}.MetadataIndex", {"fqn": text("w"), "offset": SIZE})
INFO = record(
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    {"relative_path": text("x"), "offset": number(0), "length": number(1)},
)

HOSTILE = {
    "nothing": (b"", "cut short"),
    "no pickle": (b"<!doctype html>", "instruction 0x3c"),
    "a dict": (pickled(mapping({})), "something else where Metadata is needed"),
    "metadata without anything": (pickled(record(f"{_METADATA}.Metadata", {})), "it has no state_dict_metadata"),
    "a command": (pickled(files.called("posix.system", text("echo"))), "'posix.system', which is not part"),
    "a class that is called": (pickled(files.called(f"{_METADATA}.Metadata", number(1))), "calls Metadata"),
    "a storage": (pickled(number(1) + pickle.BINPERSID), "refers to a storage, of which it has none"),
    "two chunks at one place": (
        pickled(record(f"{_METADATA}.Metadata", {
            "state_dict_metadata": mapping({"w": ONE}),
            "storage_data": pickle.EMPTY_DICT + pickle.MARK + (INDEX + INFO) * 2 + pickle.SETITEMS,
        })),
        r"'w' has two chunks at \[1\]",
    ),
    "a list of chunks in many places": (
        pickled(record(f"{_METADATA}.Metadata", {
            "state_dict_metadata": tensors(listed(CHUNK + pickle.BINPUT + b"\0" + IT * 50_000)),
        })),
        "more than 50000 chunks",
    ),
    "one state of many objects": (
        pickled(
            remembered(mapping({f"{i}": pickle.NONE for i in range(50_000)}))
            + (files.named(f"{_METADATA}.Metadata") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + IT + pickle.BUILD) * 5000
        ),
        "it has no state_dict_metadata",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "why"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_metadata_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    refused(tmp_path, why)


def test_metadata_of_any_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / ".metadata").open("wb") as stream:
        stream.truncate(2**40)
    refused(tmp_path, "1099511627776 bytes, 67108864 are allowed")
