"""The formats of one file of weights: how each is recognised, and who reads it. One row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.gguf import read_model
from wanalyze.checkpoints.pickles import read_state_dict
from wanalyze.checkpoints.safetensors import read_header


@dataclass(frozen=True)
class Listing:
    """What one or several files hold.

    `config` is what they say of the model, where the format has a place for it; `metadata` what else they say. An index
    that led to them lies `beside`.
    """

    entries: Sequence[TensorEntry]
    notes: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[WeightFile, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format: its file names, the suffix of its index, and its reader. Formats listed first are preferred.

    `read_together`, where set, reads the files of one family at once: one alone does not say what it holds.
    """

    name: str
    suffixes: tuple[str, ...]
    index: str | None
    read: Callable[[WeightFile], Listing]
    read_together: Callable[[Sequence[WeightFile]], Listing] | None = None


def _safetensors(file: WeightFile) -> Listing:
    header = read_header(file)
    return Listing(header.entries, metadata=header.metadata)


def _torch(file: WeightFile) -> Listing:
    """By content: what is called .bin or .ckpt need not be a pickle."""
    if bytes(file.read(0, min(9, file.size)))[8:] == b"{":
        return replace(_safetensors(file), notes=(f"{file.name} is safetensors by its content and was read as that",))
    return Listing(*read_state_dict(file))


def _gguf(files: Sequence[WeightFile]) -> Listing:
    model = read_model(files)
    return Listing(model.entries, model.notes, model.config, model.metadata)


SAFETENSORS = Format("safetensors", (".safetensors",), ".safetensors.index.json", _safetensors)
TORCH = Format("torch pickle", (".bin", ".pt", ".pth", ".ckpt", ".pth.lora"), ".bin.index.json", _torch)
GGUF = Format("GGUF", (".gguf",), None, lambda file: _gguf([file]), _gguf)
FORMATS = (SAFETENSORS, TORCH, GGUF)


def format_of(name: str) -> Format | None:
    """The format that a file name promises.

    >>> format_of("model.fp16.safetensors").name, format_of("README.md")
    ('safetensors', None)
    """
    return next((format_ for format_ in FORMATS if name.endswith(format_.suffixes)), None)


def names_file(name: str) -> bool:
    """Whether a name is that of a file one can be asked to read, rather than of a folder.

    >>> names_file("model.safetensors.index.json"), names_file("unet")
    (True, False)
    """
    return format_of(name) is not None or name.endswith(".json")
