"""What servers do with an adapter, read from one release of each."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from wanalyze.auditing.rule import Rule


@dataclass(frozen=True)
class Server:
    """A release whose source the rules were read from, and when."""

    name: str
    title: str
    version: str
    read: str


SERVERS: MappingProxyType[str, Server] = MappingProxyType(
    {
        server.name: server
        for server in (
            Server("vllm", "vLLM", "0.33.0", "2026-11"),
            Server("sglang", "SGLang", "0.5.23", "2026-11"),
            Server("tgi", "TGI", "main of 2026-01-08", "2026-11"),
            Server("lorax", "LoRAX", "main of 2026-05-28", "2026-11"),
            Server("llama-cpp", "llama.cpp", "convert_lora_to_gguf.py, 2026-11", "2026-11"),
        )
    }
)

SERVER_RULES: tuple[Rule, ...] = ()
