"""What was read, byte for byte: hashes of files, or of the tensors of files that were not read whole."""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import torch
from torch import Tensor

from wanalyze.adapters import Adapter, Mixture
from wanalyze.checkpoints import Checkpoint, TensorEntry, WeightFile

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
    """Hashes of tensors by the label of their model."""

    def __init__(self) -> None:
        self._found: ByLabel = {}

    def note(self, label: str, source: Opened, entry: TensorEntry, tensor: Tensor) -> None:
        """Hash a tensor that was read from a file which is not hashed whole."""
        if not all(hashed_whole(file, source) for file in entry.files):
            self._found.setdefault(label, {})[entry.name] = content_hash(tensor)

    def of(self, label: str) -> dict[str, str]:
        return self._found.get(label, {})


def read(entry: TensorEntry, label: str, source: Opened, hashes: Hashes) -> Tensor:
    """A tensor, with a note of what it was."""
    tensor = entry.read()
    hashes.note(label, source, entry, tensor)
    return tensor
