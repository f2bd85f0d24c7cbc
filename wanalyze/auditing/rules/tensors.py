"""Whether the tensors agree with each other and with the config, by their headers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wanalyze.auditing.declared import saves, targets, trains_bias
from wanalyze.auditing.factors import OTHER, Factors
from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Need, Rule
from wanalyze.auditing.rules.config import is_lora
from wanalyze.auditing.subject import Subject
from wanalyze.checkpoints import TensorEntry
from wanalyze.checkpoints.dtypes import Holds
from wanalyze.errors import AdapterError

_TASK_HEADS = ("score", "classifier")  # new layers of a task: the base has none that they could override
_AGAIN = "ask its author to save it again"
_PEFT = "peft 0.21.2 saves and loads such files"


def _lone(subject: Subject) -> Iterator[Hit]:
    for module, factors in _doubtful(subject):
        for part in factors.parts:
            if OTHER[part] not in factors.parts:
                yield Hit(f"{module[:160]} has {part} and no {OTHER[part]}", _AGAIN, module=module)


def _ranks(subject: Subject) -> Iterator[Hit]:
    for module, factors in _doubtful(subject):
        for a, b in factors.pairs:
            if len(a.shape) < 2 or len(b.shape) < 2:
                continue
            if a.shape[0] != b.shape[1]:
                message = f"{module[:160]}: A has rank {a.shape[0]}, B {b.shape[1]}; they cannot be multiplied"
                yield Hit(message, _AGAIN, module=module, value=a.shape[0], limit=b.shape[1])
            elif (rank := _declared(subject, module)) is not None and rank != a.shape[0]:
                message = f"{module[:160]}: its tensors have rank {a.shape[0]}, the config says {rank}"
                fix = "correct r or rank_pattern: servers scale by the one and multiply by the other"
                yield Hit(message, fix, module=module, value=a.shape[0], limit=rank)


def _declared(subject: Subject, module: str) -> int | None:
    """The rank that the config gives a module; None where it does not say so in a way that can be told."""
    from wanalyze.adapters.patterns import first_match
    from wanalyze.adapters.peft import unwrapped

    rank, pattern = subject.config.get("r"), subject.config.get("rank_pattern", {})
    if not isinstance(rank, int) or not isinstance(pattern, dict) or subject.config.get("target_parameters"):
        return None
    try:
        found = first_match(pattern, unwrapped(module), rank, field="rank_pattern")
    except AdapterError:
        return None
    return found if isinstance(found, int) else None


def _shapes(subject: Subject) -> Iterator[Hit]:
    for module, factors in _doubtful(subject):
        for entry in factors.parts.values():
            if not 2 <= len(entry.shape) <= 5:
                yield Hit(f"{entry.name[:160]} has shape {entry.shape}; a factor is a matrix", _AGAIN, module=module)


def _doubtful(subject: Subject) -> Iterable[tuple[str, Factors]]:
    """The factors of a LoRA that could not be understood; of one that was, they agree."""
    return subject.factors.items() if subject.refusal is not None and is_lora(subject) else ()


def _empty(subject: Subject) -> Iterator[Hit]:
    for name, entry in subject.tensors.items():
        if 0 in entry.shape:
            yield Hit(
                f"{name[:160]} has shape {entry.shape}: it holds nothing, as ZeRO-3 leaves what it did not gather",
                _AGAIN,
                module=name,
            )


def _dtypes(subject: Subject) -> Iterator[Hit]:
    understood = _parts(subject)
    for name, entry in subject.tensors.items():
        if entry.dtype.holds is not Holds.real and name not in understood and not name.endswith("indices"):
            yield Hit(f"{name[:160]} is {entry.dtype.name}; real numbers are needed", _AGAIN, module=name)


def _parts(subject: Subject) -> set[str]:
    adapter = subject.adapter
    if adapter is None:
        return set()
    parts = [*(update.parts for update in adapter.updates), *(shift.parts for shift in adapter.shifts)]
    return {entry.name for tensors in parts for entry in tensors.values()}


def _not_understood(subject: Subject) -> Iterator[Hit]:
    if subject.refusal is not None:
        hint = "" if subject.base is not None else "; some kinds can be worked out with --base"
        yield Hit(subject.refusal, f"what it does to the base is not known, so it was not measured{hint}")


def _whole(subject: Subject) -> Iterator[Hit]:
    for name, entry in _replaced(subject):
        if not (is_task_head(subject, name) or trains_bias(subject, name) or _is_target(subject, name)):
            yield Hit(
                f"{name[:160]} {_shape(entry)} is saved whole: it takes the place of the base's",
                "compare it with the base's (--base), or leave it out",
                module=name,
            )


def _replaced(subject: Subject) -> Iterable[tuple[str, TensorEntry]]:
    return subject.adapter.replaced.items() if subject.adapter is not None else ()


def _shape(entry: TensorEntry) -> str:
    return " × ".join(map(str, entry.shape))


def is_task_head(subject: Subject, name: str) -> bool:
    """Whether a whole tensor is the declared head of a new task, which the base has no need to have."""
    parts = name.split(".")
    return any(head in parts for head in _TASK_HEADS) and saves(subject, name)


def _is_declared(subject: Subject, name: str) -> bool:
    return saves(subject, name) or trains_bias(subject, name) or _is_target(subject, name)


def _is_target(subject: Subject, name: str) -> bool:
    """Whether a whole tensor is what its kind trains, as that of norms does."""
    return not is_lora(subject) and targets(subject, name) is not False


def _undeclared(subject: Subject) -> Iterator[Hit]:
    if not subject.config:
        return
    for name, _ in _replaced(subject):
        if not _is_declared(subject, name):
            yield Hit(
                f"{name[:160]} is saved whole, and modules_to_save does not name it: servers load it or drop it",
                "ask its author why it is there",
                module=name,
            )
    if is_lora(subject):
        yield from _untargeted(subject)


def _untargeted(subject: Subject) -> Iterator[Hit]:
    """Updates that target_modules does not name, those of one kind together."""
    updates = subject.adapter.updates if subject.adapter is not None else ()
    kinds: dict[str, list[str]] = {}
    for module in dict.fromkeys(update.module for update in updates):
        if targets(subject, module) is False:
            kinds.setdefault(module.rpartition(".")[2], []).append(module)
    for kind, modules in kinds.items():
        yield Hit(
            f"{len(modules):,} modules {kind[:80]!r} have an update, and target_modules does not name them: "
            f"{modules[0][:160]} is the first",
            "ask its author why they are there",
            module=modules[0],
            value=len(modules),
            limit=0,
        )


def _missing_targets(subject: Subject) -> Iterator[Hit]:
    asked = subject.config.get("target_modules")
    adapter = subject.adapter
    if not isinstance(asked, list) or adapter is None:
        return
    there = {
        *(update.module for update in adapter.updates),
        *(shift.target for shift in adapter.shifts),
        *adapter.replaced,
    }
    for target in map(str, asked):
        if not any(target in module for module in there):
            yield Hit(
                f"target_modules names {target[:120]!r}, and no tensor is for it",
                "ask its author whether the file is whole",
            )


# Whichever of these is found says better why an adapter is not understood.
_CAUSES = ("bad-field", "hanging-pattern", "lone-factor", "rank-mismatch", "bad-shape", "empty-tensor", "odd-dtype")

TENSORS = (
    Rule(
        "lone-factor",
        Severity.error,
        "A without B, or B without A",
        "A module of a LoRA has one of its two factors.",
        _PEFT,
        _lone,
    ),
    Rule(
        "rank-mismatch",
        Severity.error,
        "ranks contradict each other",
        "A, B, r and rank_pattern give a module different ranks.",
        _PEFT,
        _ranks,
    ),
    Rule(
        "bad-shape",
        Severity.error,
        "a factor is no matrix",
        "A factor of a LoRA has fewer than 2 or more than 5 dimensions.",
        _PEFT,
        _shapes,
    ),
    Rule("empty-tensor", Severity.error, "a tensor is empty", "A tensor has a side of length zero.", _PEFT, _empty),
    Rule(
        "odd-dtype",
        Severity.error,
        "a tensor does not hold real numbers",
        "A tensor is of integers, of complex numbers or of a type that nobody computes with, where numbers are needed.",
        _PEFT,
        _dtypes,
    ),
    Rule(
        "not-understood",
        Severity.error,
        "what it does could not be worked out",
        "Config and tensors contradict each other, or are of a kind that has no update of a weight.",
        "the readers of wanalyze, which follow the code of each tool",
        _not_understood,
        implied_by=_CAUSES,
        caveat="A kind may be sound and unknown here. What was not worked out was not measured either.",
    ),
    Rule(
        "whole-tensor",
        Severity.warning,
        "a tensor replaces one of the base",
        "A tensor is saved whole (an embedding, a head, a norm, a router), other than the head of a new task.",
        "peft's modules_to_save; the largest change that an adapter can make",
        _whole,
        needs=(Need.weights, Need.adapter),
        caveat="How far it differs from the base's is for `compare` to say.",
    ),
    Rule(
        "undeclared-tensor",
        Severity.error,
        "a tensor that the config does not declare",
        "A module has an update that target_modules does not name, or a whole tensor that modules_to_save does not.",
        "SGLang 0.5.23 skips such tensors, vLLM and peft load them",
        _undeclared,
        needs=(Need.weights, Need.adapter),
        caveat="peft adds embedding and head by itself where the vocabulary was resized.",
    ),
    Rule(
        "missing-target",
        Severity.warning,
        "a declared module has no tensor",
        "target_modules lists a name that no module of the file bears.",
        _PEFT,
        _missing_targets,
        needs=(Need.weights, Need.adapter),
    ),
)
