"""What an adapter does, read from its headers and config: which module is changed how, and by which tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from wanalyze.checkpoints import TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

Parts: TypeAlias = "Mapping[str, Tensor]"
Build: TypeAlias = "Callable[[Parts, Tensor | None], Operator]"
Shifted: TypeAlias = "Callable[[Parts, Tensor], Tensor]"


@dataclass(frozen=True)
class Update:
    """ΔW of one matrix of the base, rows as outputs (of an embedding: rows as tokens), flattened to (out, rest).

    `build` makes it from the tensors named in `parts` and, where `needs_base`, from W0 in the same orientation.
    `shape` is None where only the base knows it. `rank` is None for a kind that has none to promise. `parameter` and
    `index` say which tensor of the module is meant, and which matrix of a stack of experts. `replica` is set where the
    tuned model runs a layer of the base several times, each time with an update of its own: the layer of the tuned.
    """

    module: str
    parts: Mapping[str, TensorEntry]
    build: Build
    shape: tuple[int, int] | None
    rank: int | None = None
    scale: float | None = None
    needs_base: bool = False
    parameter: str = "weight"
    index: int | None = None
    note: str | None = None
    replica: int | None = None

    @property
    def target(self) -> str:
        """The name of the base's tensor, before any renaming."""
        return f"{self.module}.{self.parameter}"

    @property
    def dtype(self) -> str:
        return next(iter(self.parts.values())).dtype.name

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(entry.size for entry in self.parts.values())

    def read(self, base: Tensor | None = None) -> Operator:
        """Load the tensors, to where the base lies, and build ΔW."""
        if self.needs_base and base is None:
            raise AdapterError(f"{self.module}: this update depends on the base's weight; compare it with its base")
        return self.build(_read(self.parts, base), base)


def rows_of(update: Update, groups: int, start: int, stop: int) -> Update:
    """The same update of fewer outputs: of so many equal groups of its rows, those from `start` to `stop` of each.

    For updates of a known shape that do not depend on the base.
    """
    assert update.shape is not None, "only for updates of a known shape"
    build = partial(_picked, inner=update.build, groups=groups, start=start, stop=stop)
    return replace(update, build=build, shape=(groups * (stop - start), update.shape[1]))


def _picked(parts: Parts, base: Tensor | None, *, inner: Build, groups: int, start: int, stop: int) -> Operator:
    found = inner(parts, base)
    if isinstance(found, LowRank):
        return replace(found, left=_rows(found.left, groups, start, stop))
    return Dense(_rows(found.dense(), groups, start, stop))


def _rows(matrix: Tensor, groups: int, start: int, stop: int) -> Tensor:
    return matrix.reshape(groups, -1, matrix.shape[1])[:, start:stop].flatten(0, 1)


@dataclass(frozen=True)
class Shift:
    """What becomes of a vector of the base, named `target`: a bias that an adapter adds to or scales."""

    target: str
    parts: Mapping[str, TensorEntry]
    build: Shifted

    @property
    def dtype(self) -> str:
        return next(iter(self.parts.values())).dtype.name

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.parts.values())

    def read(self, base: Tensor) -> Tensor:
        """The vector of the tuned model."""
        return self.build(_read(self.parts, base), base)


def _read(parts: Mapping[str, TensorEntry], base: Tensor | None) -> dict[str, Tensor]:
    found = {name: entry.read() for name, entry in parts.items()}
    return found if base is None else {name: tensor.to(base.device) for name, tensor in found.items()}


@dataclass(frozen=True)
class Adapter:
    """A parsed adapter.

    `updates` change a matrix, `shifts` a vector; `replaced` are tensors saved whole (new heads, embeddings, biases),
    by the name they have in the base. `input_first` says that the base may store weights as (in, out): it decides the
    orientation of square ones. `facts` are what `inspect` shows, `trained_parameters` all that it stores. `layers` are
    set where the tuned model is another stack: for each of its layers the layer of the base that it runs.
    """

    name: str
    method: str
    updates: tuple[Update, ...]
    replaced: Mapping[str, TensorEntry]
    facts: Mapping[str, object]
    trained_parameters: int
    input_first: bool = False
    shifts: tuple[Shift, ...] = ()
    notes: tuple[str, ...] = field(default=())
    layers: tuple[int, ...] = ()
