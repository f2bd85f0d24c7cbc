"""Whole files into the user's Hub cache, and their hashes: the client itself checks no content that comes over HTTP."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client it is built on
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from wanalyze.checkpoints.files import LocalFile
from wanalyze.checkpoints.hub import refusals
from wanalyze.checkpoints.hub.commit import Commit
from wanalyze.checkpoints.hub.silence import silence
from wanalyze.checkpoints.hub.transport import Trouble, patiently
from wanalyze.errors import CheckpointError
from wanalyze.version import VERSION


class _Silent(tqdm):
    """No progress bar: stderr is the command's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]


def download(commit: Commit, path: str, where: str) -> Path:
    """Where a file lies in the cache, transferred if it was not there; CheckpointError in the client's stead."""
    with silence():
        return patiently(lambda: _once(commit, path, where))


def _once(commit: Commit, path: str, where: str) -> Path | Trouble:
    try:
        found = hf_hub_download(
            commit.repository,
            path,
            revision=commit.sha,
            library_name="wanalyze",
            library_version=VERSION,
            tqdm_class=_Silent,
        )
        return Path(found)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: what its Xet backend raises
        refusal = refusals.of_error(commit.location, where, error)
        if not refusals.may_pass(error):
            raise refusal from None
        return Trouble(refusal)


def verify(file: LocalFile, promised: str) -> None:
    """CheckpointError if the content has another hash than was promised: a sha256, or git's sha1 of a small file."""
    found = file.sha256() if len(promised) == 64 else git_hash(bytes(file.read(0, file.size)))
    if found != promised:
        raise CheckpointError(
            f"{file.path}: its hash is {found}, the Hub says {promised}; delete it and download it again"
        )


def git_hash(content: bytes) -> str:
    """What git calls a file of this content.

    >>> git_hash(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
