"""What the user writes to name a checkpoint or an adapter: `[label=]PATH`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wanalyze.errors import UsageError

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class Reference:
    """A path and the label its numbers are filed under."""

    label: str
    path: Path


def parse_reference(text: str) -> Reference:
    """Read `[label=]PATH`; without a label, the last part of the path is taken.

    >>> parse_reference("mine=runs/7/checkpoint-400")
    Reference(label='mine', path=PosixPath('runs/7/checkpoint-400'))
    >>> parse_reference("runs/7/checkpoint-400").label
    'checkpoint-400'
    """
    label, equals, rest = text.partition("=")
    if not equals or _exists(text):
        return Reference(_label_of(_local(text)), _local(text))
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"{label!r} cannot be a label: letters, digits and . _ + - are allowed, 64 at most, "
            "beginning with a letter or digit"
        )
    return Reference(label, _local(rest))


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def _local(text: str) -> Path:
    if text.startswith("hf:"):
        raise UsageError(
            f"{text}: reading from the Hub is not supported yet; run `hf download {text[3:]}` "
            "and pass the folder it prints"
        )
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is no path")
    return Path(text)


def _label_of(path: Path) -> str:
    try:
        absolute = path.absolute()
        name = absolute.parent.name if absolute.is_file() else absolute.resolve().name
    except OSError:  # opening it will say what is wrong
        name = path.name
    label = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-._+")[:64]
    return label or "model"
