"""The user's Hub cache: refs/NAME holds a commit, snapshots/COMMIT links to blobs that are named by their hash."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

from wanalyze.checkpoints.location import HubLocation
from wanalyze.errors import CheckpointError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1 of a small file, sha256 of a large one
_MISSING = "is not in the cache; fetch it with `hf download {}` while there is a network"


def _storage(location: HubLocation) -> Path:
    return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{location.repository.replace('/', '--')}"


def _snapshot(location: HubLocation, sha: str) -> Path:
    return _storage(location) / "snapshots" / sha


def _ref(location: HubLocation) -> Path:
    return _storage(location) / "refs" / (location.revision or constants.DEFAULT_REVISION)


def commit_of(location: HubLocation) -> str:
    """The commit that a revision stood for when it was last downloaded; CheckpointError if it never was."""
    try:
        with _ref(location).open("rb") as stream:
            sha = stream.read(64).decode("ascii").strip()
    except (OSError, ValueError):
        raise missing(location, str(location)) from None
    if not _COMMIT.fullmatch(sha):
        raise CheckpointError(f"{_ref(location)}: holds no commit; delete it and download again")
    return sha


def remember(location: HubLocation, sha: str) -> None:
    """Note what a revision stands for, so that it can be found offline; a cache that is read-only stays as it is."""
    with suppress(OSError):
        _ref(location).parent.mkdir(parents=True, exist_ok=True)
        _ref(location).write_text(sha)


def find(location: HubLocation, sha: str, path: str) -> Path | None:
    """A file of a commit, if it is there."""
    file = _snapshot(location, sha) / path
    return file if file.is_file() else None


def promised_hash(path: Path) -> str | None:
    """The hash that a file in the cache is named by; None where the cache holds copies instead of links."""
    if not path.is_symlink():
        return None
    name = path.readlink().name
    return name if _HASH.fullmatch(name) else None


def files(location: HubLocation, sha: str) -> Iterator[tuple[str, Path]]:
    """All files of a commit that are there."""
    root = _snapshot(location, sha)
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(root).as_posix(), path


def missing(location: HubLocation, where: str) -> CheckpointError:
    return CheckpointError(f"{where}: {_MISSING.format(location.repository)}")
