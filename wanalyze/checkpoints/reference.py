"""What the user writes to name a checkpoint or an adapter: a label, and where it lies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wanalyze.checkpoints.formats import names_file
from wanalyze.checkpoints.location import SCHEME, HubLocation, exists, place
from wanalyze.checkpoints.mix import Mix, Term, terms_of, written
from wanalyze.errors import UsageError

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

Location: TypeAlias = "Path | HubLocation | Mix"


@dataclass(frozen=True)
class Reference:
    """Where something lies and the label its numbers are filed under."""

    label: str
    location: Location


def parse_reference(text: str) -> Reference:
    """Read `[label=]PATH` or `[label=]hf:org/name[@revision][/subfolder]`; the label defaults to the last part.

    Or a weighted sum of such, `0.7*PATH+0.3*hf:org/name`, as `mix.terms_of` has it, unless a path of that name exists.

    `org/name` alone is a path if it exists, otherwise a repository on the Hub. A revision ends at the next slash,
    except in `refs/pr/N` and `refs/convert/NAME`; in the name of any other branch a slash is written %2F.

    >>> parse_reference("mine=runs/7/checkpoint-400")
    Reference(label='mine', location=PosixPath('runs/7/checkpoint-400'))
    >>> parse_reference("runs/7/checkpoint-400").label
    'checkpoint-400'
    >>> parse_reference("hf:org/name@fix%2Fscale/unet").location
    HubLocation(repository='org/name', revision='fix/scale', subfolder='unet')
    >>> str(parse_reference("mix=0.7*runs/7/last+0.3*org/name").location)
    '0.7*runs/7/last+0.3*hf:org/name'
    """
    label, equals, rest = text.partition("=")
    if not equals or text.startswith(SCHEME) or "*" in label or exists(text):
        location = _location(text)
        return Reference(_label_of(location), location)
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"{label!r} cannot be a label: letters, digits and . _ + - are allowed, 64 at most, "
            "beginning with a letter or digit"
        )
    return Reference(label, _location(rest))


def public(location: Location) -> str:
    """The place as it may be published: of the Hub in full, a path relative as given or its last part only."""
    if isinstance(location, Mix):
        return written((term.weight, public(term.location)) for term in location.terms)
    if isinstance(location, HubLocation):
        return str(location)
    path = location
    text = path.resolve().name if path.is_absolute() or ".." in path.parts else path.as_posix()
    return text.encode("utf-8", "backslashreplace").decode()  # a file name need not be valid Unicode


def _location(text: str) -> Location:
    terms = [] if exists(text) else terms_of(text)
    return Mix(tuple(Term(weight, _term(name)) for weight, name in terms)) if terms else place(text)


def _term(text: str) -> Path | HubLocation:
    found = place(text)
    if isinstance(found, Path) and "+" in text and not exists(text):
        raise UsageError(
            f"{text[:200]!r}: no such file or folder; if these are two terms of a sum, give the second a weight: 1*PATH"
        )
    return found


def _label_of(location: Location) -> str:
    label = re.sub(r"[^A-Za-z0-9._+-]+", "-", _name_of(location)).strip("-._+")[:64]
    return label or "model"


def _name_of(location: Location) -> str:
    if isinstance(location, Mix):
        return written((term.weight, _label_of(term.location)) for term in location.terms).replace("*", "_")
    return _hub_name(location) if isinstance(location, HubLocation) else _path_name(location)


def _hub_name(location: HubLocation) -> str:
    parts = [location.repository.rpartition("/")[2], *filter(None, location.subfolder.split("/"))]
    return parts[-2] if len(parts) > 1 and names_file(parts[-1]) else parts[-1]


def _path_name(path: Path) -> str:
    try:
        absolute = path.absolute()
        return absolute.parent.name if absolute.is_file() else absolute.resolve().name
    except (OSError, RuntimeError):  # opening it will say what is wrong
        return path.name
