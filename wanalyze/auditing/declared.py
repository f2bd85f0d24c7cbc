"""What adapter_config.json says the adapter changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wanalyze.errors import AdapterError

if TYPE_CHECKING:
    from wanalyze.auditing.subject import Subject

VOCABULARY = ("embed_tokens", "wte", "word_embeddings", "embed_in", "shared", "lm_head", "embed_out")


def saves(subject: Subject, name: str) -> bool:
    """Whether modules_to_save names a module on the path of a tensor, as peft matches it."""
    return any(_lies_on(one, name) for one in names_in(subject.config.get("modules_to_save")))


def trains_bias(subject: Subject, name: str) -> bool:
    return name.endswith(".bias") and subject.config.get("bias", "none") != "none"


def targets(subject: Subject, module: str) -> bool | None:
    """Whether the config asks for an update of a module or of one that it lies in; None where that cannot be told."""
    if _is_declared_beside(subject, module):
        return True
    asked = subject.config.get("target_modules")
    if isinstance(asked, list):
        return any(_lies_on(one, module) for one in map(str, asked))
    if not isinstance(asked, str) or asked.lower() == "all-linear":
        return None
    return _matches(asked, module)


def _is_declared_beside(subject: Subject, module: str) -> bool:
    """Whether another field than target_modules asks for the update."""
    tokens = subject.config.get("trainable_token_indices")
    of_tokens = [*tokens] if isinstance(tokens, Mapping) else [*VOCABULARY] if tokens else []
    parameters = [one.rpartition(".")[0] for one in names_in(subject.config.get("target_parameters"))]
    named = [*of_tokens, *filter(None, parameters), *names_in(subject.config.get("modules_to_save"))]
    return any(_lies_on(one, module) for one in named)


def _matches(pattern: str, module: str) -> bool | None:
    from wanalyze.adapters.patterns import matches

    parts = module.split(".")
    try:
        return any(matches(pattern, ".".join(parts[:end]), field="target_modules") for end in range(len(parts), 0, -1))
    except AdapterError:  # not run: see hanging-pattern
        return None


def _lies_on(part: str, name: str) -> bool:
    """Whether a run of whole parts of a dotted name is `part`.

    >>> _lies_on("mlp.up", "layers.0.mlp.up.weight"), _lies_on("up", "layers.0.upper")
    (True, False)
    """
    return f".{part}." in f".{name}."


def names_in(value: object) -> list[str]:
    """The names in a field that is a list, or a mapping of them; none of anything else."""
    return [str(one) for one in value] if isinstance(value, list | Mapping) else []
