"""Where something lies: a path, or a place on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wanalyze.errors import UsageError

SCHEME = "hf:"
# The Hub's own rules for names; see also `_is_repository`.
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_PULL_REQUEST = r"refs/(?:pr|convert)/[^/]*"
_HUB = re.compile(rf"(?P<repository>[^@/]*/[^@/]*)(?:@(?P<revision>{_PULL_REQUEST}|[^/]*))?(?:/(?P<subfolder>.*))?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")


@dataclass(frozen=True)
class HubLocation:
    """A repository on the Hub, or a folder or file in it; `str()` is how it is written.

    >>> str(HubLocation("org/name", "refs/pr/1", "unet"))
    'hf:org/name@refs/pr/1/unet'
    """

    repository: str
    revision: str | None = None
    subfolder: str = ""

    def __str__(self) -> str:
        revision = self.revision or ""
        if not re.fullmatch(_PULL_REQUEST, revision):
            revision = revision.replace("/", "%2F")
        return f"{SCHEME}{self.repository}{'@' * bool(revision)}{revision}{'/' * bool(self.subfolder)}{self.subfolder}"


def place(text: str) -> Path | HubLocation:
    """Read `PATH`, `hf:org/name[@revision][/subfolder]` or `org/name`, which is a path if it exists."""
    if text.startswith(SCHEME):
        return _hub(text)
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is no path")
    if _is_repository(text) and not exists(text):
        return HubLocation(text)
    return Path(text)


def _hub(text: str) -> HubLocation:
    found = _HUB.fullmatch(text.removeprefix(SCHEME).rstrip("/"))
    if found is None or not _is_repository(found["repository"]):
        raise UsageError(f"{text[:200]!r} names no repository; write hf:org/name[@revision][/subfolder]")
    revision, subfolder = found["revision"], found["subfolder"] or ""
    if revision is not None:
        revision = re.sub("%2F", "/", revision, flags=re.IGNORECASE)
        if not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > 200:
            raise UsageError(f"{text[:200]!r}: {revision[:80]!r} is no revision; a branch, a tag or a commit is needed")
    if subfolder and not _is_plain(subfolder):
        raise UsageError(f"{text[:200]!r}: {subfolder[:80]!r} is no folder of a repository")
    return HubLocation(found["repository"], revision, subfolder)


def _is_repository(text: str) -> bool:
    ends_badly = any(part.endswith(("-", ".")) for part in text.split("/")) or text.endswith(".git")
    return bool(_REPOSITORY.fullmatch(text)) and not ends_badly and "--" not in text and ".." not in text


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return path.isprintable() and not ({"", ".", ".."} & set(parts)) and not (set("\\:") & set(path))


def exists(text: str) -> bool:
    """Whether a path of that name is there."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or no path at all
        return False
