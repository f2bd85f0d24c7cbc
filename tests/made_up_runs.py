"""Results as a run would leave them, of any size, made without weights."""

from __future__ import annotations

import numpy as np

from wanalyze.metrics import METRICS
from wanalyze.result import File, Model, Module, Result, Settings, Source, Status, Tool, summarise

KINDS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    *(f"moe.w{i}" for i in range(40)),
)
_TOP_K = 10


def made_up(modules: int, models: int, *, kinds: int = 7, seed: int = 0) -> Result:
    """`modules` matrices of 4096 x 4096 in layers of `kinds` each, every number and curve there."""
    rng = np.random.default_rng(seed)
    labels = [f"model-{i}" for i in range(models)]
    records = [_module(rng, label, i, kinds) for label in labels for i in range(modules)]
    file = File(name="model.safetensors", size=10**9, sha256="0" * 64)
    result = Result(
        tool=Tool(version="0"),
        settings=Settings(top_k=_TOP_K, epsilon=0.5),
        base=Source(ref="base", files=[file]),
        models=[
            Model(
                label=label,
                ref=label,
                method="LoRA r=16",
                files=[file],
                summary=summarise([record for record in records if record.model == label], [], []),
            )
            for label in labels
        ],
        modules=records,
        vectors=[],
        skipped=[],
    )
    result._arrays = _arrays(rng, records)
    return result


def _module(rng: np.random.Generator, label: str, i: int, kinds: int) -> Module:
    layer, kind = divmod(i, kinds)
    values = {key: float(f"{rng.lognormal():.12g}") for key in METRICS}
    counts = {f"intruders_{side}": int(rng.integers(0, 4)) for side in ("left", "right")}
    ranks = {key: int(rng.integers(1, 4096)) for key in METRICS if key.endswith("rank") or "energy_rank" in key}
    cosines = [(float(cosine), float(cosine)) for cosine in rng.uniform(0.2, 1, _TOP_K).round(12)]
    return Module(
        model=label,
        name=f"model.layers.{layer}.{KINDS[kind]}",
        layer=layer,
        kind=KINDS[kind].rpartition(".")[2],
        shape=[4096, 4096],
        dtype="bfloat16",
        status=Status.measured,
        metrics={**values, **ranks, "effective_rank": 7.5 + layer, **counts},
        max_cosine_left=cosines,
        max_cosine_right=cosines[::-1],
        matched_left=[0] * _TOP_K,
        matched_right=[0] * _TOP_K,
    )


def _arrays(rng: np.random.Generator, records: list[Module]) -> dict[str, np.ndarray]:
    """Sixteen spectra and similarities, shared: as many as there are modules would fill the memory."""
    spectra = [np.sort(rng.lognormal(0, 2, 4096))[::-1].copy() for _ in range(16)]
    alike = [np.abs(np.eye(32, k=int(i) % 3) + rng.normal(0, 0.08, (32, 32))).clip(0, 1) for i in range(16)]
    arrays = {}
    for i, record in enumerate(records):
        key, j = f"{record.model}/{record.name}", i % 16
        arrays[f"base/{record.name}/values"] = spectra[j]
        arrays[f"{key}/tuned_values"] = spectra[j] * 1.1
        arrays[f"{key}/update_values"] = spectra[(j + 1) % 16] * 0.01
        arrays[f"{key}/similarity_left"] = arrays[f"{key}/similarity_right"] = alike[j]
    return arrays
