"""Alphabets of codes: the number that each small code stands for, and the cell of numbers that are rounded to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Alphabet:
    """`values[code]` is what a code stands for, in units of a block's scale."""

    values: tuple[float, ...]

    @cached_property
    def widths(self) -> tuple[float, ...]:
        """Of every code, the width of the cell that is rounded to it, as its rounding error sees it.

        A cell reaches from midpoint to midpoint of the neighbours, a below its code and b above. Its width is that of
        the symmetric cell with the same mean square error, 2·√(a² − ab + b²): 2a where a = b, and more than a + b
        where not, because errors are then larger than in a symmetric cell as wide. Without it, the error of FP4 is
        taken for 8 % smaller than it is. The outermost codes have a neighbour on one side only, which counts for
        both. NaN where a code is no finite number.

        >>> Alphabet((0.0, 2.0, 4.0, 10.0)).widths
        (2.0, 2.0, 5.291502622129181, 6.0)
        """
        ordered = sorted({value for value in self.values if math.isfinite(value)})  # −0 and 0 are one number
        gaps = [after - before for before, after in pairwise(ordered)]
        cells = dict(zip(ordered, map(_width, [gaps[0], *gaps], [*gaps, gaps[-1]]), strict=True))
        return tuple(cells.get(value, math.nan) for value in self.values)


def _width(below: float, above: float) -> float:
    return math.sqrt(below**2 - below * above + above**2)


def look_up(table: Sequence[float], codes: Tensor) -> Tensor:
    """`table[code]` in float32, in the shape of `codes` (uint8)."""
    import torch

    row = torch.tensor(table, dtype=torch.float32)
    return row.index_select(0, codes.reshape(-1).to(torch.int32)).reshape(codes.shape)


def _floats(exponent: int, mantissa: int, bias: int) -> Iterator[float]:
    """Every code of a small float in the manner of IEEE 754, without its special values."""
    for sign in (1.0, -1.0):
        for power in range(2**exponent):
            for digits in range(2**mantissa):
                whole = digits / 2**mantissa + (power > 0)
                yield sign * whole * 2.0 ** (max(power, 1) - bias)


def _with(values: Iterator[float], special: dict[int, float]) -> Alphabet:
    return Alphabet(tuple(special.get(code, value) for code, value in enumerate(values)))


# bitsandbytes.functional.get_4bit_type; NF4 holds quantiles of the normal distribution (QLoRA, arXiv 2305.14314).
NF4 = Alphabet(
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    )
)
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = Alphabet(tuple(sign * value / 12 for sign in (1, -1) for value in _FP4))

# OCP Microscaling Formats 1.0.
E2M1 = Alphabet(tuple(_floats(2, 1, 1)))
E2M3 = Alphabet(tuple(_floats(2, 3, 1)))
# OCP 8-bit Floating Point 1.0, and the variants without a negative zero.
E4M3 = _with(_floats(4, 3, 7), {0x7F: math.nan, 0xFF: math.nan})
E5M2 = _with(
    _floats(5, 2, 15),
    {0x7C: math.inf, 0xFC: -math.inf, **{code: math.nan for code in (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)}},
)
E4M3FNUZ = _with(_floats(4, 3, 8), {0x80: math.nan})
E5M2FNUZ = _with(_floats(5, 2, 16), {0x80: math.nan})
E8M0 = Alphabet((*(2.0 ** (code - 127) for code in range(255)), math.nan))
