"""PSOFT: ΔW = U S (R − I) Vᵀ, the leading r triplets of W with a small rotation R between them. Wu et al., 2025.

With pissa_init ΔW = U √S (R − I) √S Vᵀ.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import triplets, wide
from wanalyze.adapters.layout import product, sides, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors
from wanalyze.adapters.rotations import Terms, cayley, clipped, neumann, skew
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {"psoft_R": "R", "psoft_R.vector_a": "vector_a", "psoft_R.vector_b": "vector_b"}
_SIGNS = (
    "PSOFT stores no singular vectors of the base: their signs are those that peft finds on a CPU; no singular value "
    "depends on them"
)


class _Config(PeftConfig):
    r: Positive = 32
    psoft_svd: Literal["full", "lowrank"] = "full"
    ab_svd_init: Literal["psoft_init", "pissa_init"] = "psoft_init"
    psoft_orth: bool = True
    psoft_mag_a: bool = True
    psoft_mag_b: bool = True
    use_cayley_neumann: bool = False
    num_cayley_neumann_terms: Terms = 5
    cayley_neumann_eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def layout(self) -> dict[str, str]:
        vectors = {"vector_a": self.psoft_mag_a, "vector_b": self.psoft_mag_b}
        return {"R": "entries" if self.psoft_orth else "r r"} | {name: "r" for name, used in vectors.items() if used}


def parse_psoft(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT PSOFT adapter; AdapterError where its triplets came from a random decomposition."""
    config = config_of(files, _Config)
    if config.psoft_svd == "lowrank":
        raise AdapterError(
            f"{files.name}: psoft_svd 'lowrank' finds the triplets of the base by chance, differently on every device, "
            "and does not store them; merge it with peft and compare the merged model"
        )
    tensors = sorted_tensors(files, _STEMS, kind="PSOFT", marker="psoft_")
    updates = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    method = f"PSOFT r={config.r}"
    return adapter_of(files, config, updates, tensors, kind="PSOFT", method=method, notes=[_SIGNS])


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> Update:
    r = config.r
    sizes(parts, config.layout, module=module, where=where, r=r, entries=r * (r - 1) // 2)
    build = partial(_rotated, config=config, module=module)
    return Update(module, parts, build, None, r, needs_base=True)


def _rotated(parts: Parts, base: Tensor | None, *, config: _Config, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    r = config.r
    out, inp = sides(weight, module=module)
    if r > min(out, inp):
        raise AdapterError(f"{module[:80]!r}: r={r} of a base's weight of {out} x {inp}; is this its base?")
    u, s, v = (part[:r] for part in triplets(weight))
    change = _mixing(found, config) - torch.eye(r, dtype=weight.dtype, device=weight.device)
    if config.ab_svd_init == "pissa_init":
        return product((u.mT * s.sqrt()) @ change, s.sqrt()[:, None] * v)
    return product((u.mT * s) @ change, v)


def _mixing(parts: Parts, config: _Config) -> Tensor:
    """diag(b) R diag(a)."""
    found = _rotation(parts["R"], config) if config.psoft_orth else parts["R"]
    if config.psoft_mag_b:
        found = parts["vector_b"][:, None] * found
    return found * parts["vector_a"] if config.psoft_mag_a else found


def _rotation(vector: Tensor, config: _Config) -> Tensor:
    generator = skew(vector[None], config.r)
    if not config.use_cayley_neumann:
        return cayley(-generator)[0]
    if config.cayley_neumann_eps is not None:
        generator = clipped(generator, config.cayley_neumann_eps)
    return neumann(generator, config.num_cayley_neumann_terms, last_halved=True)[0]
