"""What a result says of the files it came from: all that were read, and what was in them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

import wanalyze
from tests.conftest import FIXTURES, lora_factors, save_adapter, save_checkpoint, tiny_base
from wanalyze.result import Model, Source


def hashes(source: Source | Model) -> dict[str, str | None]:
    return {file.name: file.sha256 for file in source.files}


def on_disk(folder: Path, *names: str) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_every_file_that_was_read_is_named_with_its_hash(tmp_path: Path) -> None:
    base = shutil.copytree(FIXTURES / "base", tmp_path / "base")
    (base / "config.json").write_text('{"model_type": "llama"}')
    (base / "tokenizer.json").write_text("{}")
    adapter = save_adapter(tmp_path / "a", lora_factors("model.layers.0.self_attn.q_proj", 192, 192))
    result = wanalyze.compare(base, adapter)
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert hashes(result.base) == on_disk(base, *shards, "model.safetensors.index.json", "config.json")
    assert hashes(result.models[0]) == on_disk(adapter, "adapter_model.safetensors", "adapter_config.json")


def test_of_a_file_too_large_to_read_twice_every_tensor_has_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wanalyze.engine.provenance._SMALL", 500)
    before, after = tiny_base(), tiny_base(seed=1)
    base, tuned = save_checkpoint(tmp_path / "base", before), save_checkpoint(tmp_path / "tuned", after)
    (base / "config.json").write_text("{}")
    result = wanalyze.compare(base, tuned)
    for source, tensors in ((result.base, before), (result.models[0], after)):
        assert hashes(source)["model.safetensors"] is None
        assert source.tensors == {
            name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for name, tensor in tensors.items()
        }
    assert hashes(result.base)["config.json"] == hashlib.sha256(b"{}").hexdigest()
