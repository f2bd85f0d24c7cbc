"""A checkpoint cut into shards: an index held against the headers, or a family of numbered files."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from wanalyze.checkpoints import parallel
from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.folders import Folder, check_inside
from wanalyze.checkpoints.formats import Format, Listing
from wanalyze.checkpoints.strict_json import read_object
from wanalyze.errors import CheckpointError

# diffusers and transformers once wrote the variant behind the number, now they write it before.
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>(?:\.[a-z0-9_-]+)?\.[a-z]+)")
_PARALLEL = re.compile(r"(?P<stem>consolidated)\.(?P<number>\d{2})(?P<end>\.pth)")
_MOST_SHARDS = 10_000


@dataclass(frozen=True)
class Family:
    """Files that belong together by their numbers: `stem-00001-of-00003.end`.

    Or, where `is_parallel`, `stem.00.end` and so on: then each holds a part of every tensor.
    """

    stem: str
    end: str
    count: int
    members: tuple[str, ...]
    is_parallel: bool = False

    @property
    def name(self) -> str:
        """What the file would be called, without its format, if it were one: the stem with its variant."""
        return self.stem + self.end.rpartition(".")[0]

    @property
    def missing(self) -> list[str]:
        return [name for name in map(self._member, range(self.count)) if name not in self.members]

    def _member(self, index: int) -> str:
        if self.is_parallel:
            return f"{self.stem}.{index:02}{self.end}"
        return f"{self.stem}-{index + 1:05}-of-{self.count:05}{self.end}"


def families(names: Sequence[str]) -> list[Family]:
    """The numbered files among `names`.

    >>> families(["m-00001-of-00002.bin", "x.bin"])[0].missing
    ['m-00002-of-00002.bin']
    """
    members: dict[tuple[str, str, int], list[str]] = {}
    for name in names:
        if (found := _NUMBERED.fullmatch(name)) and 0 < int(found["count"]) <= _MOST_SHARDS:
            members.setdefault((found["stem"], found["end"], int(found["count"])), []).append(name)
    numbered = [Family(stem, end, count, tuple(found)) for (stem, end, count), found in members.items()]
    return numbered + _parallel(names)


def _parallel(names: Sequence[str]) -> list[Family]:
    """The files of a tensor-parallel run; one that is numbered 00 and alone is the whole model."""
    found = [match for name in sorted(names) if (match := _PARALLEL.fullmatch(name))]
    if not found or (count := int(found[-1]["number"]) + 1) == 1:
        return []
    stem, end = found[0]["stem"], found[0]["end"]
    return [Family(stem, end, count, tuple(match[0] for match in found), is_parallel=True)]


def family_of(name: str, names: Sequence[str]) -> Family | None:
    """The family that a numbered file belongs to."""
    if _NUMBERED.fullmatch(name) is None and _PARALLEL.fullmatch(name) is None:
        return None
    return next((family for family in families(names) if name in family.members), None)


def read_family(folder: Folder, family: Family, format_: Format) -> tuple[tuple[WeightFile, ...], Listing]:
    """All shards of a family that has no index."""
    _check_alone(folder, family)
    if family.missing:
        raise CheckpointError(
            f"{folder.where}: shard {family.missing[0]} is missing ({len(family.missing)} of {family.count}); "
            "download it"
        )
    files = tuple(folder.open(name) for name in family.members)
    if format_.read_together is not None:
        return files, format_.read_together(files)
    if family.is_parallel:
        return files, parallel.join([format_.read(file) for file in files], where=folder.where)
    entries, notes = dict[str, TensorEntry](), dict[str, None]()
    config: Mapping[str, object] = {}
    for file in files:
        listing = format_.read(file)
        for entry in listing.entries:
            if entry.name in entries:
                raise CheckpointError(f"{file.where}: holds tensor {entry.name[:80]!r}, as a shard before it does")
            entries[entry.name] = entry
        notes |= dict.fromkeys(listing.notes)
        config = config or listing.config
    return files, Listing(list(entries.values()), tuple(notes), config)


def _check_alone(folder: Folder, family: Family) -> None:
    """Shards of two saves may lie in one folder; without an index nothing says which of them is meant."""
    for other in families(folder.names):
        if (other.stem, other.end) == (family.stem, family.end) and other.count != family.count:
            raise CheckpointError(
                f"{folder.where}: holds {family.members[0]} and {other.members[0]}, of two saves; move one of them away"
            )


def read_index(folder: Folder, index: str, format_: Format) -> tuple[tuple[WeightFile, ...], Listing]:
    """The files and tensors that an index names.

    An index is only a claim: every shard must lie in the folder, and index and headers must
    name the same tensors, both ways.
    """
    where = f"{folder.where}/{index}"
    index_file = folder.open(index)
    weight_map = _weight_map(index_file, format_)
    files: list[WeightFile] = []
    entries: dict[str, TensorEntry] = {}
    notes: dict[str, None] = {}
    names = set(folder.names)
    for shard in sorted(set(weight_map.values())):
        check_inside(shard, where)
        if "/" not in shard and shard not in names:
            raise CheckpointError(f"{where}: names shard {shard[:200]!r}, which is missing; download it")
        file = folder.open(shard)
        listing = format_.read(file)
        files.append(file)
        notes |= dict.fromkeys(listing.notes)
        for entry in listing.entries:
            if weight_map.get(entry.name) != shard:
                listed = weight_map.get(entry.name)
                said = f"the index lists it in {listed[:200]!r}" if listed else "the index does not list it"
                raise CheckpointError(f"{file.where}: holds tensor {entry.name[:80]!r}, but {said}; the two must agree")
            entries[entry.name] = entry
    absent = next((name for name in weight_map if name not in entries), None)
    if absent is not None:
        raise CheckpointError(
            f"{where}: lists tensor {absent[:80]!r} in {weight_map[absent][:200]!r}, which does not hold it; "
            "the two must agree"
        )
    _check_all_named(where, set(weight_map.values()), folder.names)
    return tuple(files), Listing(list(entries.values()), tuple(notes), beside=(index_file,))


def _check_all_named(where: str, shards: Collection[str], names: Sequence[str]) -> None:
    """Of the shards that are numbered together an index names all or none: with some it is half a model."""
    for family in families(names):
        unnamed = [name for name in family.members if name not in shards]
        if unnamed and len(unnamed) < len(family.members):
            raise CheckpointError(
                f"{where}: does not name shard {unnamed[0]!r}, which belongs to those that it names; the two must agree"
            )


def _weight_map(index: WeightFile, format_: Format) -> dict[str, str]:
    value = read_object(index).get("weight_map")
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{index.where}: weight_map is missing or empty; it must map tensors to shards")
    for shard in value.values():
        if not isinstance(shard, str):
            raise CheckpointError(f"{index.where}: weight_map names a shard that is no text")
        if not shard.endswith(format_.suffixes):
            raise CheckpointError(f"{index.where}: shard {shard[:200]!r} is no {format_.suffixes[0]} file; refused")
    if len(set(value.values())) > _MOST_SHARDS:
        raise CheckpointError(f"{index.where}: names more than {_MOST_SHARDS} shards; refused")
    return value
