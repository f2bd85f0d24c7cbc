"""Folders as torch.distributed.checkpoint writes them, made by hand: chunks of several ranks, torch's own records."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

Box = tuple[tuple[int, ...], tuple[int, ...]]


def blob(tensor: object) -> bytes:
    stream = io.BytesIO()
    torch.save(tensor, stream)
    return stream.getvalue()


@dataclass
class Sharded:
    """A tensor, in chunks at `boxes`; the nth is written by rank n % 2, as `blobs` where that is set."""

    tensor: Tensor
    boxes: list[Box]
    blobs: list[bytes] = field(default_factory=list)

    def chunk(self, box: Box) -> Tensor:
        return self.tensor[tuple(slice(at, at + size) for at, size in zip(*box, strict=True))].clone()

    @property
    def described(self) -> TensorStorageMetadata:
        chunks = [ChunkStorageMetadata(torch.Size(at), torch.Size(size)) for at, size in self.boxes]
        return TensorStorageMetadata(TensorProperties(self.tensor.dtype), self.tensor.shape, chunks)


@dataclass
class Made:
    """A checkpoint made by hand: its metadata, which may be changed before it is saved, and its files."""

    metadata: Metadata
    files: dict[str, bytes]

    def save(self, folder: Path) -> Path:
        for name, content in {**self.files, ".metadata": pickle.dumps(self.metadata)}.items():
            (folder / name).write_bytes(content)
        return folder


def made(tensors: Mapping[str, Sharded]) -> Made:
    contents: dict[str, bytes] = {}
    stored: dict[MetadataIndex, _StorageInfo] = {}
    for name, sharded in tensors.items():
        blobs = sharded.blobs or [blob(sharded.chunk(box)) for box in sharded.boxes]
        for i, ((offsets, _), content) in enumerate(zip(sharded.boxes, blobs, strict=True)):
            file = f"__{i % 2}_0.distcp"
            start = len(contents.setdefault(file, b""))
            stored[MetadataIndex(name, offsets, i)] = _StorageInfo(file, start, len(content))
            contents[file] += content
    described = {name: sharded.described for name, sharded in tensors.items()}
    return Made(Metadata(described, storage_data=stored), contents)


def grid(*cuts: tuple[int, ...]) -> list[Box]:
    """The boxes between these cuts of every axis, the last axis fastest."""
    boxes: list[Box] = [((), ())]
    for axis in cuts:
        boxes = [((*at, a), (*size, b - a)) for at, size in boxes for a, b in pairwise(axis)]
    return boxes
