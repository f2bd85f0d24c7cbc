"""Adapters of litgpt: one update for queries, keys and values together, of those that were trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from wanalyze.adapters.adapter import Adapter, Parts, Update
from wanalyze.adapters.foreign.assembly import assembled
from wanalyze.adapters.foreign.configs import Fields, Number, fields_of
from wanalyze.adapters.foreign.endings import by_endings, refuse_rest
from wanalyze.adapters.foreign.groups import grouped
from wanalyze.adapters.foreign.heads import fields_of_language, heads_of
from wanalyze.adapters.foreign.module import Changes, Module
from wanalyze.adapters.foreign.products import product_of
from wanalyze.adapters.peft import Positive
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.checkpoints.content import rows
from wanalyze.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_ENDINGS = {".lora_A": "down", ".lora_B": "up"}
_LAYER = re.compile(r"transformer\.h\.(?P<layer>[0-9]{1,5})\.(?P<part>.+)")
_QKV = "attn.qkv"
# Hugging Face's names in models of Llama's kind; other kinds are compared with litgpt's own checkpoints.
_LLAMA = {
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
_SPLIT = tuple(f"self_attn.{part}_proj" for part in "qkv")


class _Settings(Fields):
    lora_r: Positive
    lora_alpha: Number
    lora_query: bool = True
    lora_key: bool = False
    lora_value: bool = True

    @property
    def trained(self) -> tuple[bool, bool, bool]:
        return self.lora_query, self.lora_key, self.lora_value


def parse_litgpt(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of lit_model.pth.lora, whose scale hyperparameters.yaml beside it holds."""
    if not files.config:
        raise AdapterError(
            f"{files.name}: an adapter of litgpt, which stores its alpha in hyperparameters.yaml; put that beside it"
        )
    settings = fields_of(files.config, _Settings, where=f"{files.name}: hyperparameters.yaml")
    modules, rest = by_endings(files, _ENDINGS)
    refuse_rest(rest, tool="litgpt", where=files.name)
    changes = Changes()
    for name, parts in modules.items():
        changes.updates += _updates(Module(files.name, name, parts), settings, base)
        changes.algorithms.append(("LoRA", settings.lora_r))
    return assembled(files, changes, tool="litgpt", scale_rule="alpha / r, both from hyperparameters.yaml")


def _updates(module: Module, settings: _Settings, base: Checkpoint | None) -> Iterator[Update]:
    found = _LAYER.fullmatch(module.name)
    part, scale = found["part"] if found else "", settings.lora_alpha / settings.lora_r
    if module.shape("up", dimensions=(2,))[1] != settings.lora_r:
        module.refuse(f"has lora_B {module.parts['up'].shape}, hyperparameters.yaml says r {settings.lora_r}")
    if part == "attn.attn":
        module.refuse("is of an old litgpt, which interleaved queries, keys and values; convert it with a newer one")
    is_split = base is not None and found is not None and f"{module.name}.weight" not in base.entries
    prefix = f"model.layers.{found['layer']}." if found else ""
    if part != _QKV:
        name = prefix + _LLAMA[part] if is_split and part in _LLAMA else module.name
        yield product_of(Module(module.where, name, module.parts), scale)
    elif base is None:
        yield Update(
            module.name, module.parts, partial(_unsettled, module=module.name), None, None, scale, needs_base=True
        )
    elif is_split:
        yield from _apart(module, [prefix + name for name in _SPLIT], settings, base)
    else:
        yield grouped(module, scale, _sizes(module, settings, base), settings.lora_r)


def _apart(module: Module, names: list[str], settings: _Settings, base: Checkpoint) -> Iterator[Update]:
    """One update for each of the base's weights that was trained: its rows of B, its ranks of A."""
    on = [name for name, is_on in zip(names, settings.trained, strict=True) if is_on]
    lost = next((name for name in on if f"{name}.weight" not in base.entries), None)
    if lost is not None:
        module.refuse(
            f"holds queries, keys and values, and {base.name} has no {lost[:80]!r}; pass the checkpoint of litgpt"
        )
    rank, row = settings.lora_r, 0
    module.agree(module.shape("down", dimensions=(2,))[0], len(on) * rank, what="ranks of the parts trained")
    sizes = [base.entries[f"{name}.weight"].shape[0] for name in on]
    module.agree(module.parts["up"].shape[0], sum(sizes), what="rows of the parts trained")
    for i, (name, size) in enumerate(zip(on, sizes, strict=True)):
        parts = {
            "up": _rows(module.parts["up"], row, row + size),
            "down": _rows(module.parts["down"], i * rank, (i + 1) * rank),
        }
        row += size
        yield product_of(Module(module.where, name, parts), settings.lora_alpha / rank)


def _rows(entry: TensorEntry, start: int, stop: int) -> TensorEntry:
    return TensorEntry(entry.name, rows(entry.content, start, stop))


def _sizes(module: Module, settings: _Settings, base: Checkpoint) -> list[int]:
    """Rows of queries, keys and values, negative those that were not trained."""
    heads = heads_of(base, where=module.where, why="how many rows queries and keys have follows from their heads")
    fields = fields_of_language(base.config)
    whole, width = base.entries[f"{module.name}.weight"].shape[0], fields.get("head_dim")
    head = width if type(width) is int and width > 0 else whole // (heads.queries + 2 * heads.keys)
    sizes = [heads.queries * head, heads.keys * head, heads.keys * head]
    module.agree(sum(sizes), whole, what="rows")
    return [size if is_on else -size for size, is_on in zip(sizes, settings.trained, strict=True)]


def _unsettled(_parts: Parts, _base: Tensor | None, *, module: str) -> Operator:
    raise AdapterError(
        f"{module[:80]!r}: how many of its rows are queries, keys and values is not in the file; give the base with "
        "its config.json"
    )
