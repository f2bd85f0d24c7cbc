"""What a run will do, from headers alone: everything opened, paired and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Literal

import torch

from wanalyze.adapters import Adapter, Mixture, parse_adapter
from wanalyze.checkpoints import AdapterFiles, Checkpoint, Location, Mix, Reference, open_checkpoint, open_source
from wanalyze.errors import UsageError
from wanalyze.pairing import NameMap, Pair, Pairing, Selection, pair_adapter, pair_checkpoint, pair_mixture

BASE_LABEL = "base"
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Options:
    """What a run is asked for."""

    top_k: int = 10
    epsilon: float = 0.5
    selection: Selection = field(default_factory=Selection)
    device: str = "auto"
    jobs: int | None = None
    allow_unmatched: bool = False
    precision: Literal["exact", "fast"] = "exact"
    cache: bool = True
    offline: bool = False
    name_map: NameMap | None = None


@dataclass(frozen=True)
class Tuned:
    """A tuned model, opened and paired with the base; `checkpoints` hold its tensors, of a mixture one a term."""

    reference: Reference
    source: Checkpoint | Adapter | Mixture
    checkpoints: tuple[Checkpoint, ...]
    pairing: Pairing

    @property
    def label(self) -> str:
        return self.reference.label

    @property
    def method(self) -> str:
        return "full weights" if isinstance(self.source, Checkpoint) else self.source.method


@dataclass(frozen=True)
class Plan:
    """All that is known before a tensor is read."""

    reference: Reference
    base: Checkpoint
    tuned: tuple[Tuned, ...]
    options: Options
    device: torch.device

    @cached_property
    def matrices(self) -> list[tuple[str, list[tuple[Tuned, Pair]]]]:
        """For each matrix of the base, in reading order, what it is compared with."""
        jobs: dict[str, list[tuple[Tuned, Pair]]] = {}
        for tuned in self.tuned:
            for pair in tuned.pairing.matrices:
                jobs.setdefault(pair.name, []).append((tuned, pair))
        return sorted(jobs.items(), key=lambda item: natural(item[0]))

    @property
    def cost(self) -> int:
        """Work of the whole run, in the unit of `Step`."""
        return sum(cost_of(pair) for _, jobs in self.matrices for _, pair in jobs)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of matrices that will be read, each once."""
        entries = {pair.base.name: pair.base.size for _, jobs in self.matrices for _, pair in jobs if pair.tuned}
        return sum(entries.values()) + sum(
            pair.tuned.size for _, jobs in self.matrices for _, pair in jobs if pair.tuned
        )


def plan(base: Reference, tuned: Sequence[Reference], options: Options) -> Plan:
    """Open everything, pair it and check the request; reads headers only."""
    _check_options(options)
    checkpoint = open_checkpoint(base.location, offline=options.offline)
    _check_labels(tuned)
    opened = tuple(_open_tuned(checkpoint, reference, options) for reference in tuned)
    return Plan(base, checkpoint, opened, options, _device(options.device))


def _check_options(options: Options) -> None:
    if options.top_k < 1:
        raise UsageError(f"--top-k {options.top_k}: at least one singular vector must be looked at")
    if not 0 < options.epsilon <= 1:
        raise UsageError(f"--epsilon {options.epsilon}: must lie above 0 and at most at 1, as a cosine does")
    if options.jobs is not None and not 1 <= options.jobs <= _MOST_THREADS:
        raise UsageError(f"--jobs {options.jobs}: from 1 to {_MOST_THREADS} threads can be asked for")


def _check_labels(tuned: Sequence[Reference]) -> None:
    if not tuned:
        raise UsageError("nothing to compare the base with; name at least one tuned model")
    seen: dict[str, Reference] = {}
    for reference in tuned:
        if reference.label == BASE_LABEL:
            raise UsageError(
                f"{reference.location}: the label {BASE_LABEL!r} is taken; write NAME={reference.location}"
            )
        if reference.label in seen:
            raise UsageError(
                f"{seen[reference.label].location} and {reference.location} are both called {reference.label!r}; "
                f"write NAME={reference.location}"
            )
        seen[reference.label] = reference


def _open_tuned(base: Checkpoint, reference: Reference, options: Options) -> Tuned:
    if isinstance(reference.location, Mix):
        return _open_mix(base, reference, reference.location, options)
    source = open_source(reference.location, offline=options.offline)
    if isinstance(source, Checkpoint):
        return Tuned(reference, source, (source,), pair_checkpoint(base, source, options.selection, options.name_map))
    adapter = parse_adapter(source, base)
    pairing = pair_adapter(base, adapter, options.selection, options.name_map, allow_unmatched=options.allow_unmatched)
    return Tuned(reference, adapter, (source.weights,), pairing)


def _open_mix(base: Checkpoint, reference: Reference, mix: Mix, options: Options) -> Tuned:
    found = [_open_term(term.location, options) for term in mix.terms]
    terms = [(term.weight, parse_adapter(files, base)) for term, files in zip(mix.terms, found, strict=True)]
    mixture = Mixture(str(mix), tuple(terms))
    pairing = pair_mixture(base, mixture, options.selection, options.name_map, allow_unmatched=options.allow_unmatched)
    return Tuned(reference, mixture, tuple(files.weights for files in found), pairing)


def _open_term(location: Location, options: Options) -> AdapterFiles:
    source = open_source(location, offline=options.offline)
    if isinstance(source, Checkpoint):
        raise UsageError(f"{location}: holds whole weights, and a sum is of adapters; compare it as a model of its own")
    return source


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: unknown; auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: float64 is needed; auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def cost_of(pair: Pair) -> int:
    return math.prod(pair.shape) * min(pair.shape) if pair.tuned is not None else 0


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Order names as people do: layer 2 before layer 10. A number's digits are compared, however many there are."""
    digits = (part.lstrip("0") for part in re.split(r"([0-9]+)", name)[1::2])
    words = re.split(r"[0-9]+", name)
    numbers = [(1, len(number), number) for number in digits]
    return tuple(key for pair in zip_longest([(0, 0, word) for word in words], numbers) for key in pair if key)
