"""A folder that torch.distributed.checkpoint wrote: tensors in chunks, and `.metadata` that says where each lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import NoReturn

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.chunks import Assembled, Chunk, tile
from wanalyze.checkpoints.dtypes import DType
from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.folders import Folder
from wanalyze.checkpoints.formats import Listing
from wanalyze.checkpoints.pickles.names import DTYPE_NAMES, SIZE, harmless
from wanalyze.checkpoints.pickles.opcodes import FORGED, Refused
from wanalyze.checkpoints.pickles.state_dict import find
from wanalyze.checkpoints.pickles.unpickler import Maker, Record, load
from wanalyze.errors import CheckpointError

METADATA = ".metadata"
_LIMIT = 64 * 2**20  # bytes of it
_MOST = 4_000_000  # instructions; a chunk takes about 80
_MOST_CHUNKS = _MOST // 80
_DEEPEST = 32  # dicts in one another
_MODULE = "torch.distributed.checkpoint"
_RECORDS = (
    *(f"{_MODULE}.metadata.{name}" for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata")),
    *(f"{_MODULE}.metadata.{name}" for name in ("ChunkStorageMetadata", "MetadataIndex", "StorageMeta")),
    *(f"{_MODULE}.metadata.TensorProperties", f"{_MODULE}.filesystem._StorageInfo"),
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",  # before torch 2.4
)
_HARMLESS = (
    *(
        f"{_MODULE}.metadata._MEM_FORMAT_ENCODING",
        "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
    ),
    *("torch.serialization._get_layout", "pathlib.PosixPath", "pathlib.WindowsPath"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
)
_NAMES = MappingProxyType(
    {
        **DTYPE_NAMES,
        **SIZE,
        **{name: Maker(name.rpartition(".")[2], is_record=True) for name in _RECORDS},
        **{name: harmless(name) for name in _HARMLESS},
    }
)


@dataclass(frozen=True)
class _Tensor:
    """A tensor as `.metadata` describes it; `chunks` are places and shapes of its parts."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    chunks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Place:
    """Where a chunk was written."""

    path: str
    start: int
    size: int


def home(folder: Folder) -> Folder | None:
    """The folder, or the one in it that a trainer wrote the model to, where that is a distributed checkpoint."""
    if METADATA in folder.names:
        return folder
    inside = [
        name
        for name in folder.names
        if name.endswith("/") and not name.startswith("optimizer") and METADATA in folder.below(name).names
    ]
    if len(inside) > 1:
        raise CheckpointError(
            f"{folder.where}: holds distributed checkpoints in {', '.join(inside[:4])[:200]}: pass one of them"
        )
    return folder.below(inside[0]) if inside else None


def read_distributed(folder: Folder) -> tuple[tuple[WeightFile, ...], Listing]:
    """The files and tensors of a distributed checkpoint; optimizers and the like are left out with a note.

    torch unpickles `.metadata` freely; here it is read with an own list of names. The chunks of a tensor must tile it,
    and no two may share bytes. What a chunk holds is checked when it is read.
    """
    file = folder.open(METADATA)
    if file.size > _LIMIT:
        raise CheckpointError(f"{file.where}: {file.size} bytes, {_LIMIT} are allowed")
    try:
        metadata = _fields(load(bytes(file.read(0, file.size)), _NAMES, most=_MOST), "Metadata")
        found, notes = find(_nested(metadata), _Tensor)
        places = _places(metadata)
        files = _Files(folder, file)
        contents = {name: _content(files, tensor, places) for name, tensor in found.items()}
        files.check_apart()
    except Refused as refusal:
        raise CheckpointError(f"{file.where}: {refusal}") from None
    return files.opened, Listing([TensorEntry(name, content) for name, content in contents.items()], notes)


def _nested(metadata: Mapping[object, object]) -> dict[str, object]:
    """What was saved, as it was before its nested dicts were flattened: `planner_data` has the path to every value."""
    paths = metadata.get("planner_data")
    root: dict[str, object] = {}
    values = _items(metadata, "state_dict_metadata")
    _check_count(values.values())
    for name, described in values.items():
        is_tensor = isinstance(described, Record) and described.name == "TensorStorageMetadata"
        value = _tensor(name, described) if is_tensor else None
        path = paths.get(name) if isinstance(paths, dict) else None
        _put(root, path if isinstance(path, tuple) and path else (name,), value)
    return root


def _check_count(values: Iterable[object]) -> None:
    """Refused before they are looked at: one list of chunks can be that of every tensor."""
    chunks = (value.fields.get("chunks") for value in values if isinstance(value, Record))
    if sum(len(found) for found in chunks if isinstance(found, list)) > _MOST_CHUNKS:
        raise Refused(
            f"its tensors have more than {_MOST_CHUNKS} chunks; join them, "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
        )


def _put(root: dict[str, object], path: tuple[object, ...], value: object) -> None:
    if len(path) > _DEEPEST or not all(isinstance(step, (str, int)) for step in path):
        raise Refused(f"the path of a value is more than {_DEEPEST} names or numbers; {FORGED}")
    here = root
    for step in path[:-1]:
        below = here.setdefault(str(step), {})
        if not isinstance(below, dict):
            raise Refused(f"{str(step)[:80]!r} is a value and holds others; {FORGED}")
        here = below
    if str(path[-1]) in here:
        raise Refused(f"{str(path[-1])[:80]!r} stands for two values; {FORGED}")
    here[str(path[-1])] = value


