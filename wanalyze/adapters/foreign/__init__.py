"""Adapters that other tools than peft saved: one file per family of tools, one row each.

Which tool it was is told by the names of the tensors, in wanalyze.checkpoints.recognise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from wanalyze.adapters.adapter import Adapter
from wanalyze.adapters.foreign.diffusion import parse_diffusion
from wanalyze.adapters.foreign.litgpt import parse_litgpt
from wanalyze.adapters.foreign.llama_cpp import parse_llama_cpp
from wanalyze.adapters.foreign.loralib import parse_loralib
from wanalyze.adapters.foreign.mlx import parse_mlx
from wanalyze.adapters.foreign.torchtune import parse_torchtune
from wanalyze.checkpoints import AdapterFiles, Checkpoint
from wanalyze.checkpoints.recognise import recognise
from wanalyze.errors import AdapterError

__all__ = ["TOOLS", "parse_foreign", "tool_of"]

_Parse: TypeAlias = Callable[[AdapterFiles, Checkpoint | None], Adapter]

TOOLS: Mapping[str, _Parse] = MappingProxyType(
    {
        **{tool: partial(parse_diffusion, tool=tool) for tool in ("kohya", "LyCORIS", "diffusers", "ComfyUI")},
        "MLX": parse_mlx,
        "torchtune": parse_torchtune,
        "litgpt": parse_litgpt,
        "loralib": parse_loralib,
        "GGUF": parse_llama_cpp,
    }
)
_REFUSED = {
    "peft": "its tensors are named as peft does it, but there is no peft_type in an adapter_config.json beside it, so "
    "its scale is unknown; add the config that peft saved",
    "home-made": "its tensors are numbered (w_a_000), and which module each belongs to is nowhere in the file; rename "
    "them to <module>.lora_A and <module>.lora_B, with r and lora_alpha in an adapter_config.json beside",
}
_OF_MLX = {"fine_tune_type", "lora_parameters"}


def tool_of(files: AdapterFiles) -> str | None:
    """The tool that saved an adapter whose config says nothing of peft; `peft` for its names without its config.

    The one of torchtune writes peft's config beside its own file.
    """
    tool = recognise(files.weights.entries, files.weights.metadata)
    if isinstance(files.config.get("peft_type"), str):
        return tool if tool == "torchtune" else None
    return "MLX" if _OF_MLX & files.config.keys() else tool


def parse_foreign(files: AdapterFiles, base: Checkpoint | None, tool: str) -> Adapter:
    """The updates of an adapter of such a tool; AdapterError for what cannot be read, with the reason."""
    if tool in _REFUSED:
        raise AdapterError(f"{files.name}: {_REFUSED[tool]}")
    return TOOLS[tool](files, base)
