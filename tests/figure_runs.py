"""Runs made up record by record, for figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wanalyze.intruders import count_intruders
from wanalyze.result import Model, Module, Result, Settings, Source, Status, Tool, summarise

METRICS = {"relative_norm": 0.1, "effective_rank": 7.0, "stable_rank": 3.0, "magnitude_change": 0.02}


def matrix(
    model: str,
    name: str,
    layer: int | None = 0,
    kind: str = "q_proj",
    *,
    status: Status = Status.measured,
    cosines: Sequence[tuple[float, float]] = ((0.1, 0.2), (0.9, 0.95)),
    shape: tuple[int, int] = (6, 5),
    **metrics: float | None,
) -> Module:
    """A matrix with some metrics; its intruders are counted at ε = 0.5."""
    counted = {f"intruders_{side}": count_intruders(cosines, 0.5) for side in ("left", "right")}
    held = {**METRICS, "direction_change": 0.01, "noise_edge": None, **counted, **metrics}
    return Module(
        model=model,
        name=name,
        layer=layer,
        kind=kind,
        shape=list(shape),
        dtype="bfloat16",
        status=status,
        metrics=held if status is Status.measured else dict.fromkeys(held),
        max_cosine_left=list(cosines),
        max_cosine_right=list(cosines),
    )


def run(
    modules: Sequence[Module],
    arrays: Mapping[str, np.ndarray] | None = None,
    *,
    top_k: int = 2,
    epsilon: float = 0.5,
    precision: str = "float64",
) -> Result:
    """A result of these records, one model per label."""
    result = Result(
        tool=Tool(version="0"),
        settings=Settings(top_k=top_k, epsilon=epsilon, precision=precision),
        base=Source(ref="base", files=[]),
        models=[
            Model(
                label=label,
                ref=label,
                method="made up",
                files=[],
                summary=summarise([module for module in modules if module.model == label], [], []),
            )
            for label in dict.fromkeys(module.model for module in modules)
        ],
        modules=list(modules),
        vectors=[],
        skipped=[],
    )
    result._arrays = dict(arrays or {})
    return result


def with_arrays(result: Result) -> Result:
    """The same with a spectrum and both similarity tables of every measured matrix."""
    rng = np.random.default_rng(0)
    made = {}
    for module in result.modules:
        if module.status is Status.measured:
            made[f"{module.model}/{module.name}/update_values"] = np.sort(rng.random(5))[::-1]
            for side in ("left", "right"):
                made[f"{module.model}/{module.name}/similarity_{side}"] = rng.random((4, 5))
    copy = result.model_copy()
    copy._arrays = {**result.arrays, **made}
    return copy
