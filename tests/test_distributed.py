"""Folders that torch.distributed.checkpoint wrote: read as torch reads them, and with none of its trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties as OldProperties
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from tests.conftest import normal, save_checkpoint
from tests.distributed_files import Box, Sharded, grid, made
from tests.torch_files import assert_same, raw
from wanalyze.checkpoints import open_checkpoint
from wanalyze.checkpoints.content import rows
from wanalyze.checkpoints.dtypes import DTYPES, Holds
from wanalyze.checkpoints.files import LocalFile
from wanalyze.errors import CheckpointError

# torch says of every save and load by one process that it is one.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

READ = [getattr(torch, dtype.name) for dtype in DTYPES.values() if dtype.holds is not Holds.unsupported]
WEIGHTS = {"a.weight": normal(6, 4), "a.bias": normal(6, seed=1)}


def save(folder: Path, state: Mapping[str, object], **options: object) -> Path:
    dcp.save(dict(state), storage_writer=FileSystemWriter(folder, **options), no_dist=True)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("dtype", READ, ids=str)
def test_every_dtype_is_read_as_it_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    matrix = (10 * normal(6, 5)).abs().to(dtype)
    state = {"matrix": matrix, "transposed": matrix.T, "part": matrix[2:4, 1:3], "row": matrix[3]}
    state |= {"scalar": torch.ones((), dtype=dtype), "nothing": torch.zeros(0, 4, dtype=dtype)}
    assert_same(open_checkpoint(save(tmp_path, state)), state)


def test_dtypes_that_nobody_computes_with_are_listed_and_not_read(tmp_path: Path) -> None:
    found = open_checkpoint(save(tmp_path, {"a": normal(2), "b": normal(2, 3).to(torch.complex64)}))
    assert found.entries["b"].shape == (2, 3)
    with pytest.raises(CheckpointError, match="dtype C64 is not read"):
        found.read("b")


@pytest.mark.parametrize("options", [{}, {"thread_count": 3}, {"single_file_per_rank": False}], ids=str)
def test_tensors_may_lie_in_many_files(tmp_path: Path, options: dict[str, object]) -> None:
    state = {f"{i}.weight": normal(3, 4, seed=i) for i in range(5)}
    found = open_checkpoint(save(tmp_path, state, **options))
    assert_same(found, state)
    assert [file.name for file in found.files] == sorted(file.name for file in tmp_path.iterdir())


def test_the_model_is_found_beside_its_optimizer_under_the_names_it_had(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": normal(6, 4), "step": 3}}, "param_groups": [{"lr": 0.1}]}
    found = open_checkpoint(save(tmp_path, {"model": WEIGHTS, "optimizer": optimizer, "epoch": 2}))
    assert_same(found, WEIGHTS)
    assert found.notes == ("weights taken from 'model'; 'optimizer' beside it was not read",)


def test_what_a_trainer_wrote_into_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    save(tmp_path / "pytorch_model_fsdp_0", WEIGHTS)
    save(tmp_path / "optimizer_0", {"x": normal(2)})
    assert_same(open_checkpoint(tmp_path), WEIGHTS)
    save(tmp_path / "pytorch_model_fsdp_1", WEIGHTS)
    with pytest.raises(CheckpointError, match="pytorch_model_fsdp_0/, pytorch_model_fsdp_1/: pass one of them"):
        open_checkpoint(tmp_path)


def test_safetensors_beside_it_is_read_instead(tmp_path: Path) -> None:
    save(tmp_path, {"b": normal(2)})
    assert_same(open_checkpoint(save_checkpoint(tmp_path, WEIGHTS)), WEIGHTS)


# Tensors in chunks, as several writers leave them.


GRIDS = {
    "one": (normal(6, 4), grid((0, 6), (0, 4))),
    "rows": (normal(7, 4), grid((0, 2, 4, 6, 7), (0, 4))),
    "columns": (normal(6, 4), grid((0, 6), (0, 1, 4))),
    "blocks": (normal(7, 5), grid((0, 3, 7), (0, 1, 3, 5))),
    "a kernel": (normal(4, 3, 2), grid((0, 1, 4), (0, 3), (0, 1, 2))),
    "a vector": (normal(5), grid((0, 2, 5))),
    "a scalar": (normal(1)[0], grid()),
    "more ranks than rows": (normal(2, 4), [*grid((0, 1, 2), (0, 4)), ((2, 0), (0, 4))]),
    "no rows": (normal(0, 4), [((0, 0), (0, 4))]),
    "no chunks": (normal(0, 4), []),
    "out of order": (normal(6, 4), grid((0, 2, 4, 6), (0, 2, 4))[::-1]),
    "eight bits": (normal(6, 4).to(torch.float8_e4m3fn), grid((0, 2, 6), (0, 4))),
}


@pytest.mark.parametrize(("tensor", "boxes"), GRIDS.values(), ids=GRIDS)
def test_chunks_are_put_together_as_torch_does_it(tmp_path: Path, tensor: Tensor, boxes: list[Box]) -> None:
    made({"w": Sharded(tensor, boxes), "other": Sharded(normal(3), grid((0, 3)))}).save(tmp_path)
    loaded = {"w": torch.zeros_like(tensor), "other": torch.zeros(3)}
    dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    assert_same(open_checkpoint(tmp_path), loaded)
    assert raw(loaded["w"]) == raw(tensor)


def test_chunks_read_by_rows_are_those_that_the_rows_lie_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = normal(9, 4)
    made({"w": Sharded(tensor, grid((0, 3, 6, 9), (0, 2, 4)))}).save(tmp_path)
    content = open_checkpoint(tmp_path).entries["w"].content
    for start in range(9):
        for stop in range(start + 1, 10):
            assert torch.equal(rows(content, start, stop).read(), tensor[start:stop])
    part = rows(rows(content, 1, 8), 3, 5)
    assert torch.equal(part.read(), tensor[4:6])
    assert len(part.pieces) == 2
    monkeypatch.setattr(LocalFile, "read", lambda *_: pytest.fail("read"))
    assert (part.shape, part.dtype.name) == ((2, 4), "float32")


def test_listing_reads_the_metadata_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, WEIGHTS)
    read: list[str] = []
    plain = LocalFile.read
    monkeypatch.setattr(LocalFile, "read", lambda self, *at: read.append(self.name) or plain(self, *at))
    found = open_checkpoint(tmp_path)
    assert read == [".metadata"]
    found.read("a.bias")
    assert read == [".metadata", "__0_0.distcp"]


def test_what_torch_before_24_wrote_is_read(tmp_path: Path) -> None:
    checkpoint = made({"w": Sharded(normal(6, 4), grid((0, 2, 6), (0, 4)))})
    described = checkpoint.metadata.state_dict_metadata["w"]
    described.properties = OldProperties(torch.float32)  # type: ignore[union-attr,assignment]
    assert open_checkpoint(checkpoint.save(tmp_path)).read("w").tolist() == normal(6, 4).tolist()
