"""Files that torch.save wrote: read as torch reads them, without torch.load, and no more of them than is needed."""

from __future__ import annotations

import argparse
import json
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests import torch_files as files
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from tests.torch_files import assert_same
from wanalyze.adapters import parse_adapter
from wanalyze.checkpoints import AdapterFiles, open_checkpoint, open_source
from wanalyze.checkpoints.content import expect
from wanalyze.checkpoints.dtypes import DTYPES, Holds
from wanalyze.checkpoints.files import LocalFile, Range
from wanalyze.errors import CheckpointError

READ = [getattr(torch, dtype.name) for dtype in DTYPES.values() if dtype.holds is not Holds.unsupported]
LISTED = [
    *(torch.complex32, torch.complex64, torch.complex128, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.float8_e8m0fnu, torch.float4_e2m1fn_x2, torch.bits8, torch.bits16),
]
WEIGHTS = {"a.weight": normal(3, 4), "a.bias": normal(3, seed=1)}


def views(dtype: torch.dtype) -> dict[str, Tensor]:
    """Every way in which a tensor can lie in its storage, of which some share one."""
    matrix = (10 * normal(6, 5)).abs().to(dtype)
    return {
        "matrix": matrix,
        "transposed": matrix.T,
        "some rows": matrix[2:4],
        "some columns": matrix[:, 1:3],
        "every second": matrix[1::2, ::2],
        "a row": matrix[3],
        "a column": matrix[:, 3],
        "an element": matrix[4, 2],
        "its diagonal": matrix[:5].diagonal(),
        "a kernel": (10 * normal(2, 3, 4, 5)).abs().to(dtype).permute(0, 3, 1, 2),
        "a scalar": torch.ones((), dtype=dtype),
        "nothing": torch.zeros(0, 4, dtype=dtype),
        "no rows": matrix[6:],
        "no columns": matrix.T[:, 2:2],
        "one row, expanded": matrix[0].expand(1, -1),
    }


@pytest.mark.parametrize("dtype", READ, ids=str)
def test_every_view_of_every_dtype_is_read_as_torch_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(views(dtype), tmp_path / "x.bin")
    assert_same(open_checkpoint(tmp_path / "x.bin"), torch.load(tmp_path / "x.bin", weights_only=True))


