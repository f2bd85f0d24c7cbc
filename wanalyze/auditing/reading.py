"""From a place to a subject: everything a rule may look at, read once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wanalyze.auditing.bank import Bank
from wanalyze.auditing.base import Base
from wanalyze.auditing.card import Card, read_card
from wanalyze.auditing.places import Place
from wanalyze.auditing.records import Effective
from wanalyze.auditing.subject import Subject
from wanalyze.checkpoints import AdapterFiles, Checkpoint, Found, TensorEntry, find, open_found
from wanalyze.checkpoints.dtypes import Holds
from wanalyze.checkpoints.listing import listing
from wanalyze.checkpoints.sources import ADAPTER_CONFIG
from wanalyze.errors import AdapterError, CheckpointError, NumericsError, PairingError

if TYPE_CHECKING:
    from wanalyze.adapters import Adapter
    from wanalyze.auditing.elements import Elements
    from wanalyze.engine import Step
    from wanalyze.pairing import Pairing

_LARGEST = 2**33  # elements of a matrix; the largest embeddings have half as many
_MANY, _TINY = 4096, 2**11  # tensors, and bytes of each: a factor of rank 1 for 1024 inputs has as many


@dataclass(frozen=True)
class Setting:
    """What all subjects of an audit share."""

    policy: Effective
    base: Base | None
    bank: Bank | None
    intruders: bool
    offline: bool
    progress: Callable[[Step], None]

    @property
    def limits(self) -> Mapping[str, float]:
        return {ruling.code: ruling.limit for ruling in self.policy.rules if ruling.limit is not None}


def read_subject(place: Place, setting: Setting) -> Subject:
    """The adapter at a place; one that cannot be read has the reason in `unreadable`, and what could be seen of it."""
    subject = Subject(
        place.ref,
        listing=(),
        card=Card(),
        base=setting.base,
        limits=setting.limits,
        licenses=setting.policy.licenses,
        base_sha256=setting.policy.base_sha256,
        bank=setting.bank,
    )
    try:
        found = find(place.location, offline=setting.offline)
        subject = replace(subject, listing=listing(found.folder), card=read_card(found.folder))
        files = _opened(found)
        subject = replace(subject, files=files, hashes=_hashes(found, files))
        return _understood(subject, files, setting)
    except CheckpointError as error:
        reason = str(error).replace(str(place.location), subject.ref)
        return replace(subject, unreadable=reason)


def _opened(found: Found) -> AdapterFiles:
    source = open_found(found)
    if isinstance(source, Checkpoint):
        raise CheckpointError(f"{found.where}: is a checkpoint, not an adapter; compare it with its base")
    return source


def _hashes(found: Found, files: AdapterFiles) -> dict[str, str]:
    config = [found.folder.open(ADAPTER_CONFIG)] if ADAPTER_CONFIG in found.folder.names else []
    hashes = {file.name: file.sha256() for file in (*files.weights.files, *config) if file.is_whole}
    return {name: digest for name, digest in hashes.items() if digest is not None}


def _understood(subject: Subject, files: AdapterFiles, setting: Setting) -> Subject:
    from wanalyze.adapters import parse_adapter

    if reason := _implausible(files):
        return replace(subject, refusal=reason)
    subject = replace(subject, elements=_elements(files))
    try:
        adapter = parse_adapter(files, None if subject.base is None else subject.base.checkpoint)
    except (AdapterError, PairingError, NumericsError) as error:
        return replace(subject, refusal=str(error).removeprefix(f"{files.name}: "))
    if reason := _oversized(adapter):
        return replace(subject, refusal=reason)
    return _measured(replace(subject, adapter=adapter), adapter, setting)


def _implausible(files: AdapterFiles) -> str | None:
    """Why an adapter is not looked into: so many tensors of so few bytes cost hours and are nobody's training."""
    entries = files.weights.entries
    mean = sum(entry.size for entry in entries.values()) / max(len(entries), 1)
    if len(entries) <= _MANY or mean >= _TINY:
        return None
    return f"holds {len(entries):,} tensors of {mean:,.0f} bytes on average, as no trained adapter does; none was read"


def _oversized(adapter: Adapter) -> str | None:
    """Why no update is measured: factors of few bytes can stand for a matrix that no machine holds."""
    for update in adapter.updates:
        if update.shape is not None and math.prod(update.shape) > _LARGEST:
            rows, columns = update.shape
            return (
                f"{update.module[:160]} is {rows:,} × {columns:,}, more than any matrix of a model; none was measured"
            )
    return None


def _elements(files: AdapterFiles) -> dict[str, Elements]:
    from wanalyze.auditing.elements import elements
    from wanalyze.inspection.pool import READING, pool

    def counted(entry: TensorEntry) -> Elements:
        with READING:
            tensor = entry.read()
        return elements(tensor)

    real = {name: entry for name, entry in files.weights.entries.items() if entry.dtype.holds is Holds.real}
    with pool() as workers:
        return dict(zip(real, workers.map(counted, real.values()), strict=True))


def _measured(subject: Subject, adapter: Adapter, setting: Setting) -> Subject:
    """With the statistics of every update, against the base where there is one that fits."""
    from wanalyze.pairing import Selection, pair_adapter

    pairing = None
    if subject.base is not None:
        try:
            pairing = pair_adapter(subject.base.checkpoint, adapter, Selection(), allow_unmatched=True)
        except PairingError as error:
            subject = replace(subject, misfit=str(error).removeprefix(f"{adapter.name}: "))
        else:
            subject = replace(subject, lost={skipped.name: skipped.reason for skipped in pairing.skipped})
    try:
        return _with_changes(subject, adapter, pairing, setting)
    except (AdapterError, PairingError) as error:
        return replace(subject, refusal=str(error).removeprefix(f"{adapter.name}: "))


def _with_changes(subject: Subject, adapter: Adapter, pairing: Pairing | None, setting: Setting) -> Subject:
    from wanalyze.auditing.intruders import with_intruders
    from wanalyze.auditing.numbers import numbers
    from wanalyze.inspection.updates import changes

    base = None if subject.base is None or pairing is None else subject.base.checkpoint
    found = changes(adapter, base, setting.progress, headers=False, more=numbers)
    if not (setting.intruders and base and pairing and subject.files):
        return replace(subject, changes={change.name: change for change in found})
    found = with_intruders(found, adapter, subject.files, base, pairing, setting.progress)
    return replace(subject, changes={change.name: change for change in found}, compared=True)
