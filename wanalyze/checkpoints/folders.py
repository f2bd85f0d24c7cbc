"""A folder of files, listed once: names are claims, and what they lead to must lie inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from wanalyze.checkpoints.files import LocalFile, WeightFile
from wanalyze.errors import CheckpointError

_MOST_NAMES = 20_000  # entries of a folder; the largest sharded models have some hundred
_LONGEST_NAME = 1024  # characters; to follow a path of a million folders takes minutes


class Folder(Protocol):
    """Where a checkpoint lies: a folder on this machine, or one of a Hub repository."""

    @property
    def where(self) -> str:
        """What the user calls it."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit of a Hub repository."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """What lies in it, sorted: files by name, sub-folders as `name/`."""
        ...

    def open(self, name: str) -> WeightFile:
        """A file in it, or below it: never one outside."""
        ...

    def look(self, name: str) -> int:
        """The size of a file in it, 0 of a folder, without opening or fetching it; CheckpointError as of `open`."""
        ...

    def below(self, name: str) -> Folder:
        """A sub-folder."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def revision(self) -> None:
        return None

    @cached_property
    def names(self) -> Sequence[str]:
        found = []
        try:
            for entry in self.path.iterdir():
                found.append(f"{entry.name}/" if entry.is_dir() else entry.name)
                if len(found) > _MOST_NAMES:
                    raise CheckpointError(f"{self.path}: holds more than {_MOST_NAMES} files; pass one of them")
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error
        return sorted(found)

    def open(self, name: str) -> LocalFile:
        return LocalFile.open(self._inside(name), name=name)

    def look(self, name: str) -> int:
        path = self._inside(name)
        return 0 if path.is_dir() else LocalFile.open(path, name=name).size

    def _inside(self, name: str) -> Path:
        check_inside(name, self.where)
        path = self.path / name
        try:
            target = path.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
        if not any(target.is_relative_to(home) for home in self._homes):
            raise CheckpointError(f"{self.path}: {name!r} is a link out of the folder; copy the file here")
        return path

    def below(self, name: str) -> LocalFolder:
        check_inside(name, self.where)
        return LocalFolder(self.path / name)

    @cached_property
    def _homes(self) -> list[Path]:
        """Where a file may really lie: the folder, and the blob store of a Hub cache around it."""
        home = self.path.resolve()
        for around in home.parents:
            if around.parent.name == "snapshots" and around.parent.parent.name.startswith("models--"):
                return [home, *_blobs(around.parent.parent)]
        if home.parent.name == "snapshots":
            return [home, *_blobs(home.parent.parent)]
        return [home]


def _blobs(repository: Path) -> list[Path]:
    # Since huggingface_hub 2 a blob may itself be a link into a store that all repositories of a cache share.
    return [repository / "blobs", repository.parent / "blobs"]


def check_inside(name: str, where: str) -> None:
    """Refuse a name that leads out of its folder under any system's rules."""
    if len(name) > _LONGEST_NAME:
        raise CheckpointError(f"{where}: file {name[:200]!r}… has {len(name)} characters, {_LONGEST_NAME} are allowed")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    is_plain = name and "\0" not in name and not (posix.is_absolute() or windows.drive or windows.root)
    if not is_plain or ".." in windows.parts or ":" in name:
        raise CheckpointError(f"{where}: file {name[:200]!r} would lie outside the folder; refused")