def _tensor(name: str, described: object) -> _Tensor:
    fields = _fields(described, "TensorStorageMetadata")
    chunks = fields.get("chunks")
    if not isinstance(chunks, list):
        _refuse(name, "has no list of chunks")
    boxes = [_fields(chunk, "ChunkStorageMetadata") for chunk in chunks]
    found = tuple((_sizes(name, box.get("offsets")), _sizes(name, box.get("sizes"))) for box in boxes)
    return _Tensor(name, _dtype(name, fields.get("properties")), _sizes(name, fields.get("size")), found)


def _dtype(name: str, properties: object) -> DType:
    fields = _fields(properties, "TensorProperties")
    state = fields.get("state")
    found = state[0] if isinstance(state, tuple) and state else fields.get("dtype")
    if not isinstance(found, DType):
        _refuse(name, "has no dtype")
    return found


def _sizes(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 8 or not all(type(n) is int and 0 <= n <= 2**48 for n in value):
        _refuse(name, "has sizes or offsets that are no whole numbers")
    return value


def _places(metadata: Mapping[object, object]) -> dict[tuple[str, tuple[int, ...]], _Place]:
    """Where each chunk was written, by the name of its tensor and its place in it."""
    found: dict[tuple[str, tuple[int, ...]], _Place] = {}
    stored = metadata.get("storage_data")
    if not isinstance(stored, dict):
        raise Refused(f"it has no storage_data; {FORGED}")
    for index, info in stored.items():
        key, place = _fields(index, "MetadataIndex"), _fields(info, "_StorageInfo")
        name, offset = key.get("fqn"), key.get("offset")
        if not isinstance(name, str):
            raise Refused(f"it places a tensor without a name; {FORGED}")
        if offset is None:  # no tensor
            continue
        at = (name, _sizes(name, offset))
        if at in found:
            _refuse(name, f"has two chunks at {list(at[1])}")
        found[at] = _place(name, place)
    return found


def _place(name: str, fields: Mapping[object, object]) -> _Place:
    path, start, size = (fields.get(key) for key in ("relative_path", "offset", "length"))
    if type(path) is not str or type(start) is not int or type(size) is not int or min(start, size) < 0:
        _refuse(name, "has a chunk without a file, an offset and a length")
    if fields.get("transform_descriptors"):
        raise Refused(f"tensor {name[:80]!r} is compressed or encrypted; save it without stream extensions")
    return _Place(path, start, size)


def _items(metadata: Mapping[object, object], key: str) -> dict[str, object]:
    found = metadata.get(key)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise Refused(f"it has no {key}; {FORGED}")
    return found


def _fields(value: object, name: str) -> Mapping[object, object]:
    if not isinstance(value, Record) or value.name != name:
        raise Refused(f"it has something else where {name} is needed; {FORGED}")
    return value.fields


class _Files:
    """The files of chunks, each opened once."""

    def __init__(self, folder: Folder, metadata: WeightFile) -> None:
        self._folder, self.metadata = folder, metadata
        self._files: dict[str, WeightFile] = {}
        self._taken: dict[str, list[tuple[int, int]]] = {}

    @property
    def opened(self) -> tuple[WeightFile, ...]:
        return (self.metadata, *(file for _, file in sorted(self._files.items())))

    def at(self, place: _Place) -> WeightFile:
        if place.path not in self._files:
            self._files[place.path] = self._folder.open(place.path)
        file = self._files[place.path]
        if place.start + place.size > file.size:
            raise CheckpointError(
                f"{file.where}: {file.size} bytes, {METADATA} places a chunk up to byte {place.start + place.size}; "
                "download it again"
            )
        self._taken.setdefault(place.path, []).append((place.start, place.start + place.size))
        return file

    def check_apart(self) -> None:
        """Refused where two chunks share bytes: a small file could fill any memory."""
        for path, taken in self._taken.items():
            taken.sort()
            for (_, end), (start, _) in pairwise(taken):
                if start < end:
                    raise Refused(f"two chunks share bytes of {path[:200]!r}; {FORGED}")


def _content(files: _Files, tensor: _Tensor, places: Mapping[tuple[str, tuple[int, ...]], _Place]) -> Assembled:
    found = []
    for offsets, shape in tensor.chunks:
        if 0 in shape:
            continue
        place = places.get((tensor.name, offsets))
        if place is None:
            _refuse(tensor.name, f"has a chunk at {list(offsets)} that lies nowhere")
        chunk = Chunk(files.at(place), place.start, place.size, tensor.dtype, offsets, shape)
        if chunk.bytes_needed > place.size:
            _refuse(tensor.name, f"has a chunk of {chunk.bytes_needed} bytes in a range of {place.size}")
        found.append(chunk)
    if not tile(tensor.shape, [(chunk.offsets, chunk.shape) for chunk in found]):
        _refuse(tensor.name, "has chunks that overlap or leave a hole in it")
    return Assembled(files.metadata, tuple(found), tensor.dtype, tensor.shape)


def _refuse(name: str, why: str) -> NoReturn:
    raise Refused(f"tensor {name[:80]!r} {why}; {FORGED}")
