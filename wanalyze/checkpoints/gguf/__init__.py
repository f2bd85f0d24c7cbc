"""GGUF, the format of llama.cpp: a header of our own reading, weights that the `gguf` package dequantises."""

from wanalyze.checkpoints.gguf.model import Model, read_model

__all__ = ["Model", "read_model"]
