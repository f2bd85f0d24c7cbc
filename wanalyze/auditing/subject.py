"""An adapter as the rules see it: read once, by strict readers, before any rule is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from wanalyze.auditing.bank import Bank, recipe_of, statistics_of
from wanalyze.auditing.factors import Factors, factors_of
from wanalyze.auditing.rule import Need
from wanalyze.auditing.standing import Standings, stand

if TYPE_CHECKING:
    from wanalyze.adapters import Adapter
    from wanalyze.auditing.base import Base
    from wanalyze.auditing.card import Card
    from wanalyze.auditing.elements import Elements
    from wanalyze.checkpoints import AdapterFiles, TensorEntry
    from wanalyze.checkpoints.listing import Listed
    from wanalyze.result import Change

_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True)
class Subject:
    """One adapter.

    `listing` is the folder around it, `card` what its README declares, `hashes` sha256 of the files that were read,
    by name; `unreadable` says why no more could be had. `files` are its config and its tensors by their headers.
    `twin` is an adapter audited before it that has the same weights.
    `adapter` is what they do, None where that contradicts itself: `refusal` then says how. `elements` are counts
    over each tensor, by its name. `changes` are the statistics of each update by its module: `metrics` name ->
    number, and in `missing` the reason for every None. `misfit` says why the base given is not its base, `lost`
    which modules that does not have. `limits` are those of the policy, by the code of the rule.
    """

    ref: str
    listing: Sequence[Listed]
    card: Card
    files: AdapterFiles | None = None
    adapter: Adapter | None = None
    refusal: str | None = None
    unreadable: str | None = None
    twin: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    misfit: str | None = None
    elements: Mapping[str, Elements] | None = None
    changes: Mapping[str, Change] = field(default_factory=dict)
    base: Base | None = None
    lost: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    licenses: Sequence[str] = ()
    base_sha256: Sequence[str] = ()
    bank: Bank | None = None
    compared: bool = False

    @property
    def config(self) -> Mapping[str, object]:
        """adapter_config.json as it is written, fields at null left out."""
        given = _NOTHING if self.files is None else self.files.config
        return {key: value for key, value in given.items() if value is not None}

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        return {} if self.files is None else self.files.weights.entries

    @cached_property
    def factors(self) -> Mapping[str, Factors]:
        """The factors of a LoRA by module."""
        return factors_of(self.tensors)

    @property
    def weights_hashes(self) -> frozenset[str]:
        """sha256 of the files that hold the tensors."""
        files = () if self.files is None else self.files.weights.files
        return frozenset(self.hashes[file.name] for file in files if file.name in self.hashes)

    @property
    def weights_file(self) -> str | None:
        """The file that holds the tensors, relative to the adapter."""
        return None if self.files is None else self.files.weights.files[0].name

    @cached_property
    def base_named(self) -> str | None:
        """The base that the config names."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name.strip() else None

    @cached_property
    def standings(self) -> Standings | None:
        """Where its numbers stand in the bank; None where there is no bank, or nothing was measured."""
        if self.bank is None or self.adapter is None or not self.changes:
            return None
        changes = [*self.changes.values()]
        return stand(statistics_of(changes), recipe_of(self.adapter, changes), self.weights_hashes, self.bank)

    def lacks(self, need: Need) -> str | None:
        """Why a need is not met; None if it is."""
        reasons = {
            Need.weights: None if self.files is not None else "the weights or the config cannot be read",
            Need.adapter: None if self.adapter is not None else "what the adapter does could not be worked out",
            Need.numbers: None if self.elements is not None else "no tensor was read",
            Need.base: None if self.base is not None else "no base was given (--base)",
            Need.comparison: None if self.compared else "the merged matrices were not taken apart (--intruders)",
            Need.bank: self._lacks_bank,
        }
        return reasons[need]

    @property
    def _lacks_bank(self) -> str | None:
        if self.bank is None:
            return "no reference bank was given (--bank)"
        if self.standings is not None and not self.standings.matched:
            return "no other adapter of the bank was made by its recipe"
        return None
