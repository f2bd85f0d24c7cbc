"""VeRA: ΔW = diag(b) B diag(d) A, of two random matrices that all modules share. Kopiczko et al., 2024."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import beside
from wanalyze.adapters.layout import bounded, float64, sides, sizes
from wanalyze.adapters.peft import PeftConfig, Positive, Seed, Tensors, adapter_of, config_of, need, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_REGENERATED = "its random projections were not saved and are drawn again from their seed"
_MEAN = "its update is random when sampled; this is the mean, as peft merges it"


class _Config(PeftConfig):
    r: Positive
    projection_prng_key: Seed = 0
    save_projection: bool = True
    sample_at_inference: bool = False  # of PVeRA


def parse_vera(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT VeRA adapter; without its saved projections they need the base."""
    return _parse(files, base, "VERA", "VeRA", 1)


def parse_pvera(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """As VeRA; A and d hold a mean and, below it, a log-variance that has no part in the mean update."""
    return _parse(files, base, "PVERA", "PVeRA", 2)


def _parse(files: AdapterFiles, base: Checkpoint | None, kind: str, method: str, halves: int) -> Adapter:
    config = config_of(files, _Config)
    stem = kind.lower()
    stems = {f"{stem}_lambda_b": "lambda_b", f"{stem}_lambda_d": "lambda_d"}
    shared = {f"{stem}_A": "A", f"{stem}_B": "B"}
    tensors = sorted_tensors(files, stems, kind=method, marker=f"{stem}_", shared=shared)
    make = partial(_update, where=files.name, tensors=tensors, rank=config.r, halves=halves)
    if not tensors.shared:
        make = partial(make, build=_regenerating(files, base, tensors, config, halves))
    updates = [make(module, parts) for module, parts in sorted(tensors.modules.items())]
    notes = [*([] if tensors.shared else [_REGENERATED]), *([_MEAN] if config.sample_at_inference else [])]
    return adapter_of(files, config, updates, tensors, kind=kind, method=f"{method} r={config.r}", notes=notes)


def _update(
    module: str,
    parts: Mapping[str, TensorEntry],
    *,
    where: str,
    tensors: Tensors,
    rank: int,
    halves: int,
    build: partial[Operator] | None = None,
) -> Update:
    layout = {"lambda_b": "out", "lambda_d": "rows"}
    layout |= {"A": "rows widest", "B": "tallest r"} if build is None else {}
    every = {**parts, **tensors.shared}
    found = sizes(every, layout, module=module, where=where, r=rank, rows=halves * rank)
    if build is None and found["tallest"] < found["out"]:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {found['out']} outputs, its shared B only {found['tallest']} rows"
        )
    made = partial(build or _product, module=module, rank=rank)
    return Update(module, {name: every[name] for name in layout}, made, None, rank, needs_base=True)


def _product(parts: Parts, base: Tensor | None, *, module: str, rank: int) -> Operator:
    wide = float64(parts)
    out, inp = sides(base, module=module, out=len(wide["lambda_b"]))
    a, b = wide["A"][:rank, :inp], wide["B"][:out]
    if a.shape[1] < inp:
        raise AdapterError(f"{module[:80]!r}: the base's weight has {inp} inputs, the shared A only {a.shape[1]}")
    return LowRank(wide["lambda_b"][:, None] * b, wide["lambda_d"][:rank, None] * a)


def _regenerating(
    files: AdapterFiles, base: Checkpoint | None, tensors: Tensors, config: _Config, halves: int
) -> partial[Operator]:
    """A `build` that draws A and B again, as large as the largest module needs them."""
    if config.save_projection and tensors.modules:
        raise AdapterError(
            f"{files.name}: its config says that the projections A and B were saved, but they are missing"
        )
    widest = None if base is None else _largest(files.name, base, tensors)
    return partial(_drawn, seed=config.projection_prng_key, largest=widest, halves=halves)


def _largest(where: str, base: Checkpoint, tensors: Tensors) -> tuple[int, int]:
    """The most outputs and the most inputs of all modules."""
    found = [_sides(where, base, module, parts) for module, parts in tensors.modules.items()]
    return max((out for out, _ in found), default=0), max((inp for _, inp in found), default=0)


def _sides(where: str, base: Checkpoint, module: str, parts: Mapping[str, TensorEntry]) -> tuple[int, int]:
    need(parts, ("lambda_b",), module=module, where=where)
    out, weight = math.prod(parts["lambda_b"].shape), beside(base, f"{module}.weight")
    if weight is None:
        raise AdapterError(
            f"{where}: {base.name} has no one weight for module {module[:80]!r}, and the projections of the adapter, "
            "which were not saved, follow from all of them; save it with save_projection=True"
        )
    if len(weight.shape) != 2 or out not in weight.shape:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {out} outputs, its weight in the base is {weight.shape}"
        )
    return out, weight.shape[1] if weight.shape[0] == out else weight.shape[0]


def _drawn(
    parts: Parts,
    base: Tensor | None,
    *,
    module: str,
    rank: int,
    seed: int,
    largest: tuple[int, int] | None,
    halves: int,
) -> Operator:
    if largest is None or base is None:
        raise AdapterError(f"{module[:80]!r}: its projections were not saved and follow from the base; compare with it")
    bounded(rank * max(halves * largest[1], largest[0]), "a random projection", module=module)
    a, b = _projections(seed, rank, *largest, halves)
    return _product({**parts, "A": a.to(base.device), "B": b.to(base.device)}, base, module=module, rank=rank)


@lru_cache(maxsize=1)  # the same for all modules of an adapter
def _projections(seed: int, rank: int, out: int, inp: int, halves: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.nn.init.kaiming_uniform_(torch.empty(halves * rank, inp), generator=generator)
    b = torch.nn.init.kaiming_uniform_(torch.empty(out, rank), generator=generator)
    return a, b
