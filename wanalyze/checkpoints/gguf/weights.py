"""Tensors of ggml as contents: written out plainly, or quantised and read as the numbers that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from wanalyze.checkpoints.content import Content, Raw
from wanalyze.checkpoints.dtypes import DType, Holds
from wanalyze.checkpoints.files import Range, WeightFile
from wanalyze.checkpoints.gguf.header import TensorInfo
from wanalyze.checkpoints.gguf.storage import Codes, Storage
from wanalyze.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Decode: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_AT_ONCE = 2**18  # weights dequantised at a time: what stays in cache is twice as fast
_SPAN = 32  # weights whose range tells the step of a type that is not evenly spaced


def content_of(file: WeightFile, tensor: TensorInfo) -> Content:
    """The tensor that a header lists."""
    if tensor.storage.is_plain:
        return Raw(file, tensor.start, tensor.size, tensor.storage.dtype, tensor.shape)
    return Quantised(file, tensor.start, tensor.size, tensor.storage, tensor.shape)


@dataclass(frozen=True)
class Quantised:
    """Blocks of `storage`, row by row from `start` on; read in float32."""

    file: WeightFile
    start: int
    size: int
    storage: Storage
    shape: tuple[int, ...]

    @property
    def dtype(self) -> DType:
        return self.storage.dtype

    @property
    def pieces(self) -> Sequence[tuple[WeightFile, Range]]:
        return ((self.file, (self.start, self.size)),)

    def read(self) -> Tensor:
        return self._filled(self._decoder())

    def steps(self) -> Tensor:
        """Of every weight, the distance between two values that its code can stand for.

        Exact where codes are evenly spaced: the legacy types, the K types, tq2_0. For all others an estimate:
        the range of the 32 weights it lies among, over one less than the number of values it could take there.
        """
        decode, storage = self._decoder(), self.storage
        if (codes := storage.codes) is not None:
            return self._filled(lambda blocks: _spacing(decode, blocks, codes))
        return self._filled(lambda blocks: _range_step(decode(blocks), storage.levels))

    def rows(self, start: int, stop: int) -> Content:
        """Some rows; they are whole blocks, so only their bytes are read."""
        width = self.size // max(self.shape[0], 1)
        shape = (stop - start, *self.shape[1:])
        return replace(self, start=self.start + start * width, size=(stop - start) * width, shape=shape)

    def _decoder(self) -> Decode:
        """How blocks become weights, by the `gguf` package."""
        where, name, number = self.file.where, self.dtype.name, self.storage.number
        if self.dtype.holds is not Holds.real:
            raise CheckpointError(f"{where}: tensors of {name} are not read, as nothing dequantises them")
        try:
            import gguf
        except ImportError as error:
            raise CheckpointError(
                f"{where}: to dequantise {name}, run pip install 'wanalyze[gguf]' ({error})"
            ) from None

        def decode(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
            try:  # as one row of blocks: the package works on sixteen rows at a time, in a loop
                return gguf.dequantize(blocks.reshape(1, -1), gguf.GGMLQuantizationType(number))
            except (ValueError, NotImplementedError) as error:
                raise CheckpointError(
                    f"{where}: the installed gguf does not know {name} ({error}); run pip install -U gguf"
                ) from None

        return decode

    def _filled(self, work: Decode) -> Tensor:
        """What `work` makes of the blocks."""
        import numpy as np
        import torch

        blocks = np.frombuffer(self.file.read(self.start, self.size), np.uint8).reshape(-1, self.storage.size)
        try:
            found = np.empty((len(blocks), self.storage.weights), np.float32)
        except MemoryError:
            raise CheckpointError(
                f"{self.file.where}: a tensor of shape {list(self.shape)} takes more memory in float32 than there is"
            ) from None
        some = _AT_ONCE // self.storage.weights
        with np.errstate(all="ignore"):  # a scale may be infinite; whether the weights are finite is checked later
            for first in range(0, len(blocks), some):
                found[first : first + some] = work(blocks[first : first + some]).reshape(-1, self.storage.weights)
        return torch.from_numpy(found).reshape(self.shape)


def _spacing(decode: Decode, blocks: NDArray[np.uint8], codes: Codes) -> NDArray[np.float32]:
    """How far apart blocks lie whose codes are all higher by 1."""
    low, high = blocks.copy(), blocks.copy()
    low[:, codes.start : codes.stop] = 0
    high[:, codes.start : codes.stop] = codes.one
    found: NDArray[np.float32] = abs(decode(high) - decode(low))
    return found


def _range_step(weights: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    spans = weights.reshape(-1, _SPAN)
    step = (spans.max(-1, keepdims=True) - spans.min(-1, keepdims=True)) / (levels - 1)
    found: NDArray[np.float32] = step.repeat(_SPAN, -1)
    return found
