"""GGUF files made by hand, byte by byte, as no writer would make them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

U32 = struct.Struct("<I")


def text(value: bytes | str) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: bytes | str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def info(name: bytes | str = "a", shape: Iterable[int] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = [*shape]
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def gguf_file(
    pairs: Iterable[bytes] = (),
    infos: Iterable[bytes] = (info(),),
    data: int = 64,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    pairs, infos = [*pairs], [*infos]
    tensors, keys = counts or (len(infos), len(pairs))
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(pairs) + b"".join(infos)
    return header + bytes(-len(header) % alignment) + bytes(data)
