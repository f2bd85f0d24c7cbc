"""The client's own log: kept off stderr, where it would print what a server sends, unescaped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_CLIENT = logging.getLogger("huggingface_hub")


@contextmanager
def silence() -> Iterator[None]:
    """Within the block the client logs nothing: what goes wrong comes out as an exception, and is said by us."""
    before = _CLIENT.level
    _CLIENT.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        _CLIENT.setLevel(before)
