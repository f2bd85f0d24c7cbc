"""Named tensors, listed at once and read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wanalyze.checkpoints.dtypes import DType, Holds
from wanalyze.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 2**22  # bytes hashed at a time


@dataclass(frozen=True)
class WeightFile:
    """One file of weights as it was when it was opened; `name` is relative to the checkpoint."""

    path: Path
    name: str
    size: int
    modified_ns: int

    def sha256(self) -> str:
        """Hash of the whole file, in hexadecimal."""
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error
        self.check_unchanged()
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Refuse a file that was written to after its header was read."""
        try:
            state = self.path.stat()
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error
        if (state.st_size, state.st_mtime_ns) != (self.size, self.modified_ns):
            raise CheckpointError(f"{self.path}: changed while it was being read; run again when it is at rest")


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: `start` and `size` in bytes within `file`."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: WeightFile
    start: int
    size: int

    def read(self) -> Tensor:
        """The tensor in its storage dtype, on the CPU, in memory of its own."""
        import torch

        if self.dtype.holds is Holds.unsupported:
            raise CheckpointError(f"{self.file.path}: tensor {self.name!r} has unsupported dtype {self.dtype.name}")
        dtype: torch.dtype = getattr(torch, self.dtype.name)
        if self.size == 0:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(self._bytes(), dtype=torch.uint8).view(dtype).reshape(self.shape)

    def _bytes(self) -> bytearray:
        # Plain reads, not a memory map: a file truncated under a map kills the process.
        try:
            buffer = bytearray(self.size)
            with self.file.path.open("rb", buffering=0) as stream:
                stream.seek(self.start)
                view = memoryview(buffer)
                done = 0
                while done < self.size and (count := stream.readinto(view[done:])):
                    done += count
        except OSError as error:
            raise CheckpointError(f"{self.file.path}: cannot be read ({error.strerror})") from error
        except MemoryError:
            raise CheckpointError(
                f"{self.file.path}: tensor {self.name!r} needs {self.size} bytes of memory, more than there is"
            ) from None
        self.file.check_unchanged()
        if done < self.size:
            raise CheckpointError(f"{self.file.path}: ends within tensor {self.name!r}; download it again")
        return buffer


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model or adapter; `name` is what the user called it."""

    name: str
    files: tuple[WeightFile, ...]
    entries: Mapping[str, TensorEntry]

    def read(self, name: str) -> Tensor:
        return self.entries[name].read()