@pytest.mark.parametrize("dtype", LISTED, ids=str)
def test_dtypes_that_nobody_computes_with_are_listed_and_not_read(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = torch.zeros(6, dtype.itemsize, dtype=torch.uint8).view(dtype)
    torch.save({"a": normal(2), "b": stored}, tmp_path / "x.bin")
    found = open_checkpoint(tmp_path / "x.bin")
    assert (found.entries["b"].shape, found.entries["b"].size) == ((6, 1), 6 * dtype.itemsize)
    with pytest.raises(CheckpointError, match=r"x\.bin: dtype .* is not read"):
        found.read("b")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_a_zip_is_read(tmp_path: Path, protocol: int) -> None:
    kept = {
        "seed": 2**64 - 1,
        "lr": 1e-3,
        "names": ["a", ("b",), {"c"}],
        "raw": b"\0" * 300,
        "é": "é" * 300,
        "no": None,
    }
    torch.save({"state_dict": WEIGHTS, **kept}, tmp_path / "x.bin", pickle_protocol=protocol)
    assert_same(open_checkpoint(tmp_path / "x.bin"), WEIGHTS)


def test_a_module_is_read_by_its_state_dict(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert isinstance(module.state_dict(), OrderedDict)
    torch.save(module.state_dict(), tmp_path / "x.bin")
    assert_same(open_checkpoint(tmp_path / "x.bin"), module.state_dict())


def test_parameters_are_tensors_whatever_hangs_on_them(tmp_path: Path) -> None:
    plain, marked = nn.Parameter(normal(3, 4)), nn.Parameter(normal(4, 3), requires_grad=False)
    marked.tensor_model_parallel = True  # type: ignore[attr-defined]
    torch.save({"a": plain, "b": marked}, tmp_path / "x.bin")
    assert_same(open_checkpoint(tmp_path / "x.bin"), {"a": plain, "b": marked})


def test_tied_tensors_are_both_there(tmp_path: Path) -> None:
    tied = {"embed.weight": (table := normal(5, 4)), "head.weight": table, "head.row": table[2]}
    torch.save(tied, tmp_path / "x.bin")
    found = open_checkpoint(tmp_path / "x.bin")
    assert_same(found, tied)
    places = [found.entries[name].content.pieces[0][1] for name in ("embed.weight", "head.weight")]
    assert places[0] == places[1]


def test_names_that_no_zip_spells_in_ascii_are_read(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "modèle.bin")
    assert_same(open_checkpoint(tmp_path / "modèle.bin"), WEIGHTS)


def test_an_archive_of_more_than_4_gib_is_read(tmp_path: Path) -> None:
    """Sparse: positions of more than 32 bits, and no bytes to speak of on the disk."""
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as made:
        made.writestr("x/byteorder", b"little")
        made.start_dir = 5 * 2**30  # where it goes on
        made.writestr("x/data.pkl", files.pickled(files.mapping({"a": files.tensor()})))
        made.writestr("x/data/0", files.FOUR)
    assert_same(open_checkpoint(tmp_path / "x.bin"), {"a": torch.tensor([1.0, 2, 3, 4])})


# Which of the values are the weights.


OTHERS = {"a.weight": normal(3, 4, seed=7), "a.bias": normal(3, seed=8)}
OPTIMIZER = {"state": {0: {"exp_avg": normal(3, 4), "step": 7}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
NESTED = {
    "nothing around": (WEIGHTS, ""),
    "lightning": (
        {
            "epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.5", "state_dict": WEIGHTS, "loops": {},
            "callbacks": {}, "optimizer_states": [OPTIMIZER], "lr_schedulers": [], "hyper_parameters": {"lr": 0.1},
        },
        "weights taken from 'state_dict'; 'loops', 'callbacks', 'optimizer_states', 'lr_schedulers', … beside it "
        "were not read",
    ),
    "model": ({"model": WEIGHTS, "optimizer": OPTIMIZER}, "taken from 'model'; 'optimizer' beside it was not read"),
    "module": ({"module": WEIGHTS, "dp_world_size": 8}, "weights taken from 'module'"),
    "two deep": ({"app": {"model": WEIGHTS}, "step": 3}, "weights taken from 'app.model'"),
    "the only one": ({"generator": WEIGHTS, "step": 3}, "weights taken from 'generator'"),
    "of several": ({"state_dict_ema": OTHERS, "state_dict": WEIGHTS}, "'state_dict_ema' beside it was not read"),
    "its own": ({**WEIGHTS, "optimizer": OPTIMIZER}, "'optimizer' is no tensor and was left out"),
    "plain values between": ({**WEIGHTS, "steps": 3, "name": "x"}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("saved", "note"), NESTED.values(), ids=NESTED)
def test_the_weights_are_found_and_what_was_chosen_is_said(tmp_path: Path, saved: object, note: str) -> None:
    torch.save(saved, tmp_path / "x.ckpt")
    found = open_checkpoint(tmp_path / "x.ckpt")
    assert_same(found, WEIGHTS)
    assert len(found.notes) == bool(note)
    assert note in "".join(found.notes)


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        ({"encoder": WEIGHTS, "decoder": OTHERS}, "no tensors itself, but dicts 'encoder', 'decoder'"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
        ([WEIGHTS], "holds a list, a state dict is needed"),
        (normal(3), "holds a single tensor, a state dict is needed"),
        ({0: normal(3)}, "a name that is no text"),
    ],
)
def test_where_there_is_no_one_state_dict_that_is_said(tmp_path: Path, saved: object, why: str) -> None:
    torch.save(saved, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=why):
        open_checkpoint(tmp_path / "x.ckpt")


# Files and folders.


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "x.pth", "best.ckpt", "pytorch_model.fp16.bin"])
def test_a_torch_file_is_known_by_its_ending_alone_and_in_a_folder(tmp_path: Path, name: str) -> None:
    torch.save(WEIGHTS, tmp_path / name)
    torch.save({"not": "weights"}, tmp_path / "training_args.bin")
    torch.save(OPTIMIZER, tmp_path / "optimizer.pt")
    assert_same(open_checkpoint(tmp_path / name), WEIGHTS)
    assert_same(open_checkpoint(tmp_path), WEIGHTS)


def test_of_two_formats_safetensors_is_read_and_that_is_said(tmp_path: Path) -> None:
    torch.save(OTHERS, tmp_path / "pytorch_model.bin")
    found = open_checkpoint(save_checkpoint(tmp_path, WEIGHTS))
    assert_same(found, WEIGHTS)
    assert found.notes == ("model.safetensors was read; pytorch_model.bin beside it was not",)


SHARDS = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
INDEX = {"a.weight": SHARDS[0], "a.bias": SHARDS[1]}


def sharded(folder: Path, weight_map: dict[str, str] | None = INDEX) -> Path:
    for name, shard in INDEX.items():
        torch.save({name: WEIGHTS[name]}, folder / shard)
    if weight_map is not None:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("weight_map", [INDEX, None], ids=["index", "no index"])
def test_shards_are_one_checkpoint(tmp_path: Path, weight_map: dict[str, str] | None) -> None:
    found = open_checkpoint(sharded(tmp_path, weight_map))
    assert_same(found, WEIGHTS)
    assert [file.name for file in found.files] == SHARDS


@pytest.mark.parametrize(
    ("weight_map", "why"),
    [
        ({**INDEX, "a.bias": SHARDS[0]}, "lists tensor 'a.bias'.*which does not hold it"),
        ({**INDEX, "b": SHARDS[0]}, "lists tensor 'b'.*which does not hold it"),
        ({"a.weight": SHARDS[0]}, f"does not name shard '{SHARDS[1]}'"),
        ({"a.weight": SHARDS[1], "a.bias": SHARDS[0]}, "holds tensor 'a.weight', but the index lists it in"),
        ({"a.weight": SHARDS[0], "b": SHARDS[1]}, "'a.bias', but the index does not list it"),
        ({**INDEX, "a.bias": "../x.bin"}, "outside"),
        ({**INDEX, "a.bias": "x.safetensors"}, r"no \.bin file"),
        ({**INDEX, "a.bias": "pytorch_model-00003-of-00002.bin"}, "missing"),
    ],
)
def test_an_index_and_the_pickles_it_names_must_agree(tmp_path: Path, weight_map: dict[str, str], why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        open_checkpoint(sharded(tmp_path, weight_map))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (sharded(tmp_path, None) / SHARDS[0]).unlink()
    with pytest.raises(CheckpointError, match=f"{SHARDS[0]} is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_an_adapter_may_be_a_pickle(tmp_path: Path, name: str) -> None:
    factors = lora_factors("model.layers.0.mlp.up_proj", 20, 16)
    save_adapter(tmp_path, factors)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(factors, tmp_path / name)
    source = open_source(tmp_path)
    assert isinstance(source, AdapterFiles)
    assert_same(source.weights, factors)
    assert parse_adapter(source).facts["ranks"] == {2: 1}


def test_of_two_files_of_an_adapter_safetensors_is_read_and_that_is_said(tmp_path: Path) -> None:
    factors = lora_factors("model.layers.0.mlp.up_proj", 20, 16)
    torch.save(tiny_base(), save_adapter(tmp_path, factors) / "adapter_model.bin")
    source = open_source(tmp_path)
    assert isinstance(source, AdapterFiles)
    assert_same(source.weights, factors)
    assert source.weights.notes == ("adapter_model.safetensors was read; adapter_model.bin beside it was not",)


# The files of Meta's tensor-parallel runs.


AXES = {"wq": 0, "wk": 0, "wo": 1, "w1": 0, "w2": 1, "output": 0}


def meta_model() -> dict[str, Tensor]:
    shapes = {"attention.wq": (8, 8), "attention.wk": (4, 8), "attention.wo": (8, 8)}
    shapes |= {"feed_forward.w1": (12, 8), "feed_forward.w2": (8, 12)}
    model = {f"layers.0.{name}.weight": normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    norms = {name: normal(8, seed=20) for name in ("norm.weight", "layers.0.ffn_norm.weight")}
    ends = {"tok_embeddings.weight": normal(24, 8, seed=30), "output.weight": normal(24, 8, seed=31)}
    return {**model, **norms, **ends, "rope.freqs": normal(4)}


def cut(folder: Path, model: dict[str, Tensor], count: int, embedding: int = 1) -> Path:
    for i in range(count):
        part = {}
        for name, tensor in model.items():
            axis = {**AXES, "tok_embeddings": embedding}.get(name.removesuffix(".weight").rpartition(".")[2])
            part[name] = tensor if axis is None else tensor.chunk(count, axis)[i].clone()
        torch.save(part, folder / f"consolidated.{i:02}.pth")
    return folder


@pytest.mark.parametrize("embedding", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_files_of_a_parallel_run_are_joined(tmp_path: Path, count: int, embedding: int) -> None:
    model = meta_model()
    cut(tmp_path, model, count, embedding)
    for place in (tmp_path, tmp_path / "consolidated.00.pth"):
        found = open_checkpoint(place)
        assert_same(found, model)
        assert len(found.files) == count
        assert found.notes == ((f"{count} files of a tensor-parallel run were joined",) if count > 1 else ())


def changed(name: str, tensor: Tensor | None) -> Callable[[Path], None]:
    """The second file with another tensor, or without one."""

    def change(folder: Path) -> None:
        part = torch.load(folder / "consolidated.01.pth") | {name: tensor}
        torch.save({k: v for k, v in part.items() if v is not None}, folder / "consolidated.01.pth")

    return change


WO = "layers.0.attention.wo.weight"
UNFIT = {
    "the first is missing": (lambda folder: (folder / "consolidated.00.pth").unlink(), r"consolidated\.00\.pth is m"),
    "one between": (lambda folder: (folder / "consolidated.02.pth").unlink(), r"consolidated\.02\.pth is m"),
    "the last": (lambda folder: (folder / "consolidated.03.pth").unlink(), r"\[6, 8\].* some file is missing"),
    "a tensor too few": (changed(WO, None), "do not hold the same tensors"),
    "a tensor too many": (changed("x.weight", normal(2)), "do not hold the same tensors"),
    "another dtype": (changed(WO, normal(8, 2).half()), "do not fit together"),
    "another length": (changed(WO, normal(7, 2)), "do not fit together"),
    "a vector": (changed(WO, normal(8)), "a matrix is needed"),
    "another norm": (changed("norm.weight", normal(9)), "do not fit together"),
}


@pytest.mark.parametrize(("change", "why"), UNFIT.values(), ids=UNFIT)
def test_files_of_a_parallel_run_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    change(cut(tmp_path, meta_model(), 4))
    with pytest.raises(CheckpointError, match=why):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({**meta_model(), "layers.0.gate.weight": normal(8, 8)}, "'layers.0.gate.weight', of which it is not known"),
        ({k: v for k, v in meta_model().items() if k != "norm.weight"}, "does not fit a norm of"),
        ({**meta_model(), "norm.weight": normal(6)}, r"does not fit a norm of \[6\]"),
    ],
)
def test_a_parallel_run_of_another_model_is_refused(tmp_path: Path, model: dict[str, Tensor], why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        open_checkpoint(cut(tmp_path, model, 2))


# What is not a state dict in a zip.


def saved(value: object, **options: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path, **options)  # type: ignore[arg-type]


def written(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have it exported
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), normal(1, 2)), path)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as made:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            made.addfile(tarfile.TarInfo(name))


def before_16(protocol: int) -> Callable[[Path], None]:
    return saved(WEIGHTS, _use_new_zipfile_serialization=False, pickle_protocol=protocol)


class Settings:
    """A class of somebody's script."""


REFUSED = {
    "before torch 1.6": (before_16(2), r"before 1\.6.*`torch\.save\(torch\.load\(path, weights_only=True\), path\)`"),
    "before 1.6, protocol 4": (before_16(4), r"before 1\.6"),
    "before torch 0.2": (tar, "a tar archive"),
    "TorchScript": (scripted, r"TorchScript archive.*torch\.jit\.load"),
    "a whole model": (saved(nn.Linear(2, 2)), r"'torch\.nn\.modules\.linear\.Linear', a whole model.*state_dict\(\)"),
    "arguments": (saved({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}), r"argparse\.Namespace.*trust"),
    "a class": (saved({"state_dict": WEIGHTS, "x": Settings()}), r"'tests\.test_pickles\.Settings', which is not part"),
    "numpy": (saved({"state_dict": WEIGHTS, "x": normal(2).numpy()}), r"'numpy\..*', which is not part"),
    "a sparse tensor": (saved({"a": torch.eye(3).to_sparse()}), "_rebuild_sparse_tensor', a kind of tensor"),
    "a negated view": (saved({"a": torch._neg_view(normal(3))}), "conjugated or negated"),
    "an expanded tensor": (saved({"a": normal(3, 1).expand(3, 5)}), r"'a' has 15 elements in 3 places.*clone\(\)"),
    "a bare pickle": (written(files.pickled(files.mapping({"a": files.number(1)}))), "a bare pickle, not a file"),
    "a bare pickle of tensors": (written(files.pickled(files.called("torch.storage._load_from_bytes"))), "bare pickle"),
    "cut short": (written(files.pickled(files.mapping({}))[:5]), "a bare pickle, and its pickle is cut short"),
    "nothing": (written(b""), "is empty"),
    "an LFS pointer": (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
    "a web page": (written(b"<!doctype html><html>not found</html>"), "web page"),
    "GGUF": (written(b"GGUF\3\0\0\0" + bytes(60)), "GGUF"),
    "an empty zip": (written(b"PK\5\6" + bytes(18)), "not a file that torch.save wrote"),
    "noise": (written(bytes(range(1, 99))), "not a file that torch.save wrote"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_what_else_is_called_bin_is_refused_with_the_way_out(
    tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    make(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=why) as caught:
        open_checkpoint(tmp_path / "x.bin")
    assert str(caught.value).startswith(f"{tmp_path / 'x.bin'}: ")
    assert "\n" not in str(caught.value)


# How much is read.


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Range]:
    """Where files are read, and how much."""
    found: list[Range] = []
    plain = LocalFile.read

    def read(self: LocalFile, start: int, size: int) -> bytearray:
        found.append((start, size))
        return plain(self, start, size)

    monkeypatch.setattr(LocalFile, "read", read)
    return found


def test_listing_reads_no_tensor_and_a_tensor_reads_only_itself(tmp_path: Path, reads: list[Range]) -> None:
    model = {"a": normal(512, 512), "b": normal(512, 512, seed=1), "c": normal(512, 512, seed=2)[100:102]}
    torch.save(model, tmp_path / "x.bin")
    found = open_checkpoint(tmp_path / "x.bin")
    assert sum(size for _, size in reads) < 2**16 + 4000  # one read of the end, where the directory is
    reads.clear()
    found.read("a")
    found.read("c")
    headers, contents = reads[::2], reads[1::2]
    assert [size for _, size in contents] == [2**20, 2 * 512 * 4]
    assert all(size < 200 for _, size in headers)


def test_what_will_be_read_is_told_to_the_file_beforehand(
    tmp_path: Path, reads: list[Range], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Range] = []
    monkeypatch.setattr(LocalFile, "expect", lambda self, ranges: told.extend(ranges))
    model = views(torch.float32)
    torch.save(model, tmp_path / "x.bin")
    found = open_checkpoint(tmp_path / "x.bin")
    reads.clear()
    expect(entry.content for entry in found.entries.values())
    for name in model:
        found.read(name)
    assert sorted(told) == sorted(reads)


def test_a_file_that_is_cut_short_or_changes_is_noticed(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.bin")
    whole = (tmp_path / "x.bin").read_bytes()
    found = open_checkpoint(tmp_path / "x.bin")
    (tmp_path / "x.bin").write_bytes(whole[:-300])
    with pytest.raises(CheckpointError, match="changed while"):
        found.read("a.weight")
    with pytest.raises(CheckpointError, match="not a whole zip archive"):
        open_checkpoint(tmp_path / "x.bin")
