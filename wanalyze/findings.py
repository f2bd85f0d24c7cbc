"""What stands out in a run: a code, a matrix, its value, and the limit that it broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Literal

from wanalyze.metrics import Metric
from wanalyze.result import Finding, Module, Status

_FAR = 8.0  # times the median of its kind
_FEWEST = 4  # matrices of a kind: fewer have no usual size


@dataclass(frozen=True)
class Hit:
    message: str
    module: str | None = None
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Check:
    """A row of what is looked for among the matrices of one model."""

    code: str
    severity: Literal["info", "warning"]
    title: str
    definition: str
    source: str
    limits: str
    find: Callable[[Sequence[Module]], Iterator[Hit]]

    def explained(self) -> Metric:
        """As `explain` shows it."""
        return Metric(self.code, self.title, f"finding, {self.severity}", self.definition, self.source, self.limits)


def _moved_far(modules: Sequence[Module]) -> Iterator[Hit]:
    kinds: dict[str, list[tuple[str, float]]] = {}
    for module in modules:
        norm = module.metric("relative_norm")
        if module.status is Status.measured and norm is not None:
            kinds.setdefault(module.kind, []).append((module.name, norm))
    for kind, norms in kinds.items():
        usual = median(norm for _, norm in norms)
        if len(norms) < _FEWEST:
            continue
        for name, norm in norms:
            if norm > _FAR * usual:
                message = f"relative_norm is {norm / usual:.3g} times the median of {len(norms)} {kind}"
                yield Hit(message, name, norm, _FAR * usual)


def _rounding_only(modules: Sequence[Module]) -> Iterator[Hit]:
    told = [module for module in modules if module.metric("signal_rank") is not None]
    within = sum(module.metric("signal_rank") == 0 for module in told)
    if within:
        yield Hit(f"{within} of {len(told)} changed matrices differ by no more than rounding explains", value=within)


CHECKS = MappingProxyType(
    {
        check.code: check
        for check in (
            Check(
                "moved-far",
                "warning",
                "moved far more than its kind",
                f"relative_norm exceeds {_FAR:g} times the median over the changed matrices of the same kind in the "
                f"same model, of which there are at least {_FEWEST}.",
                "a convention of this tool; no published limit",
                "Says where to look first, not that anything is wrong there.",
                _moved_far,
            ),
            Check(
                "rounding-only",
                "info",
                "changed by rounding alone",
                "signal_rank is 0: no singular value of ΔW lies above noise_edge, what rounding to the storage dtypes, "
                "or quantisation, can reach by itself.",
                "noise_edge, as `wanalyze explain noise_edge` has it",
                "An update smaller than the rounding of its own storage cannot be told from none.",
                _rounding_only,
            ),
        )
    }
)


def findings_of(modules: Sequence[Module]) -> list[Finding]:
    """All findings of a run, warnings first, each check in the order of the models and their matrices."""
    models: dict[str, list[Module]] = {}
    for module in modules:
        models.setdefault(module.model, []).append(module)
    found = [
        Finding(code=check.code, severity=check.severity, model=model, **vars(hit))
        for check in CHECKS.values()
        for model, own in models.items()
        for hit in check.find(own)
    ]
    return sorted(found, key=lambda finding: finding.severity != "warning")
