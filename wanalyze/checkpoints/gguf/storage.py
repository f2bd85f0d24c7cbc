"""How ggml stores numbers: in blocks of so many weights and so many bytes."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from wanalyze.checkpoints.dtypes import DTYPES, DType, Holds


@dataclass(frozen=True)
class Codes:
    """Bytes `start` to `stop` of a block hold the low bits of its codes; `one` is such a byte with every code 1.

    Two codes that differ by 1 stand for weights that differ by one step, whatever the other bits are.
    """

    start: int
    stop: int
    one: int


@dataclass(frozen=True)
class Storage:
    """`weights` of a row lie together in `size` bytes. `number` is ggml's own for the type.

    Of quantised types, `codes` says where they lie, if weights are evenly spaced; `levels` how many values a weight
    may take in its block, if they are not.
    """

    number: int
    dtype: DType
    weights: int
    size: int
    codes: Codes | None = None
    levels: int = 0

    @property
    def is_plain(self) -> bool:
        return self.weights == 1


def _plain(number: int, code: str) -> Storage:
    return Storage(number, DTYPES[code], 1, DTYPES[code].bits // 8)


def _coded(number: int, name: str, weights: int, size: int, codes: Codes) -> Storage:
    return Storage(number, _quantised(name, weights, size), weights, size, codes)


def _levelled(number: int, name: str, weights: int, size: int, levels: int) -> Storage:
    return Storage(number, _quantised(name, weights, size), weights, size, levels=levels)


# What the gguf package does not dequantise.
def _unreadable(number: int, name: str, weights: int, size: int) -> Storage:
    return Storage(number, DType(name, 8 * size // weights, Holds.unsupported), weights, size)


def _quantised(name: str, weights: int, size: int) -> DType:
    """Bits are those of a code alone, without its share of the scales.

    There is no number 1 whose spacing could be told: `eps` is a cell over the largest number of a block, 2^(1 − bits).
    `smallest` is None because the weights lie on no floating grid; `steps()` says on which they lie.
    """
    bits = 8 * size // weights
    return DType(name, bits, Holds.real, 2.0 ** (1 - bits))


# ggml.h, enum ggml_type, and the blocks of ggml-common.h, as of gguf 0.19.
STORAGES: MappingProxyType[int, Storage] = MappingProxyType(
    {
        storage.number: storage
        for storage in (
            _plain(0, "F32"),
            _plain(1, "F16"),
            _coded(2, "q4_0", 32, 18, Codes(2, 18, 0x11)),
            _coded(3, "q4_1", 32, 20, Codes(4, 20, 0x11)),
            _coded(6, "q5_0", 32, 22, Codes(6, 22, 0x11)),
            _coded(7, "q5_1", 32, 24, Codes(8, 24, 0x11)),
            _coded(8, "q8_0", 32, 34, Codes(2, 34, 0x01)),
            _unreadable(9, "q8_1", 32, 40),
            _coded(10, "q2_K", 256, 84, Codes(16, 80, 0x55)),
            _coded(11, "q3_K", 256, 110, Codes(32, 96, 0x55)),
            _coded(12, "q4_K", 256, 144, Codes(16, 144, 0x11)),
            _coded(13, "q5_K", 256, 176, Codes(48, 176, 0x11)),
            _coded(14, "q6_K", 256, 210, Codes(0, 128, 0x11)),
            _unreadable(15, "q8_K", 256, 292),
            _levelled(16, "iq2_xxs", 256, 66, 4),
            _levelled(17, "iq2_xs", 256, 74, 4),
            _levelled(18, "iq3_xxs", 256, 98, 8),
            _levelled(19, "iq1_s", 256, 50, 3),
            _levelled(20, "iq4_nl", 32, 18, 16),
            _levelled(21, "iq3_s", 256, 110, 8),
            _levelled(22, "iq2_s", 256, 82, 4),
            _levelled(23, "iq4_xs", 256, 136, 16),
            _plain(24, "I8"),
            _plain(25, "I16"),
            _plain(26, "I32"),
            _plain(27, "I64"),
            _plain(28, "F64"),
            _levelled(29, "iq1_m", 256, 56, 3),
            _plain(30, "BF16"),
            _levelled(34, "tq1_0", 256, 54, 3),
            _coded(35, "tq2_0", 256, 66, Codes(0, 64, 0x55)),
            _levelled(39, "mxfp4", 32, 17, 16),
            _levelled(40, "nvfp4", 64, 36, 16),
            _unreadable(41, "q1_0", 128, 18),
        )
    }
)

# Types that ggml had and took out again.
REMOVED: MappingProxyType[int, str] = MappingProxyType(
    {
        4: "q4_2",
        5: "q4_3",
        31: "q4_0_4_4",
        32: "q4_0_4_8",
        33: "q4_0_8_8",
        36: "iq4_nl_4_4",
        37: "iq4_nl_4_8",
        38: "iq4_nl_8_8",
    }
)
