"""The records of `result.json`, and its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from wanalyze.errors import ResultError
from wanalyze.result.notebook import models_html, modules_frame

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

SCHEMA_ID: Literal["wanalyze.result/1"] = "wanalyze.result/1"
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Number: TypeAlias = Annotated[int, Field(gt=-(2**63), lt=2**63)] | Finite
Cosine: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(Record):
    """A record that is written on its own."""

    def to_json(self) -> str:
        """Its text: sorted keys, no NaN, one final newline."""
        value = self.model_dump(mode="json", by_alias=True)
        return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


class Status(str, Enum):
    """What became of a matrix or vector."""

    measured = "measured"
    unchanged = "unchanged"
    skipped = "skipped"
    failed = "failed"


class Tool(Record):
    name: Literal["wanalyze"] = "wanalyze"
    version: str


class Settings(Record):
    """What the numbers depend on, beside the files; of `precision` float32 all of them are estimates."""

    top_k: Annotated[int, Field(ge=1, lt=2**63)]
    epsilon: float = Field(gt=0, le=1)
    only: list[str] = []
    skip: list[str] = []
    precision: Literal["float64", "float32"] = "float64"
    device: str = "cpu"

    @property
    def estimated(self) -> bool:
        """Whether every number is an estimate."""
        return self.precision == "float32"


class File(Record):
    """`sha256` is null where only parts of the file were read: then `tensors` of its model holds their hashes."""

    name: str
    size: Count
    sha256: str | None


class Source(Record):
    """Where the base came from; `revision` is a Hub commit, null for a local folder.

    `tensors` are sha256 of the elements that were read, row by row. `notes` say what was chosen or restored on the way.
    """

    ref: str
    revision: str | None = None
    files: list[File]
    tensors: dict[str, str] = {}
    notes: list[str] = []


class Summary(Record):
    """One model in a few numbers; medians are over measured matrices, null where there are none.

    `matrices_with_intruders` counts either side, among the `counted`: a measured matrix without singular vectors in
    the base, which is zero then, has none to count. `changed_share` is the share of entries that differ from the base,
    over all that was compared.
    """

    measured: Count
    counted: Count
    unchanged: Count
    failed: Count
    skipped: Count
    vectors: Count
    vectors_changed: Count
    weights: Count
    changed_share: Finite | None
    median_relative_norm: Finite | None
    median_effective_rank: Finite | None
    median_stable_rank: Finite | None
    intruders_left: Count
    intruders_right: Count
    matrices_with_intruders: Count
    matrices_with_intruders_left: Count
    matrices_with_intruders_right: Count
    ambiguous: Count

    @property
    def hits(self) -> str | None:
        """Matrices with intruders on the output and on the input side, of those that were counted; None of none."""
        found = f"{self.matrices_with_intruders_left} / {self.matrices_with_intruders_right} of {self.counted}"
        return found if self.counted else None


class Term(Record):
    """One adapter of a weighted sum; `base_model` is the base that it says it was made for."""

    weight: Number
    ref: str
    revision: str | None = None
    method: str
    base_model: str | None = None
    trained_parameters: Count
    files: list[File]


class Model(Record):
    """A tuned model; `trained_parameters` is known for adapters only. For the rest see `Source`.

    Of a weighted sum of adapters, `terms` hold the files and the revision of each, and `files` is empty.
    """

    label: str
    ref: str
    revision: str | None = None
    method: str
    trained_parameters: Count | None = None
    files: list[File]
    tensors: dict[str, str] = {}
    notes: list[str] = []
    terms: list[Term] = []
    summary: Summary

    @property
    def bytes(self) -> int:
        """On disk, those of every term included."""
        return sum(file.size for files in (self.files, *(term.files for term in self.terms)) for file in files)


class Ambiguity(Record):
    """Vectors of one side that have no answer of their own, and the cosine of what they share."""

    side: Literal["left", "right"]
    vectors: list[int]
    cosine: Cosine
    reason: str


class Module(Record):
    """One matrix of one model. `missing` gives the reason for every null among `metrics`."""

    model: str
    name: str
    layer: Count | None
    kind: str
    shape: Annotated[list[Count], Field(min_length=2, max_length=2)]
    dtype: str
    status: Status
    reason: str | None = None
    metrics: dict[str, Number | None]
    missing: dict[str, str] = {}
    max_cosine_left: list[tuple[Cosine, Cosine]] = []
    max_cosine_right: list[tuple[Cosine, Cosine]] = []
    matched_left: list[int | None] = []
    matched_right: list[int | None] = []
    ambiguous: list[Ambiguity] = []

    def metric(self, key: str) -> float | None:
        """The metric, or None where it was not measured."""
        return self.metrics.get(key)


class Vector(Record):
    """A norm, bias or other vector: drift only."""

    model: str
    name: str
    shape: list[int]
    dtype: str
    status: Status
    reason: str | None = None
    metrics: dict[str, Number | None]


class Finding(Record):
    """Something a reader should know, and the limit it broke."""

    code: str
    severity: str
    model: str
    module: str | None
    value: Number | None
    limit: Number | None
    message: str


class SkippedTensor(Record):
    model: str
    name: str
    reason: str


class Result(Document):
    """All that one `compare` found. The arrays (spectra, cosines) lie beside it and are read on demand."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_id: Literal["wanalyze.result/1"] = Field(default=SCHEMA_ID, alias="schema")
    tool: Tool
    settings: Settings
    base: Source
    models: list[Model]
    modules: list[Module]
    vectors: list[Vector]
    findings: list[Finding] = []
    skipped: list[SkippedTensor]

    _arrays: Mapping[str, np.ndarray] | None = PrivateAttr(default=None)
    _arrays_path: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _hangs_together(self) -> Result:
        labels = [model.label for model in self.models]
        if len({*labels}) < len(labels):
            raise ValueError("two models have the same label")
        of = {m.model for m in self.modules} | {v.model for v in self.vectors} | {s.model for s in self.skipped}
        if strange := sorted(of.difference(labels)):
            raise ValueError(f"a record is of {strange[0][:80]!r}, which is no model of the run")
        return self

    def __getitem__(self, name: str) -> list[Module]:
        """The records of one matrix, one per model."""
        found = [module for module in self.modules if module.name == name]
        if not found:
            raise KeyError(name)
        return found

    def to_pandas(self) -> DataFrame:
        """The matrices as a data frame, with a column for each metric; needs pandas."""
        return modules_frame(self.modules)

    def _repr_html_(self) -> str:
        return models_html(self.models, estimated=self.settings.estimated)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Spectra and cosines by `<label>/<module>/<array>`; those of the base under `base`."""
        if self._arrays is None:
            self._arrays = _load(self._arrays_path) if self._arrays_path else {}
        return self._arrays


def _load(path: str) -> Mapping[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: Mapping[str, np.ndarray] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ResultError(f"{path}: cannot be read ({error}); run `wanalyze compare` again") from error
    return arrays


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of `result.json`; the package ships it as `result/schema.json`."""
    schema = Result.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}
