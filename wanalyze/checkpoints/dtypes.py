"""The storage dtypes of safetensors: their names, sizes and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Holds(Enum):
    """What an element is to wanalyze; the value is the reason a tensor is left out."""

    real = "real numbers"
    integer = "integer"
    unsupported = "unsupported dtype"


@dataclass(frozen=True)
class DType:
    """`name` is torch's; `eps` the spacing of numbers at 1, `smallest` the smallest normal one, None where none is."""

    name: str
    bits: int
    holds: Holds
    eps: float | None = None
    smallest: float | None = None


def _real(name: str, bits: int, mantissa: int, exponent: int) -> DType:
    return DType(name, bits, Holds.real, 2.0**-mantissa, 2.0**exponent)


DTYPES: MappingProxyType[str, DType] = MappingProxyType(
    {
        "F64": _real("float64", 64, 52, -1022),
        "F32": _real("float32", 32, 23, -126),
        "F16": _real("float16", 16, 10, -14),
        "BF16": _real("bfloat16", 16, 7, -126),
        "F8_E4M3": _real("float8_e4m3fn", 8, 3, -6),
        "F8_E5M2": _real("float8_e5m2", 8, 2, -14),
        **{
            code: DType(name, bits, Holds.integer)
            for code, name, bits in (
                ("BOOL", "bool", 8),
                ("U8", "uint8", 8),
                ("I8", "int8", 8),
                ("U16", "uint16", 16),
                ("I16", "int16", 16),
                ("U32", "uint32", 32),
                ("I32", "int32", 32),
                ("U64", "uint64", 64),
                ("I64", "int64", 64),
            )
        },
        **{
            code: DType(code, bits, Holds.unsupported)
            for code, bits in (
                ("C64", 64),
                ("F8_E8M0", 8),
                ("F8_E4M3FNUZ", 8),
                ("F8_E5M2FNUZ", 8),
                ("F6_E2M3", 6),
                ("F6_E3M2", 6),
                ("F4", 4),
            )
        },
    }
)
