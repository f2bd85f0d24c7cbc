"""What was computed from a matrix of a base, kept on disk by the content of the matrix.

An entry is a valid safetensors file: float64 tensors, and last a tensor `sha256` over every byte before it. The
key and the shapes that the caller expects decide its header to the byte and its length, so that nothing in a file
is parsed: it is compared, read into memory of the expected size, and hashed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from wanalyze.errors import UsageError

_FOLDER, _LIMIT = "WANALYZE_CACHE", "WANALYZE_CACHE_LIMIT"  # variables of the environment
_DEFAULT_LIMIT = 2 * 2**30
_HASH_BYTES = 32
_STALE = 24 * 3600  # seconds; no write takes that long, its process is gone
# Only names of exactly this form are ever removed: the folder may be one that holds other files as well.
_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_PARTIAL = re.compile(r"\.[0-9a-f]{64}\.[a-z0-9_]+\.partial")
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:(?:([kmgt])(i?))?b)?", re.IGNORECASE)

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def key_of(stored: Tensor, *, recipe: str) -> str:
    """Name of what `recipe`, an algorithm's version and settings, makes of a tensor as it is stored.

    Nothing is copied if the tensor is contiguous and on the CPU.
    """
    digest = hashlib.sha256(json.dumps([recipe, str(stored.dtype), list(stored.shape)]).encode())
    digest.update(_bytes_of(_at_rest(stored)))
    return digest.hexdigest()


@dataclass(frozen=True)
class Cache:
    """Entries in `folder`, of `limit` bytes in all; a limit of 0 turns it off.

    Safe to share between processes. The hash finds damage; it does not stop who may write to the folder.
    """

    folder: Path
    limit: int = _DEFAULT_LIMIT

    def get(self, key: str, expected: Shapes) -> dict[str, Tensor] | None:
        """The tensors kept under `key`, or None; an entry that is not whole and of these shapes is removed."""
        path, head = self._path(key), _head(key, expected)
        if _size(head, expected) > self.limit:
            return None
        try:
            found = _read(path, head, expected)
        except FileNotFoundError:
            return None
        except OSError:
            found = None
        if found is None:
            _remove(path)
        else:
            with suppress(OSError):  # where nothing can be written, nothing is evicted either
                os.utime(path)
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Keep these float64 tensors; False if they could not be kept.

        Reasons are a folder that cannot be written, a full disk, numbers that are not finite, more than `limit`.
        """
        path, shapes = self._path(key), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if any(tensor.dtype != torch.float64 for tensor in tensors.values()):
            raise ValueError(f"{key}: only float64 is kept")
        head = _head(key, shapes)
        if _size(head, shapes) > self.limit or not _all_finite(tensors):
            return False
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, head, tensors)
            self._shrink(kept=path)
        except OSError:
            return False
        return True

    def _path(self, key: str) -> Path:
        name = f"{key}.safetensors"
        if not _ENTRY.fullmatch(name):
            raise ValueError(f"{key!r}: a key is 64 hexadecimal digits, from key_of")
        return self.folder / name

    def _shrink(self, kept: Path) -> None:
        """Remove what writers left behind, then the entries not used for longest until the others fit."""
        others, excess = [], -self.limit
        for name, state in _regular_files(self.folder):
            if _PARTIAL.fullmatch(name) and time.time() - state.st_mtime > _STALE:
                _remove(self.folder / name)
            elif _ENTRY.fullmatch(name):
                excess += state.st_size
                if name != kept.name:
                    others.append((state.st_mtime_ns, name, state.st_size))
        for _, name, size in sorted(others):
            if excess <= 0:
                return
            if _remove(self.folder / name):
                excess -= size


def default_folder() -> Path:
    """WANALYZE_CACHE, else where the platform keeps caches; UsageError if there is neither."""
    if chosen := os.environ.get(_FOLDER):
        return Path(chosen)
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "wanalyze" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "wanalyze"
        # The XDG specification: a relative path is to be ignored.
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "wanalyze"
    except RuntimeError:
        raise UsageError(f"the cache needs a folder and this user has no home; set {_FOLDER} to one") from None


def default_limit() -> int:
    """Bytes that the cache may take: WANALYZE_CACHE_LIMIT, else 2 GiB; UsageError if it is no amount."""
    text = os.environ.get(_LIMIT, "").strip()
    if not text:
        return _DEFAULT_LIMIT
    amount = _AMOUNT.fullmatch(text)
    if amount is None:
        raise UsageError(
            f"{_LIMIT}={text[:40]!r} is no amount of bytes (a number, then B, kB, MB, GB, TB, KiB, MiB, GiB or "
            f"TiB); set it to one such as 500MB or 2GiB, or to 0 for no cache"
        )
    number, prefix, binary = amount.groups(default="")
    return int(float(number) * (1024 if binary else 1000) ** ["", "k", "m", "g", "t"].index(prefix.lower()))


def _head(key: str, shapes: Shapes) -> bytes:
    """All of an entry before its numbers: the header of safetensors, with its length in front."""
    fields: dict[str, object] = {"__metadata__": {"key": key}}
    at = 0
    for name in sorted(shapes):
        begin, at = at, at + 8 * math.prod(shapes[name])
        fields[name] = {"dtype": "F64", "shape": shapes[name], "data_offsets": [begin, at]}
    fields["sha256"] = {"dtype": "U8", "shape": [_HASH_BYTES], "data_offsets": [at, at + _HASH_BYTES]}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of their size
    return len(text).to_bytes(8, "little") + text


def _size(head: bytes, shapes: Shapes) -> int:
    return len(head) + 8 * sum(math.prod(shape) for shape in shapes.values()) + _HASH_BYTES


def _read(path: Path, head: bytes, expected: Shapes) -> dict[str, Tensor] | None:
    """What the file holds; None if anything about it is not as it must be."""
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode) or state.st_size != _size(head, expected):
        return None
    found = {name: torch.empty(expected[name], dtype=torch.float64, device="cpu") for name in sorted(expected)}
    digest = hashlib.sha256(head)
    with path.open("rb") as stream:
        if stream.read(len(head)) != head:
            return None
        for tensor in found.values():
            stream.readinto(_bytes_of(tensor))
            digest.update(_bytes_of(tensor))
        whole = stream.read(_HASH_BYTES + 1) == digest.digest()
    return found if whole and _all_finite(found) else None


def _write(path: Path, head: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Write under another name, then rename: no reader meets half an entry.

    Not flushed to the disk first: what a power cut leaves behind has a wrong hash.
    """
    digest = hashlib.sha256(head)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".partial", dir=path.parent)  # readable by us only
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(head)
            for key in sorted(tensors):
                data = _bytes_of(_at_rest(tensors[key]))
                stream.write(data)
                digest.update(data)
            stream.write(digest.digest())
        Path(name).replace(path)
    finally:
        _remove(Path(name))


def _at_rest(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor itself, of any dtype: numpy has no bfloat16."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _all_finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def _regular_files(folder: Path) -> list[tuple[str, os.stat_result]]:
    found = []
    with os.scandir(folder) as items:
        for item in items:
            with suppress(OSError):  # another process removed it
                found.append((item.name, item.stat(follow_symlinks=False)))
    return [(name, state) for name, state in found if stat.S_ISREG(state.st_mode)]


def _remove(path: Path) -> bool:
    """Whether nothing has that name any more: a file and a link go, a folder if it is empty."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            path.rmdir()
        else:
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
