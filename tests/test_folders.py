"""What a folder holds, by the names of its files: one file, shards, variants, two formats, a pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import Run, tiny_base
from wanalyze.checkpoints import open_checkpoint
from wanalyze.errors import CheckpointError

WHOLE = tiny_base()
NAMES = sorted(WHOLE)
HALVES = [{name: WHOLE[name] for name in names} for names in (NAMES[:4], NAMES[4:])]


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".safetensors"):
        save_file(dict(tensors), path)
    else:
        torch.save(dict(tensors), path)


def write_shards(folder: Path, names: Sequence[str], index: str | None = None) -> None:
    for name, half in zip(names, HALVES, strict=True):
        write(folder / name, half)
    if index is not None:
        weight_map = {key: name for name, half in zip(names, HALVES, strict=True) for key in half}
        (folder / index).write_text(json.dumps({"weight_map": weight_map}))


def numbered(pattern: str) -> list[str]:
    return [pattern.format(f"0000{i}-of-00002") for i in (1, 2)]


# The files of one model, and its index.
SHARDS: dict[str, tuple[list[str], str | None]] = {
    "with an index": (numbered("model-{}.safetensors"), "model.safetensors.index.json"),
    "without an index": (numbered("model-{}.safetensors"), None),
    "under any names": (["one.safetensors", "two.safetensors"], "model.safetensors.index.json"),
    "pickles": (numbered("pytorch_model-{}.bin"), "pytorch_model.bin.index.json"),
    "pickles without an index": (numbered("pytorch_model-{}.bin"), None),
    "a variant of transformers": (numbered("model.fp16-{}.safetensors"), "model.safetensors.index.fp16.json"),
    "a variant of diffusers": (
        numbered("diffusion_pytorch_model-{}.fp16.safetensors"),
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ),
    "a variant without an index": (numbered("model-{}.fp16.safetensors"), None),
}


@pytest.mark.parametrize(("names", "index"), SHARDS.values(), ids=SHARDS)
def test_shards_are_one_model_of_which_nothing_is_left_out(tmp_path: Path, names: list[str], index: str | None) -> None:
    write_shards(tmp_path, names, index)
    found = open_checkpoint(tmp_path)
    assert [file.name for file in found.files] == names
    assert found.entries.keys() == WHOLE.keys()
    assert all(torch.equal(found.read(name), tensor) for name, tensor in WHOLE.items())
    assert found.notes == ()


# Which of several sets of weights is read, and what beside it is not, in the note.
SEVERAL: dict[str, tuple[list[str], str, str]] = {
    "two formats": (["model.safetensors", "pytorch_model.bin"], "model.safetensors", "pytorch_model.bin"),
    "a variant": (["model.fp16.safetensors", "model.safetensors"], "model.safetensors", "model.fp16.safetensors"),
    "Mistral's own": (["consolidated.safetensors", "model.safetensors"], "model.safetensors", "consolidated."),
    "a variant alone": (["model.fp16.safetensors"], "model.fp16.safetensors", ""),
    "what a trainer leaves": (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], "pytorch_model.bin", ""),
    "a file by another name": (["best.ckpt"], "best.ckpt", ""),
}


@pytest.mark.parametrize(("names", "read", "left"), SEVERAL.values(), ids=SEVERAL)
def test_of_several_sets_the_usual_one_is_read_and_said(tmp_path: Path, names: list[str], read: str, left: str) -> None:
    for name in names:
        write(tmp_path / name, WHOLE if name == read else {"other": torch.ones(2)})
    found = open_checkpoint(tmp_path)
    assert [file.name for file in found.files] == [read]
    assert found.entries.keys() == WHOLE.keys()
    assert bool(found.notes) == bool(left)
    assert all(note.startswith(f"{read} was read; {left}") for note in found.notes)


def test_shards_of_two_saves_are_not_guessed_apart(tmp_path: Path) -> None:
    write_shards(tmp_path, numbered("model-{}.safetensors"))
    write(tmp_path / "model-00001-of-00003.safetensors", HALVES[0])
    with pytest.raises(CheckpointError, match="of two saves"):
        open_checkpoint(tmp_path)
    write_shards(tmp_path, numbered("model-{}.safetensors"), "model.safetensors.index.json")
    assert len(open_checkpoint(tmp_path).files) == 2  # an index says which of them is meant


def test_a_pipeline_is_read_by_component(tmp_path: Path, cli: Run) -> None:
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    write(tmp_path / "unet/diffusion_pytorch_model.safetensors", WHOLE)
    write(tmp_path / "vae/diffusion_pytorch_model.safetensors", {"other": torch.ones(2)})
    asked = cli("inspect", tmp_path)
    assert asked.code == 2
    assert f"a diffusers pipeline of unet, vae; pass one of them, as in {tmp_path}/unet" in asked.err
    assert open_checkpoint(tmp_path / "unet").entries.keys() == WHOLE.keys()


def test_a_file_may_have_any_name(tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned" / os.fsdecode(b"\xff\x1b[31m.safetensors")
    for path in (base / "model.safetensors", base / tuned.name, tuned):
        write(path, WHOLE)
    monkeypatch.chdir(tmp_path)
    done = cli("compare", base, f"t={tuned}", "-o", "out")
    assert done.code == 0
    assert "model.safetensors was read; \\udcff\\x1b[31m.safetensors beside it was not" in " ".join(done.out.split())
    names = [file["name"] for file in json.loads(Path("out/result.json").read_text())["models"][0]["files"]]
    assert names == ["\\udcff\\x1b[31m.safetensors"]
    assert "\x1b" not in Path("out/report.html").read_text() + done.out


def test_safetensors_called_bin_is_read_by_its_content(tmp_path: Path) -> None:
    save_file(WHOLE, tmp_path / "pytorch_model.bin")
    found = open_checkpoint(tmp_path)
    assert torch.equal(found.read(NAMES[0]), WHOLE[NAMES[0]])
    assert found.notes == ("pytorch_model.bin is safetensors by its content and was read as that",)
