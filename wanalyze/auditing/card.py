"""What the README of an adapter declares: a few plain fields of its front matter, by a reader that can do no more.

YAML can name types to build, refer to itself and grow without end; none of that is needed to read `license: mit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from wanalyze.checkpoints.folders import Folder
from wanalyze.errors import CheckpointError

README = "README.md"
_MOST = 64 * 2**10  # bytes; front matter comes first
_LONGEST = 200  # characters of a value
_FIELD = re.compile(r"(?P<key>[A-Za-z_][\w-]{0,63}):[ \t]*(?P<value>[^\r\n]*)")
_ITEM = re.compile(r"[ \t]*-[ \t]+(?P<value>[^\r\n]*)")
_PLAIN = re.compile(r"[\w./:@+ -]+")
_FIELDS = ("license", "base_model", "library_name")


@dataclass(frozen=True)
class Card:
    """The plain values of the fields that an audit reads, each as a list; `problem` says why there are none."""

    fields: Mapping[str, list[str]] = field(default_factory=dict)
    problem: str | None = None

    def values(self, key: str) -> list[str]:
        return self.fields.get(key, [])


def read_card(folder: Folder) -> Card:
    """The card in a folder; one without fields where there is none, or it cannot be read."""
    if README not in folder.names:
        return Card(problem="there is no README")
    try:
        file = folder.open(README)
        text = bytes(file.read(0, min(file.size, _MOST)))
    except CheckpointError:
        return Card(problem="the README cannot be read")
    return parse_card(text.decode("utf-8", "replace"))


def parse_card(text: str) -> Card:
    r"""Top-level `key: value` and `key:` with items below it; everything else is passed over.

    >>> parse_card("---\nlicense: mit\nbase_model:\n- org/name\ntags: !!python/object:os.system\n---\n").fields
    {'license': ['mit'], 'base_model': ['org/name']}
    """
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in _front_matter(text):
        if (item := _ITEM.fullmatch(line)) and current is not None:
            current += _plain(item["value"])
        elif match := _FIELD.fullmatch(line):
            current = found.setdefault(match["key"], []) if match["key"] in _FIELDS else None
            if current is not None:
                current += _plain(match["value"])
        elif line.strip():
            current = None
    return Card(found)


def _front_matter(text: str) -> list[str]:
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    ends = [number for number, line in enumerate(lines[1:], 1) if line.strip() in ("---", "...")]
    return lines[1 : ends[0]] if ends else []


def _plain(value: str) -> list[str]:
    """A scalar, or those of an inline list; nothing for tags, anchors, blocks and what is too long."""
    value = value.strip()
    parts = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
    bare = [part.strip().strip("'\"") for part in parts]
    return [part for part in bare if _PLAIN.fullmatch(part) and len(part) <= _LONGEST]
