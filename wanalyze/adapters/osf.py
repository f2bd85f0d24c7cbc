"""OSF: the smaller singular triplets of W, trained; ΔW = U S V − (what they were). Nayak et al., 2025."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import storage, triplets, wide
from wanalyze.adapters.layout import one_of, product, sides, sizes
from wanalyze.adapters.peft import PeftConfig, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {f"osf_svd_params.{name}": name for name in ("U_low", "S_low", "V_low")}
_LAYOUT = {"U_low": "out low", "S_low": "low", "V_low": "low inp"}

_Rank = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class _Config(PeftConfig):
    effective_rank: _Rank | None = None
    rank_pattern: dict[str, _Rank] = Field(default_factory=dict)

    def kept(self, least: int) -> int:
        """How many triplets are frozen, where no pattern says otherwise, of a matrix with `least` of them."""
        rank = self.effective_rank
        if rank is None:
            return least // 2
        return min(least, int(least * rank) if isinstance(rank, float) and 0 < rank <= 1 else int(rank))


def parse_osf(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT OSF adapter."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="OSF", marker="osf_")
    updates = [_update(files.name, module, parts, config, base) for module, parts in sorted(tensors.modules.items())]
    trained = spread([update.parts["S_low"].shape[0] for update in updates] or [0])
    method = f"OSF ({trained} smallest triplets)"
    return adapter_of(files, config, updates, tensors, kind="OSF", method=method)


def _update(
    where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config, base: Checkpoint | None
) -> Update:
    found = sizes(parts, _LAYOUT, module=module, where=where)
    shape = found["out"], found["inp"]
    least, low = min(shape), found["low"]
    # What peft finds of a pattern, anywhere in a name, the tensors say themselves.
    kept = {config.kept(least)} if not config.rank_pattern else {max(least - low, 0)}
    one_of(least - low, kept, field="effective_rank", module=module, where=where)
    build = partial(_retrained, dtype=storage(base, module), module=module)
    return Update(module, parts, build, shape, 2 * low if 2 * low < least else None, needs_base=True)


def _retrained(parts: Parts, base: Tensor | None, *, dtype: torch.dtype, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    u, s, v = (found[name] for name in _LAYOUT)
    sides(weight, module=module, out=len(u), inp=v.shape[1])
    # Peft keeps them in the dtype of the base.
    u0, s0, v0 = (part[len(part) - len(s) :].to(dtype).double() for part in triplets(weight))
    return product(torch.cat([u * s, -u0.mT * s0], dim=1), torch.cat([v, v0]))
