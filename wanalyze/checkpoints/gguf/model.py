"""What a GGUF file, or the parts that one was split into, holds of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.dtypes import Holds
from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.gguf.header import Header, Value, read_header
from wanalyze.checkpoints.gguf.translation import Translator, translator
from wanalyze.checkpoints.gguf.weights import content_of
from wanalyze.errors import CheckpointError

_ADAPTER = "adapter"
_SAID_OF_ADAPTERS = ("general.type", "general.architecture", "adapter.")
_MOST_ENTRIES = 2**17  # with a tensor for every expert of every layer; the largest models have some 40 000
# By `general.type`: files that hold no model.
_NOT_MODELS = {
    "imatrix": "an importance matrix of llama.cpp, which holds no weights; pass the model",
}


@dataclass(frozen=True)
class Model:
    """Tensors under Hugging Face's names if the architecture's conversion is known, else under llama.cpp's."""

    entries: Sequence[TensorEntry]
    notes: tuple[str, ...]
    config: Mapping[str, object]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_model(files: Sequence[WeightFile]) -> Model:
    """The model in a file or in all its parts, in their order: the first has the metadata of all."""
    headers = [read_header(file) for file in files]
    metadata = headers[0].metadata
    _check_parts(files, headers)
    if (what := _NOT_MODELS.get(str(metadata.get("general.type")))) is not None:
        raise CheckpointError(f"{files[0].where}: {what}")
    stored = [
        TensorEntry(tensor.name, content_of(file, tensor))
        for file, header in zip(files, headers, strict=True)
        for tensor in header.tensors
    ]
    if metadata.get("general.type") == _ADAPTER:
        return _adapter(files[0], stored, metadata)
    found = translator(files[0].where, metadata)
    entries = _unique(files[0], _translated(stored, found))
    config = found.config(entries) if found else {}
    return Model([*entries.values()], tuple(_notes(stored, found, metadata)), config)


def _adapter(file: WeightFile, stored: Iterable[TensorEntry], metadata: Mapping[str, Value]) -> Model:
    """An adapter of llama.cpp, under its own names: what they mean depends on the base."""
    said = {key: str(value) for key, value in metadata.items() if key.startswith(_SAID_OF_ADAPTERS)}
    return Model([*_unique(file, stored).values()], (), {}, said)


def _check_parts(files: Sequence[WeightFile], headers: Sequence[Header]) -> None:
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        count, index = header.metadata.get("split.count"), header.metadata.get("split.no")
        if len(files) == 1:
            if count not in (None, 0, 1):
                raise CheckpointError(
                    f"{file.where}: is part {_counted(index)} of {str(count)[:20]}; put all parts in one folder under "
                    "the names that llama.cpp gave them, and pass that"
                )
        elif (count, index) != (len(files), number):
            raise CheckpointError(
                f"{file.where}: says it is part {_counted(index)} of {str(count)[:20]}, its name says {number + 1} of "
                f"{len(files)}; the two must agree"
            )
    total, said = sum(len(header.tensors) for header in headers), headers[0].metadata.get("split.tensors.count")
    if len(files) > 1 and said not in (None, total):
        raise CheckpointError(
            f"{files[0].where}: says its parts hold {str(said)[:20]} tensors, they hold {total}; download them again"
        )


def _counted(index: Value) -> str:
    return str(index + 1) if type(index) is int else "an unknown number"


def _translated(stored: Iterable[TensorEntry], found: Translator | None) -> Iterable[TensorEntry]:
    return (new for old in stored for new in found.translated(old)) if found else stored


def _unique(file: WeightFile, entries: Iterable[TensorEntry]) -> dict[str, TensorEntry]:
    known: dict[str, TensorEntry] = {}
    for entry in entries:
        if entry.name in known:
            raise CheckpointError(
                f"{file.where}: holds tensor {entry.name[:80]!r} twice; the file is damaged or forged"
            )
        if len(known) == _MOST_ENTRIES:
            raise CheckpointError(f"{file.where}: holds more than {_MOST_ENTRIES} tensors and experts; refused")
        known[entry.name] = entry
    return known


def _notes(stored: Iterable[TensorEntry], found: Translator | None, metadata: Mapping[str, Value]) -> Iterable[str]:
    counts = Counter(
        entry.dtype.name for entry in stored if entry.dtype.smallest is None and entry.dtype.holds is Holds.real
    )
    if counts:
        yield f"GGUF: {', '.join(f'{count} tensors dequantised from {name}' for name, count in counts.items())}"
    if found:
        yield f"names mapped from llama.cpp's ({found.architecture})"
    else:
        architecture = str(metadata.get("general.architecture"))[:40]
        yield (
            f"names are llama.cpp's ({architecture}), whose conversion is not undone: "
            "comparable with GGUF files of the same architecture only"
        )
