"""OFT: W' = W Rᵀ with a block-diagonal orthogonal R. Qiu et al., 2023; three forms of it in peft, by their tensors.

`oft_R` (0.16 and later) turns the inputs, `oft_r` with `oft_s` (0.14 and 0.15) turns the inputs and scales the
outputs, `oft_r` alone (up to 0.13) turns the outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.based import wide
from wanalyze.adapters.layout import sides, sizes
from wanalyze.adapters.patterns import first_match
from wanalyze.adapters.peft import PeftConfig, Positive, adapter_of, config_of, sorted_tensors, spread
from wanalyze.adapters.rotations import Terms, cayley, clipped, halves, neumann, side_of, skew, turned
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_STEMS = {name: name for name in ("oft_R", "oft_embedding_R", "oft_r", "oft_s")}
_LAST_HALVED_SINCE = (0, 18)
_OLD_SERIES = (
    "saved before peft 0.18, when the power series for the rotations ended in another coefficient: read as it was "
    "trained, which is not what peft makes of it since"
)


class _Config(PeftConfig):
    """The fields of adapter_config.json that the maths of OFT depends on, of all versions."""

    r: Annotated[int, Field(ge=0, strict=True)] = 0
    coft: bool = False
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 6e-5
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: Terms = 5
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)

    @property
    def last_halved(self) -> bool:
        """By the version, which peft writes since 0.18."""
        version = re.match(r"(\d{1,4})\.(\d{1,4})", self.peft_version or "")
        return version is not None and (int(version[1]), int(version[2])) >= _LAST_HALVED_SINCE

    def rotations(self, skew: Tensor) -> Tensor:
        if self.coft:
            skew = clipped(skew, self.eps / math.sqrt(len(skew)))
        if not self.use_cayley_neumann:
            return cayley(skew)
        return neumann(skew, self.num_cayley_neumann_terms, last_halved=self.last_halved)


def parse_oft(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT OFT adapter of any version."""
    config = config_of(files, _Config)
    tensors = sorted_tensors(files, _STEMS, kind="OFT", marker="oft_")
    found = [_update(files.name, module, parts, config) for module, parts in sorted(tensors.modules.items())]
    method = f"{'COFT' if config.coft else 'OFT'} (blocks of {spread([side for side, _ in found] or [0])})"
    is_series = config.use_cayley_neumann and any("oft_R" in parts for parts in tensors.modules.values())
    notes = [_OLD_SERIES] if is_series and not config.last_halved else []
    return adapter_of(files, config, [update for _, update in found], tensors, kind="OFT", method=method, notes=notes)


def _update(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> tuple[int, Update]:
    """The side of a module's blocks, and what they do."""
    form = _FORMS.get(frozenset(parts))
    if form is None:
        raise AdapterError(
            f"{where}: module {module[:80]!r} has {', '.join(sorted(parts))}; OFT has one of "
            f"{'; '.join(' and '.join(sorted(known)) for known in _FORMS)}"
        )
    return form(where, module, parts, config)


def _turned_inputs(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> tuple[int, Update]:
    [name] = parts
    one = {"blocks": 1} if config.block_share else {}
    found = sizes(parts, {name: "blocks entries"}, module=module, where=where, **one)
    side = side_of(found["entries"], what=f"{where}: module {module[:80]!r}: {name}")
    build = partial(_turn_inputs, config=config, side=side, module=module)
    return side, Update(module, parts, build, None, needs_base=True)


def _turn_inputs(parts: Parts, base: Tensor | None, *, config: _Config, side: int, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    [(name, vectors)] = found.items()
    blocks = config.rotations(skew(vectors, side))
    _check_inputs(weight, blocks, config, module)
    # Tokens are turned after they are looked up, by R itself.
    return Dense(turned(weight, blocks.mT if name == "oft_embedding_R" else blocks) - weight)


def _check_inputs(weight: Tensor, blocks: Tensor, config: _Config, module: str) -> None:
    side = blocks.shape[-1]
    inputs = -(-weight.shape[1] // side) * side if config.block_share else len(blocks) * side
    sides(weight, module=module, inp=inputs)


def _scaled_outputs(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> tuple[int, Update]:
    one = {"blocks": 1} if config.block_share else {}
    layout = {"oft_r": "blocks side side", "oft_s": "out one"}
    found = sizes(parts, layout, module=module, where=where, one=1, **one)
    shape = None if config.block_share else (found["out"], found["blocks"] * found["side"])
    build = partial(_turn_and_scale, config=config, module=module)
    return found["side"], Update(module, parts, build, shape, needs_base=True)


def _turn_and_scale(parts: Parts, base: Tensor | None, *, config: _Config, module: str) -> Operator:
    found, weight = wide(parts, base, module=module)
    blocks, scales = found["oft_r"], found["oft_s"]
    _check_inputs(weight, blocks, config, module)
    sides(weight, module=module, out=len(scales))
    if config.coft:
        count = weight.shape[1] // blocks.shape[-1]
        blocks = clipped(blocks, config.eps * math.ceil(len(weight) / count) ** 2 / math.sqrt(len(blocks)))
    return Dense(scales * turned(weight, cayley(halves(blocks))) - weight)


def _turned_outputs(where: str, module: str, parts: Mapping[str, TensorEntry], config: _Config) -> tuple[int, Update]:
    count = first_match(config.rank_pattern, module, config.r, field="rank_pattern")
    stored = 1 if config.block_share else count
    found = sizes(parts, {"oft_r": "blocks side side"}, module=module, where=where, blocks=stored)
    build = partial(_turn_outputs, config=config, count=max(count, 1), module=module)
    return found["side"], Update(module, parts, build, None, needs_base=True)


def _turn_outputs(parts: Parts, base: Tensor | None, *, config: _Config, count: int, module: str) -> Operator:
    """W' = Rᵀ W, where the last block reaches beyond the outputs that `count` does not divide, and is cut off."""
    found, weight = wide(parts, base, module=module)
    side, out = found["oft_r"].shape[-1], len(weight)
    reached = -(-out // side)
    blocks = found["oft_r"][:reached]
    if -(-out // count) != side:
        raise AdapterError(f"{module[:80]!r}: {count} blocks of {side} do not fit {out} outputs; is this its base?")
    if config.coft:
        blocks = clipped(blocks, config.eps * side**2 / math.sqrt(len(found["oft_r"])))
    padded = torch.nn.functional.pad(weight.mT, (0, reached * side - out))
    return Dense(turned(padded, cayley(halves(blocks)).mT)[:, :out].mT - weight)


_FORMS: Mapping[frozenset[str], Callable[[str, str, Mapping[str, TensorEntry], _Config], tuple[int, Update]]] = (
    MappingProxyType(
        {
            frozenset({"oft_R"}): _turned_inputs,
            frozenset({"oft_embedding_R"}): _turned_inputs,
            frozenset({"oft_r", "oft_s"}): _scaled_outputs,
            frozenset({"oft_r"}): _turned_outputs,
        }
    )
)
