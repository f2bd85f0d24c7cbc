"""FRoD: W' = U (S + diag λ) Vᵀ, V shared by modules of one role, U = W V⁻ᵀ with columns of length 1, S sparse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import storage, wide
from wanalyze.adapters.layout import positions, sides, sizes
from wanalyze.adapters.peft import PeftConfig, adapter_of, config_of, sorted_tensors
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {"frod_lambda_l": "lambda_l", "frod_lambda_s_values": "values"}
_SHARED = re.compile(r"base_model\.(frod_(V|s_indices|s_size)\.[^.]+)(?:\.default)?")
_LAYOUT = {"lambda_l": "inp", "values": "entries", "V": "inp inp", "s_indices": "two entries"}


class _Config(PeftConfig):
    save_projection: bool = True


def parse_frod(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT FRoD adapter; AdapterError where its projections were not saved."""
    config = config_of(files, _Config)
    names = [match[1] for name in files.weights.entries if (match := _SHARED.fullmatch(name))]
    tensors = sorted_tensors(files, _STEMS, kind="FRoD", marker="frod_", shared={name: name for name in names})
    if tensors.modules and not names:
        raise AdapterError(
            f"{files.name}: its projections were not saved, and peft finds them from all modules of the base at once "
            "with a random pattern; save it with save_projection=True"
        )
    updates = [
        _update(files.name, module, {**parts, **_of_role(module, tensors.shared)}, base)
        for module, parts in sorted(tensors.modules.items())
    ]
    return adapter_of(files, config, updates, tensors, kind="FROD", method="FRoD")


def _of_role(module: str, shared: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    role = _role(module)
    names = {"V": f"frod_V.{role}", "s_indices": f"frod_s_indices.{role}"}
    return {part: shared[name] for part, name in names.items() if name in shared}


def _role(module: str) -> str:
    """The name under which peft keeps what modules of one role share.

    >>> _role("model.layers.3.self_attn.q_proj"), _role("encoder.layer.1.attention.output.dense"), _role("h.0.up")
    ('self_attn_q_proj', 'attention_output', 'up')
    """
    *rest, last = module.split(".")
    if not rest or rest[-1].isdigit():
        return last
    if rest[-2:] == ["attention", "output"] and last == "dense":
        return "attention_output"
    return f"{rest[-1]}_{last}"


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], base: Checkpoint | None) -> Update:
    sizes(parts, _LAYOUT, module=module, where=where, two=2)
    ordered = {name: parts[name] for name in _LAYOUT}
    build = partial(_rebuilt, dtype=storage(base, module), module=module)
    return Update(module, ordered, build, None, needs_base=True)


def _rebuilt(parts: Parts, base: Tensor | None, *, dtype: torch.dtype, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    v, lengths = found["V"], found["lambda_l"]
    sides(weight, module=module, inp=len(v))
    rows, columns = positions(parts["s_indices"], len(v), module=module)
    middle = torch.diag(lengths).index_put((rows, columns), found["values"], accumulate=True)
    u = _unit_columns(_unmixed(weight, v)).float().to(dtype).double()  # peft keeps U in the dtype of the base
    return Dense(u @ middle @ v.mT - weight)


def _unmixed(weight: Tensor, v: Tensor) -> Tensor:
    """W V⁻ᵀ, of a singular V by its pseudo-inverse."""
    found, info = torch.linalg.solve_ex(v, weight.mT)
    inverse: Tensor = weight @ torch.linalg.pinv(v, rtol=1e-6).mT if info else found.mT
    return inverse


def _unit_columns(matrix: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(matrix, dim=0)
    return torch.where(lengths > 1e-12, matrix / lengths, 0.0)
