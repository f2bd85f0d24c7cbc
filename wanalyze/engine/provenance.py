"""What was read, byte for byte: hashes of files, or of the tensors of files that were not read whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from wanalyze.adapters import Adapter, Mixture
from wanalyze.checkpoints import Checkpoint, TensorEntry, WeightFile
from wanalyze.checkpoints.files import LocalFile, Range

_SMALL = 64 * 2**20  # bytes; a larger checkpoint is hashed tensor by tensor as it is read, not every byte twice

ByLabel: TypeAlias = dict[str, dict[str, str]]
Opened: TypeAlias = Checkpoint | Adapter | Mixture


def hashed_whole(file: WeightFile, source: Opened) -> bool:
    """Whether a file is hashed as one: if it is small, or an adapter's, of which everything is read."""
    return file.is_whole and (file.size <= _SMALL or not isinstance(source, Checkpoint))


def content_hash(tensor: Tensor) -> str:
    """sha256 of the elements as they were read, row by row, in hexadecimal.

    >>> content_hash(torch.tensor([1.0, 2.0]))[:8]
    'b9c80b5a'
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


class Hashes:
    """Hashes of tensors by the label of their model, and which bytes of which files were read for them."""

    def __init__(self) -> None:
        self._found: ByLabel = {}
        self._pieces: dict[str, dict[str, set[Range]]] = {}

    def note(self, label: str, source: Opened, entry: TensorEntry, tensor: Tensor) -> None:
        """Hash a tensor that was read from a file which is not hashed whole."""
        if not all(hashed_whole(file, source) for file in entry.files):
            self._found.setdefault(label, {})[entry.name] = content_hash(tensor)
            _add(self._pieces.setdefault(label, {}), entry)

    def to_check(self, label: str, checkpoint: Checkpoint) -> set[str]:
        """The files, by name, of which the Hub says the hash and all was read, if tensor by tensor."""
        promised = {file.name for file in checkpoint.files if _is_promised(file)}
        return promised & self._read_whole(label, checkpoint) if promised else promised

    def _read_whole(self, label: str, checkpoint: Checkpoint) -> set[str]:
        there: dict[str, set[Range]] = {}
        for entry in checkpoint.entries.values():
            _add(there, entry)
        read = self._pieces.get(label, {})
        return {name for name, pieces in there.items() if _covered(read.get(name, ())) == _covered(pieces)}

    def of(self, label: str) -> dict[str, str]:
        return self._found.get(label, {})


def _add(pieces: dict[str, set[Range]], entry: TensorEntry) -> None:
    for file, piece in entry.content.pieces:
        pieces.setdefault(file.name, set()).add(piece)


def _covered(pieces: Iterable[Range]) -> int:
    """Bytes that lie in any of the pieces.

    >>> _covered([(0, 10), (5, 10), (20, 1)])
    16
    """
    total = end = 0
    for start, size in sorted(pieces):
        stop = max(end, start + size)
        total += stop - max(end, start)
        end = stop
    return total


def _is_promised(file: WeightFile) -> bool:
    return isinstance(file, LocalFile) and file.expected_sha256 is not None


def read(entry: TensorEntry, label: str, source: Opened, hashes: Hashes) -> Tensor:
    """A tensor, with a note of what it was."""
    tensor = entry.read()
    hashes.note(label, source, entry, tensor)
    return tensor
