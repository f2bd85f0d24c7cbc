"""From measurements to the records of a result: rounding, naming, provenance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from wanalyze import measure
from wanalyze.adapters import Mixture
from wanalyze.adapters.mixture import base_named
from wanalyze.checkpoints import Checkpoint, Mix, TensorEntry, WeightFile, public
from wanalyze.engine.plan import BASE_LABEL, Plan, Tuned, natural
from wanalyze.engine.provenance import Hashes, Opened, hashed_whole
from wanalyze.findings import findings_of
from wanalyze.measure import Measurement
from wanalyze.naming import Place
from wanalyze.pairing import Pair
from wanalyze.result import (
    Ambiguity,
    File,
    Model,
    Module,
    Result,
    Settings,
    SkippedTensor,
    Source,
    Status,
    Term,
    Tool,
    Vector,
    summarise,
)
from wanalyze.version import VERSION

_DIGITS = 12  # significant digits kept in a record: more than any input determines, equal on every run


@dataclass
class Collected:
    """Records and arrays in the order they were measured."""

    modules: list[Module] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    hashes: Hashes = field(default_factory=Hashes)

    def add(self, record: Module, spectra: Mapping[str, Tensor], *, variant: bool) -> None:
        """File a record; `variant` marks a matrix of which only some rows are compared."""
        self.modules.append(record)
        for name, values in spectra.items():
            shared = name == "base_values" and not variant
            key = f"{BASE_LABEL}/{record.name}/values" if shared else f"{record.model}/{record.name}/{name}"
            self.arrays[key] = values.cpu().numpy()
        if record.status is Status.measured:
            for side, cosines in (("left", record.max_cosine_left), ("right", record.max_cosine_right)):
                key = f"{record.model}/{record.name}/max_cosine_{side}"
                self.arrays[key] = np.array(cosines, dtype=np.float64).reshape(-1, 2)


def module(
    label: str, pair: Pair, place: Place, found: Measurement, failure: str | None = None, note: str | None = None
) -> Module:
    changed = Status.measured if found.changed else Status.unchanged
    return Module(
        model=label,
        name=pair.name,
        layer=place.layer,
        kind=place.kind,
        shape=list(pair.shape),
        dtype=_dtype(pair),
        status=Status.failed if failure else changed,
        reason=failure or "; ".join(filter(None, (pair.note, note))) or None,
        metrics=tidy(found.metrics),
        missing=dict(found.missing),
        max_cosine_left=_enclosures(found.left),
        max_cosine_right=_enclosures(found.right),
        matched_left=list(found.left.matched),
        matched_right=list(found.right.matched),
        ambiguous=[*_ambiguities(found.left), *_ambiguities(found.right)],
    )


def vector(label: str, pair: Pair, metrics: Mapping[str, measure.Number | None], failure: str | None = None) -> Vector:
    changed = Status.measured if metrics["changed_fraction"] else Status.unchanged
    return Vector(
        model=label,
        name=pair.name,
        shape=list(pair.shape),
        dtype=_dtype(pair),
        status=Status.failed if failure else changed,
        reason=failure,
        metrics=tidy(metrics),
    )


def result_of(plan: Plan, collected: Collected) -> Result:
    """The result of a finished run, with the provenance of every file that was read."""
    result = Result(
        tool=Tool(version=VERSION),
        settings=Settings(
            top_k=plan.options.top_k,
            epsilon=plan.options.epsilon,
            only=list(plan.options.selection.only),
            skip=list(plan.options.selection.skip),
            device=plan.device.type,
            precision="float32" if plan.options.precision == "fast" else "float64",
        ),
        base=Source(
            ref=public(plan.reference.location),
            revision=plan.base.revision,
            files=_files(plan.base, plan.base, collected.hashes.to_check(BASE_LABEL, plan.base)),
            tensors=collected.hashes.of(BASE_LABEL),
            notes=list(plan.base.notes),
        ),
        models=[_model(tuned, collected) for tuned in plan.tuned],
        modules=collected.modules,
        vectors=collected.vectors,
        findings=findings_of(collected.modules),
        skipped=[item for tuned in plan.tuned for item in _skipped(tuned)],
    )
    result._arrays = collected.arrays
    return result


def _model(tuned: Tuned, collected: Collected) -> Model:
    terms, first = _terms(tuned), tuned.checkpoints[0]
    return Model(
        label=tuned.label,
        ref=public(tuned.reference.location),
        method=tuned.method,
        trained_parameters=None if isinstance(tuned.source, Checkpoint) else tuned.source.trained_parameters,
        revision=None if terms else first.revision,
        files=[] if terms else _files(tuned.source, first, collected.hashes.to_check(tuned.label, first)),
        terms=terms,
        tensors=collected.hashes.of(tuned.label),
        notes=list(tuned.source.notes),
        summary=summarise(
            [module for module in collected.modules if module.model == tuned.label],
            [vector for vector in collected.vectors if vector.model == tuned.label],
            _skipped(tuned),
        ),
    )


def _terms(tuned: Tuned) -> list[Term]:
    """What a mixture was mixed of; nothing of any other model."""
    mix, mixture = tuned.reference.location, tuned.source
    if not (isinstance(mix, Mix) and isinstance(mixture, Mixture)):
        return []
    return [
        Term(
            weight=weight,
            ref=public(term.location),
            revision=checkpoint.revision,
            method=adapter.method,
            base_model=base_named(adapter),
            trained_parameters=adapter.trained_parameters,
            files=_files(adapter, checkpoint),
        )
        for term, (weight, adapter), checkpoint in zip(mix.terms, mixture.terms, tuned.checkpoints, strict=True)
    ]


def _skipped(tuned: Tuned) -> list[SkippedTensor]:
    items = sorted(tuned.pairing.skipped, key=lambda item: natural(item.name))
    return [SkippedTensor(model=tuned.label, name=item.name, reason=item.reason) for item in items]


def _files(source: Opened, checkpoint: Checkpoint, to_check: Collection[str] = ()) -> list[File]:
    def hash_of(file: WeightFile) -> str | None:
        return file.sha256() if hashed_whole(file, source) or file.name in to_check else None

    files = (*checkpoint.files, *checkpoint.beside)
    return [File(name=file.name, size=file.size, sha256=hash_of(file)) for file in files]


def _dtype(pair: Pair) -> str:
    """The storage dtype of the base, and of the tuned where it is another one."""
    base = pair.base.dtype.name
    if pair.tuned is None:
        return base
    tuned = pair.tuned.dtype.name if isinstance(pair.tuned, TensorEntry) else pair.tuned.dtype
    return base if tuned == base else f"{base}, {tuned}"


def _enclosures(side: measure.Side) -> list[tuple[float, float]]:
    return [(_rounded(low), _rounded(high)) for low, high in side.cosines]


def _ambiguities(side: measure.Side) -> list[Ambiguity]:
    return [
        Ambiguity(side=item.side, vectors=list(item.vectors), cosine=_rounded(item.cosine), reason=item.reason)
        for item in side.ambiguous
    ]


def tidy(metrics: Mapping[str, measure.Number | None]) -> dict[str, int | float | None]:
    """Rounded as all records are."""
    return {key: _rounded(value) if isinstance(value, float) else value for key, value in metrics.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
