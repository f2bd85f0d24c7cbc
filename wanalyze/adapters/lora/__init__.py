"""LoRA as peft saves it: every layer type, variant and initialisation, experts, tokens and AdaLoRA."""

from wanalyze.adapters.lora.adalora import parse_adalora
from wanalyze.adapters.lora.parse import parse_lora
from wanalyze.adapters.lora.tokens import parse_trainable_tokens

__all__ = ["parse_adalora", "parse_lora", "parse_trainable_tokens"]
