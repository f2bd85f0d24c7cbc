"""What the tensors of a module must agree on, and numbers from a file that say where something lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.peft import need
from wanalyze.checkpoints import TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.adapters.adapter import Parts
    from wanalyze.operators import Operator

_MOST_NUMBERS = 2**28  # 2 GiB in float64: more than such matrices have in any layer


def sizes(
    parts: Mapping[str, TensorEntry], layout: Mapping[str, str], *, module: str, where: str, **given: int
) -> dict[str, int]:
    """The size behind every letter of a layout such as {"A": "r inp", "B": "out r"}, the `given` ones included.

    AdapterError where a part is missing or too many, has another number of dimensions, or gives a letter a second size.
    """
    need(parts, tuple(layout), module=module, where=where)
    extra = next((name for name in parts if name not in layout), None)
    if extra is not None:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {extra} beside {', '.join(layout)}; only one form can be meant"
        )
    found = dict(given)
    for part, letters in layout.items():
        for letter, size in _named(parts[part], part, letters, f"{where}: module {module[:80]!r}"):
            if found.setdefault(letter, size) != size:
                raise AdapterError(
                    f"{where}: module {module[:80]!r} has a {part} of shape {parts[part].shape}, read as ({letters}), "
                    f"but {letter} is {found[letter]} by adapter_config.json or another tensor; one must be mended"
                )
    return found


def _named(entry: TensorEntry, part: str, letters: str, what: str) -> Iterator[tuple[str, int]]:
    names = letters.split()
    if len(names) != len(entry.shape):
        raise AdapterError(f"{what} has a {part} of shape {entry.shape}, where ({letters}) is expected")
    return zip(names, entry.shape, strict=True)


def one_of(value: int, known: set[int], *, field: str, module: str, where: str) -> None:
    """Refuse a size of a tensor that the config gives to no module at all."""
    if value not in known:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {value} by its tensors, but {field} in adapter_config.json is "
            f"{', '.join(map(str, sorted(known)[:8]))}; one must be mended"
        )


def float64(parts: Parts) -> dict[str, Tensor]:
    """All parts widened, whatever they hold."""
    return {name: widened(tensor, torch.float64) for name, tensor in parts.items()}


def sides(base: Tensor | None, *, module: str, **expected: int) -> tuple[int, int]:
    """(out, inp) of the base's weight; AdapterError where the tensors of the module say otherwise."""
    assert base is not None, "only for updates that need the base"
    found = {"out": base.shape[0], "inp": base.shape[1]}
    for side, size in expected.items():
        if found[side] != size:
            raise AdapterError(
                f"{module[:80]!r}: the adapter's tensors are for {size} {'outputs' if side == 'out' else 'inputs'}, "
                f"the base's weight has {found[side]}; is this its base?"
            )
    return found["out"], found["inp"]


def positions(indices: Tensor, size: int, *, module: str) -> Tensor:
    """Whole numbers of a file as int64, each below `size`: on a GPU one beyond would end the process."""
    found = indices.to(torch.int64)  # peft on Windows stores them as float32; uint8 would be read as a mask
    if found.numel() and (int(found.min()) < 0 or int(found.max()) >= size):
        raise AdapterError(
            f"{module[:80]!r}: an index of the adapter lies outside 0 to {size - 1}; the file is damaged"
        )
    return found


def bounded(count: int, what: str, *, module: str) -> None:
    """Refuse a matrix of so many numbers that the file only gives the sides, or the blocks, of."""
    if count > _MOST_NUMBERS:
        raise AdapterError(f"{module[:80]!r}: {what} of {count} numbers, more than {_MOST_NUMBERS}; refused")


def product(left: Tensor, right: Tensor, scale: float = 1.0) -> Operator:
    """The product of `left` (m, r) and `right` (r, n), scaled: as factors where they are smaller."""
    if are_smaller(left.shape[1], (len(left), right.shape[1])):
        return LowRank(left, right, scale)
    return Dense(scale * (left @ right))


def are_smaller(rank: int, shape: tuple[int, int]) -> bool:
    """Whether two factors hold less than their product; about there they stop being quicker to decompose as well.

    >>> are_smaller(31, (64, 64)), are_smaller(32, (64, 64))
    (True, False)
    """
    return rank * sum(shape) < shape[0] * shape[1]
