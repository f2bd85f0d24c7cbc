"""What the user writes to name a checkpoint or an adapter: a path, or a place on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wanalyze.checkpoints.formats import names_file
from wanalyze.errors import UsageError

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SCHEME = "hf:"
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
        return f"{_SCHEME}{self.repository}{'@' * bool(revision)}{revision}{'/' * bool(self.subfolder)}{self.subfolder}"


Location: TypeAlias = "Path | HubLocation"


@dataclass(frozen=True)
class Reference:
    """Where something lies and the label its numbers are filed under."""

    label: str
    location: Location


def parse_reference(text: str) -> Reference:
    """Read `[label=]PATH` or `[label=]hf:org/name[@revision][/subfolder]`; the label defaults to the last part.

    `org/name` alone is a path if it exists, otherwise a repository on the Hub. A revision ends at the next slash,
    except in `refs/pr/N` and `refs/convert/NAME`; in the name of any other branch a slash is written %2F.

    >>> parse_reference("mine=runs/7/checkpoint-400")
    Reference(label='mine', location=PosixPath('runs/7/checkpoint-400'))
    >>> parse_reference("runs/7/checkpoint-400").label
    'checkpoint-400'
    >>> parse_reference("hf:org/name@fix%2Fscale/unet").location
    HubLocation(repository='org/name', revision='fix/scale', subfolder='unet')
    """
    label, equals, rest = text.partition("=")
    if not equals or text.startswith(_SCHEME) or _exists(text):
        location = _location(text)
        return Reference(_label_of(location), location)
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"{label!r} cannot be a label: letters, digits and . _ + - are allowed, 64 at most, "
            "beginning with a letter or digit"
        )
    return Reference(label, _location(rest))


def _location(text: str) -> Location:
    if text.startswith(_SCHEME):
        return _hub(text)
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is no path")
    if _is_repository(text) and not _exists(text):
        return HubLocation(text)
    return Path(text)


def _hub(text: str) -> HubLocation:
    found = _HUB.fullmatch(text.removeprefix(_SCHEME).rstrip("/"))
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


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def _label_of(location: Location) -> str:
    name = _hub_name(location) if isinstance(location, HubLocation) else _path_name(location)
    label = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-._+")[:64]
    return label or "model"


def _hub_name(location: HubLocation) -> str:
    parts = [location.repository.rpartition("/")[2], *filter(None, location.subfolder.split("/"))]
    return parts[-2] if len(parts) > 1 and names_file(parts[-1]) else parts[-1]


def _path_name(path: Path) -> str:
    try:
        absolute = path.absolute()
        return absolute.parent.name if absolute.is_file() else absolute.resolve().name
    except (OSError, RuntimeError):  # opening it will say what is wrong
        return path.name
