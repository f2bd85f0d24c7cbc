"""Adapters of mlx-lm: factors the other way round, and a scale that is written as it is, not as alpha / r."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal, TypeAlias

from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Update
from wanalyze.adapters.foreign.assembly import assembled
from wanalyze.adapters.foreign.configs import Fields, Number, fields_of
from wanalyze.adapters.foreign.endings import by_endings
from wanalyze.adapters.foreign.module import Changes, Module
from wanalyze.adapters.foreign.products import is_embedding, kind_of, product_of, straight, turned, with_magnitude
from wanalyze.adapters.peft import Positive
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.checkpoints.content import item, rows
from wanalyze.checkpoints.experts import MOST_EXPERTS
from wanalyze.errors import AdapterError

_ENDINGS = {".lora_a": "down", ".lora_b": "up", ".m": "magnitude"}
_SWITCH = ".switch_mlp."
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}

_Tune: TypeAlias = Literal["lora", "dora", "full"]


class _Parameters(Fields):
    scale: Number
    rank: Positive | None = None
    alpha: Number | None = None


class _Config(Fields):
    fine_tune_type: _Tune = "lora"
    use_dora: bool = False  # before there was fine_tune_type
    lora_parameters: _Parameters | None = Field(default=None)
    model: str | None = None

    @property
    def kind(self) -> _Tune:
        return "dora" if self.use_dora else self.fine_tune_type


def parse_mlx(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of an adapter of mlx-lm; with fine_tune_type full, weights that are saved whole."""
    config = fields_of(files.config, _Config, where=f"{files.name}: adapter_config.json")
    modules, rest = by_endings(files, {} if config.kind == "full" else _ENDINGS)
    changes = Changes(replaced=dict(rest))
    scale = _scale(files, config) if modules else 1.0
    for name, parts in modules.items():
        module = Module(files.name, name, parts)
        if ("magnitude" in parts) != (config.kind == "dora"):
            module.refuse(f"has {', '.join(sorted(parts))}, but fine_tune_type is {config.kind}; one must be mended")
        for update in _updates(module, scale, base):
            if config.lora_parameters and config.lora_parameters.rank not in (None, _rank(module)):
                module.refuse(
                    f"has rank {_rank(module)}, lora_parameters gives it {config.lora_parameters.rank}; "
                    "one must be mended"
                )
            changes.updates.append(update)
        changes.algorithms.append((kind_of(parts), _rank(module)))
    return assembled(
        files,
        changes,
        tool="MLX",
        scale_rule="lora_parameters.scale as it is, not over the rank",
        base_model=config.model,
        facts={"fine_tune_type": config.kind},
    )


def _scale(files: AdapterFiles, config: _Config) -> float:
    found = config.lora_parameters
    if found is None:
        raise AdapterError(
            f"{files.name}: adapter_config.json has no lora_parameters.scale, and nothing else says the scale; write it"
        )
    if found.alpha is not None and found.alpha != found.rank:
        raise AdapterError(
            f"{files.name}: lora_parameters has scale {found.scale:g} and alpha {found.alpha:g}, which mlx-lm "
            "multiplied by alpha / rank before June 2024 and does not look at since; write the scale that was meant "
            "and take out alpha"
        )
    return found.scale


def _rank(module: Module) -> int:
    """Of lora_b (r, out), or (experts, out, r)."""
    up = module.shape("up", dimensions=(2, 3))
    return up[0] if len(up) == 2 else up[2]


def _updates(module: Module, scale: float, base: Checkpoint | None) -> Iterator[Update]:
    if len(module.shape("up", dimensions=(2, 3))) == 3:
        yield from _of_experts(module, scale, base)
        return
    down, up = module.shape("down", dimensions=(2,)), module.shape("up", dimensions=(2,))
    rank = module.agree(down[1], up[0], what="the rank")
    if _is_embedding(module.name, down[0], up[1], base):
        # lora_a (tokens, r), lora_b (r, width): what MLX calls a is the left factor here.
        parts = {"up": module.parts["down"], "down": module.parts["up"]}
        build, shape = partial(straight, scale=scale), (down[0], up[1])
    else:
        parts = {"up": module.parts["up"], "down": module.parts["down"]}
        build, shape = partial(turned, scale=scale), (up[1], down[0])
    if "magnitude" in module.parts:
        parts["magnitude"] = module.parts["magnitude"]
    yield with_magnitude(module, Update(module.name, parts, build, shape, rank, scale))


def _is_embedding(name: str, inputs: int, outputs: int, base: Checkpoint | None) -> bool:
    """By its name; of a base that stores the weight the other way round, by its shape."""
    entry = base.entries.get(f"{name}.weight") if base else None
    if entry is not None and inputs != outputs and sorted(entry.shape) == sorted((inputs, outputs)):
        return entry.shape == (inputs, outputs)
    return is_embedding(name)


def _of_experts(module: Module, scale: float, base: Checkpoint | None) -> Iterator[Update]:
    """One update for each expert: lora_b (experts, out, r), lora_a (experts, r, inp) or, once, (experts · r, inp)."""
    experts, _, rank = module.shape("up", dimensions=(3,))
    down = module.shape("down", dimensions=(2, 3))
    if experts > MOST_EXPERTS or _SWITCH not in module.name:
        module.refuse(f"has lora_b for {experts} matrices, and is no switch_mlp of experts that is known")
    if "magnitude" in module.parts:
        module.refuse("has magnitudes and experts, which MLX has not together")
    module.agree(experts * rank, down[0] if len(down) == 2 else down[0] * down[1], what="ranks of all experts")
    for expert in range(experts):
        parts = _of_expert(module.parts, expert, rank)
        name, index = _expert(module.name, expert, base)
        yield product_of(Module(module.where, name, parts), scale, index=index)


def _of_expert(parts: Mapping[str, TensorEntry], expert: int, rank: int) -> dict[str, TensorEntry]:
    up, down = parts["up"], parts["down"]
    is_flat = len(down.shape) == 2
    one = rows(down.content, expert * rank, (expert + 1) * rank) if is_flat else item(down.content, expert)
    return {"up": TensorEntry(up.name, item(up.content, expert)), "down": TensorEntry(down.name, one)}


def _expert(module: str, expert: int, base: Checkpoint | None) -> tuple[str, int | None]:
    """What the base calls an expert's matrix; one of a stack, where it has MLX's stack or is not given."""
    if base is None or f"{module}.weight" in base.entries:
        return module, expert
    path, _, matrix = module.partition(_SWITCH)
    if path.endswith("block_sparse_moe"):
        matrix = _MIXTRAL.get(matrix, matrix)
    return f"{path}.experts.{expert}.{matrix}", None
