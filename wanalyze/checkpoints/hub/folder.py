"""A folder of a Hub repository: each file is opened in the way that transfers the least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from huggingface_hub import hf_hub_url

from wanalyze.checkpoints.files import LocalFile, WeightFile
from wanalyze.checkpoints.folders import check_inside
from wanalyze.checkpoints.formats import format_of
from wanalyze.checkpoints.hub import cache
from wanalyze.checkpoints.hub.commit import Commit
from wanalyze.checkpoints.hub.download import download, verify
from wanalyze.checkpoints.hub.listing import Listed
from wanalyze.checkpoints.hub.remote_file import RemoteFile
from wanalyze.errors import CheckpointError

_SMALL = 16 * 2**20  # bytes; configs and indexes are smaller


@dataclass(frozen=True)
class HubFolder:
    """A folder of one commit; `files` are those of the whole listing, by their paths in the repository."""

    commit: Commit
    path: str
    files: Mapping[str, Listed]

    @property
    def where(self) -> str:
        return str(replace(self.commit.location, subfolder=self.path))

    @property
    def revision(self) -> str:
        return self.commit.sha

    @cached_property
    def names(self) -> Sequence[str]:
        inside = [name[len(self._prefix) :] for name in self.files if name.startswith(self._prefix)]
        return sorted({name if "/" not in name else name.partition("/")[0] + "/" for name in inside})

    def open(self, name: str) -> WeightFile:
        """From the user's cache if it is there; weights stay at the Hub, except an adapter's, of which all is read."""
        check_inside(name, self.where)
        path, where = self._prefix + name, f"{self.where}/{name}"
        listed = self.files.get(path)
        if listed is None:
            raise CheckpointError(f"{where}: no such file in the repository")
        is_adapter = name.rpartition("/")[2].startswith("adapter_model.")
        is_read_whole = is_adapter or (format_of(name) is None and listed.size <= _SMALL)
        if (found := cache.find(self.commit.location, self.commit.sha, path)) is not None:
            return _local(found, name, listed, is_read_whole=is_read_whole)
        if self.commit.offline:
            raise cache.missing(self.commit.location, where)
        if not is_read_whole:
            url = hf_hub_url(self.commit.repository, path, revision=self.commit.sha)
            return RemoteFile(url, name, where, listed.size, self.commit.location)
        found = download(self.commit, path, where)
        if is_adapter:
            cache.remember(self.commit.location, self.commit.sha)
        return _local(found, name, listed, is_read_whole=True)

    def look(self, name: str) -> int:
        check_inside(name, self.where)
        listed = self.files.get(self._prefix + name)
        return 0 if listed is None else listed.size

    def below(self, name: str) -> HubFolder:
        check_inside(name, self.where)
        return replace(self, path=self._prefix + name.rstrip("/"))

    @property
    def _prefix(self) -> str:
        return f"{self.path}/" if self.path else ""


def _local(path: Path, name: str, listed: Listed, *, is_read_whole: bool) -> LocalFile:
    """A file in the cache, held against what the Hub says of it: its size, and its hash when it is read whole."""
    promised = listed.hash or cache.promised_hash(path)
    sha256 = promised if promised is not None and len(promised) == 64 else None
    file = LocalFile.open(path, name=name, expected_sha256=sha256)
    if file.size != listed.size:
        raise CheckpointError(f"{path}: {file.size} bytes, the Hub says {listed.size}; delete it and download it again")
    if is_read_whole and promised is not None:
        verify(file, promised)
    return file
