"""A checkpoint cut into shards: the index, confined to its folder and held against the headers."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from wanalyze.checkpoints.checkpoint import TensorEntry, WeightFile
from wanalyze.checkpoints.header import read_header
from wanalyze.checkpoints.strict_json import read_object
from wanalyze.errors import CheckpointError


def read_shards(folder: Path, index: Path) -> tuple[tuple[WeightFile, ...], dict[str, TensorEntry]]:
    """The files and tensors that the index names.

    An index is only a claim: every shard must lie in the folder, and index and headers must
    name the same tensors, both ways.
    """
    weight_map = _weight_map(index)
    files: list[WeightFile] = []
    entries: dict[str, TensorEntry] = {}
    for shard in sorted(set(weight_map.values())):
        path = _confined(folder, shard, index)
        if not path.exists():
            raise CheckpointError(f"{index}: names shard {shard!r}, which is missing; download it")
        file, found = read_header(path, name=shard)
        files.append(file)
        for entry in found:
            if weight_map.get(entry.name) != shard:
                listed = weight_map.get(entry.name)
                where = f"the index lists it in {listed!r}" if listed else "the index does not list it"
                raise CheckpointError(f"{path}: holds tensor {entry.name!r}, but {where}; the two must agree")
            entries[entry.name] = entry
    absent = next((name for name in weight_map if name not in entries), None)
    if absent is not None:
        raise CheckpointError(
            f"{index}: lists tensor {absent!r} in {weight_map[absent]!r}, which does not hold it; the two must agree"
        )
    return tuple(files), entries


def _weight_map(index: Path) -> dict[str, str]:
    value = read_object(index).get("weight_map")
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{index}: weight_map is missing or empty; it must map tensors to shards")
    if not all(isinstance(shard, str) for shard in value.values()):
        raise CheckpointError(f"{index}: weight_map names a shard that is no text")
    return value


def _confined(folder: Path, shard: str, index: Path) -> Path:
    """The path of a shard, which must stay in the checkpoint's folder under every system's rules."""
    posix, windows = PurePosixPath(shard), PureWindowsPath(shard)
    plain = shard and "\0" not in shard and not (posix.is_absolute() or windows.drive or windows.root)
    if not plain or ".." in windows.parts or not shard.endswith(".safetensors"):
        raise CheckpointError(f"{index}: shard {shard!r} is outside the folder or no .safetensors file; refused")
    path = folder / shard
    target = path.resolve()
    if not any(target.is_relative_to(home) for home in _homes(folder)):
        raise CheckpointError(f"{index}: shard {shard!r} is a link out of the folder; copy the file here")
    return path


def _homes(folder: Path) -> list[Path]:
    """Where a shard may really lie: the folder, and the blob store of a Hub cache around it."""
    home = folder.resolve()
    if home.parent.name == "snapshots":
        return [home, home.parent.parent / "blobs"]
    return [home]
