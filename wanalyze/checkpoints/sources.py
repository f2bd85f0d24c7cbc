"""What lies at a path: a checkpoint (one file, or shards with an index) or an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wanalyze.checkpoints.checkpoint import Checkpoint
from wanalyze.checkpoints.header import read_header
from wanalyze.checkpoints.shards import read_shards
from wanalyze.checkpoints.strict_json import read_object
from wanalyze.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_NOT_YET = {
    ".bin": "a torch pickle",
    ".pt": "a torch pickle",
    ".pth": "a torch pickle",
    ".ckpt": "a torch pickle",
    ".gguf": "a GGUF file",
}


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter as it lies on disk, not yet understood: its config and its tensors."""

    config: Mapping[str, object]
    weights: Checkpoint

    @property
    def name(self) -> str:
        return self.weights.name


def open_source(path: Path) -> Checkpoint | AdapterFiles:
    """The checkpoint or adapter at `path`; reads headers, index and config, no tensor."""
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not exists:
        raise CheckpointError(f"{path}: no such file or folder")
    return _open_folder(path) if is_folder else _open_file(path)


def open_checkpoint(path: Path) -> Checkpoint:
    """As `open_source`, for places where an adapter makes no sense."""
    source = open_source(path)
    if isinstance(source, AdapterFiles):
        raise CheckpointError(
            f"{path}: is an adapter, a checkpoint with the whole weights is needed here; "
            f"it was made for {source.config.get('base_model_name_or_path') or 'a base it does not name'!r}"
        )
    return source


def _open_file(path: Path) -> Checkpoint | AdapterFiles:
    if path.name.endswith(INDEX_SUFFIX):
        return _sharded(path.parent, path)
    if path.name == ADAPTER_WEIGHTS:
        config = path.with_name(ADAPTER_CONFIG)
        if not config.is_file():
            raise CheckpointError(f"{path}: no {ADAPTER_CONFIG} beside it, so its scale is unknown")
        return _adapter(path.parent)
    if (what := _NOT_YET.get(path.suffix)) is not None:
        raise CheckpointError(f"{path}: {what}, which is not supported yet; save it as safetensors")
    return _single(path, path)


def _open_folder(folder: Path) -> Checkpoint | AdapterFiles:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from error
    weights = [name for name in names if name.endswith(".safetensors") and name != ADAPTER_WEIGHTS]
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if ADAPTER_CONFIG in names:
        if weights or indexes:
            other = (indexes or weights)[0]
            raise CheckpointError(
                f"{folder}: holds an adapter and a checkpoint; pass {folder / ADAPTER_WEIGHTS} for the one "
                f"or {folder / other} for the other"
            )
        return _adapter(folder)
    if len(indexes) == 1:
        return _sharded(folder, folder / indexes[0])
    if len(weights) == 1 and not indexes:
        return _single(folder, folder / weights[0])
    raise CheckpointError(f"{folder}: {_why_not(folder, names, indexes or weights)}")


def _why_not(folder: Path, names: list[str], choices: list[str]) -> str:
    if choices:
        return f"holds {', '.join(choices[:4])}{', …' if len(choices) > 4 else ''}: pass one of them by its path"
    for name in names:
        if (what := _NOT_YET.get(Path(name).suffix)) is not None:
            return f"holds no safetensors, only {name}: {what}, which is not supported yet; save it as safetensors"
    inside = [name for name in names if (folder / name / ADAPTER_CONFIG).is_file()]
    if inside:
        return f"holds no weights itself, but adapters in {', '.join(inside[:4])}: pass one of them"
    return "no weights in it: a .safetensors file, an index of shards or an adapter_config.json is needed"


def _adapter(folder: Path) -> AdapterFiles:
    path = folder / ADAPTER_WEIGHTS
    config = read_object(folder / ADAPTER_CONFIG)
    if not path.is_file():
        is_pickle = (folder / "adapter_model.bin").exists()
        why = (
            "adapter_model.bin is a torch pickle, which is not supported yet"
            if is_pickle
            else f"{path.name} is missing"
        )
        raise CheckpointError(f"{folder}: {why}")
    return AdapterFiles(config, _single(folder, path))


def _single(given: Path, path: Path) -> Checkpoint:
    file, entries = read_header(path, name=path.name)
    return Checkpoint(str(given), (file,), {entry.name: entry for entry in entries})


def _sharded(folder: Path, index: Path) -> Checkpoint:
    files, entries = read_shards(folder, index)
    return Checkpoint(str(folder), files, entries)
