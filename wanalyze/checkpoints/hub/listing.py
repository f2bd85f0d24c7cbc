"""What a commit holds: every file with its size and its hash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from huggingface_hub import constants, get_cached_repo_tree
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from wanalyze.checkpoints.folders import check_inside
from wanalyze.checkpoints.hub import cache
from wanalyze.checkpoints.hub.commit import Commit
from wanalyze.checkpoints.hub.silence import silence
from wanalyze.checkpoints.hub.transport import get
from wanalyze.errors import CheckpointError

_MOST_FILES = 20_000  # the largest sharded models have some hundred
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="next"')


@dataclass(frozen=True)
class Listed:
    """A file as the Hub lists it: `hash` is the sha256 of a large file, git's sha1 of a small one, None if unsaid."""

    size: int
    hash: str | None = None


class _Large(BaseModel):
    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class _Entry(BaseModel):
    type: str
    path: str = Field(max_length=1024)
    oid: str = ""
    size: int = Field(default=0, ge=0)
    lfs: _Large | None = None


_ENTRIES = TypeAdapter(list[_Entry])


def files_of(commit: Commit, path: str) -> dict[str, Listed]:
    """All files at and below a folder, by their paths in the repository.

    A whole download leaves a listing in the cache; then no request is made. Offline without one, what is there counts.
    """
    listed = _cached(commit)
    if listed is None:
        listed = _present(commit) if commit.offline else dict(_asked(commit, path))
    prefix = f"{path}/" if path else ""
    found = {name: file for name, file in listed.items() if name.startswith(prefix)}
    if not found:
        raise CheckpointError(f"{commit.location}: no such folder in the repository, or nothing in it")
    return found


def _cached(commit: Commit) -> dict[str, Listed] | None:
    try:
        with silence():
            files = get_cached_repo_tree(commit.repository, revision=commit.sha)
    except CachedRepoTreeNotFoundError:
        return None
    return {file.path: Listed(file.size) for file in files}


def _present(commit: Commit) -> dict[str, Listed]:
    found = {name: Listed(path.stat().st_size) for name, path in cache.files(commit.location, commit.sha)}
    if not found:
        raise cache.missing(commit.location, str(commit.location))
    return found


def _asked(commit: Commit, path: str) -> Iterator[tuple[str, Listed]]:
    for count, entry in enumerate(_entries(commit, path)):
        if count >= _MOST_FILES:
            raise CheckpointError(
                f"{commit.location}: holds more than {_MOST_FILES} files; name a folder of it, as in "
                f"hf:{commit.repository}/FOLDER"
            )
        check_inside(entry.path, str(commit.location))
        if entry.type == "file":
            yield entry.path, Listed(entry.lfs.size, entry.lfs.oid) if entry.lfs else Listed(entry.size, entry.oid)


def _entries(commit: Commit, path: str) -> Iterator[_Entry]:
    folder = f"/{quote(path)}" if path else ""
    url = f"{constants.ENDPOINT}/api/models/{commit.repository}/tree/{commit.sha}{folder}"
    query: str | None = "recursive=true"
    while query is not None:
        answer = get(f"{url}?{query}", commit.location)
        try:
            page = _ENTRIES.validate_json(bytes(answer.body))
        except ValidationError:
            raise CheckpointError(f"{commit.location}: the Hub's listing is none; is HF_ENDPOINT right?") from None
        yield from page
        query = _next(answer.headers) if page else None


def _next(headers: Mapping[str, str]) -> str | None:
    """The query of the page after this one; its address is not followed: the token would go wherever it leads."""
    found = _NEXT.search(headers.get("Link", ""))
    return urlencode(parse_qs(urlsplit(found[1]).query), doseq=True) if found else None
