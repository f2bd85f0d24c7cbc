"""The base that adapters are audited against: opened once, however many they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from wanalyze.auditing.records import AuditedBase
from wanalyze.checkpoints import Checkpoint, Reference, open_checkpoint, public
from wanalyze.result import File

_SMALL = 64 * 2**20  # bytes; a larger file is hashed only where the policy holds it against hashes


@dataclass(frozen=True)
class Base:
    """A checkpoint, and what the user calls it; `hashed` asks for the hash of files of any size."""

    ref: str
    checkpoint: Checkpoint
    hashed: bool

    @cached_property
    def files(self) -> list[File]:
        return [
            File(
                name=file.name,
                size=file.size,
                sha256=file.sha256() if file.is_whole and (self.hashed or file.size <= _SMALL) else None,
            )
            for file in self.checkpoint.files
        ]

    def record(self) -> AuditedBase:
        return AuditedBase(ref=self.ref, revision=self.checkpoint.revision, files=self.files)


def open_base(reference: Reference, *, hashed: bool, offline: bool) -> Base:
    return Base(public(reference.location), open_checkpoint(reference.location, offline=offline), hashed)
