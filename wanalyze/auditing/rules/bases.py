"""Whether the adapter belongs to the base that was given."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wanalyze.auditing.declared import VOCABULARY
from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Need, Rule
from wanalyze.auditing.rules.tensors import is_task_head
from wanalyze.auditing.subject import Subject
from wanalyze.checkpoints.sources import ADAPTER_CONFIG
from wanalyze.naming import module_name

_WITH_BASE = (Need.weights, Need.adapter, Need.base)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER_BASE = "give the base that it was trained on, or do not deploy it on this one"


def _misfit(subject: Subject) -> Iterator[Hit]:
    if subject.misfit is not None:
        yield Hit(subject.misfit, _OTHER_BASE)


def _lost(subject: Subject) -> Iterator[Hit]:
    """Modules of the adapter that no tensor of the base answers to, or one of another shape."""
    for name, reason in _own_lost(subject):
        if "shape" not in reason:
            yield Hit(f"{name[:160]}: {reason}. Servers drop such a module without a word", _OTHER_BASE, module=name)


def _shapes(subject: Subject) -> Iterator[Hit]:
    for name, reason in _own_lost(subject):
        if "shape" in reason:
            yield Hit(f"{name[:160]}: {reason}", _OTHER_BASE, module=name)


def _own_lost(subject: Subject) -> Iterator[tuple[str, str]]:
    adapter = subject.adapter
    if adapter is None:
        return
    own = {update.module for update in adapter.updates} | {module_name(shift.target) for shift in adapter.shifts}
    own |= {module_name(name) for name in adapter.replaced if not is_task_head(subject, name)}
    for name, reason in subject.lost.items():
        if module_name(name) in own:
            yield name, reason


def _vocabulary(subject: Subject) -> Iterator[Hit]:
    assert subject.base is not None, "needed by the rule"
    assert subject.adapter is not None, "needed by the rule"
    entries = subject.base.checkpoint.entries
    for name, entry in subject.adapter.replaced.items():
        alike = [
            other for other in entries if name == other or name.endswith(f".{other}") or other.endswith(f".{name}")
        ]
        is_vocabulary = any(part in VOCABULARY for part in name.split("."))
        if is_vocabulary and alike and entry.shape[0] != (rows := entries[alike[0]].shape[0]):
            yield Hit(
                f"{name[:160]} has {entry.shape[0]:,} rows, the base's {rows:,}: it needs a tokenizer of its own",
                "serve it with the tokenizer it was trained with",
                module=name,
                value=entry.shape[0],
                limit=rows,
            )


def _other_name(subject: Subject) -> Iterator[Hit]:
    assert subject.base is not None, "needed by the rule"
    named, given = subject.base_named, subject.base.ref
    claims = {_last(given), _last(str(subject.base.checkpoint.config.get("_name_or_path", "")))} - {""}
    if named is not None and _last(named) not in claims:
        yield Hit(
            f"it was made for {named[:120]!r}, the base given is {given[:120]!r}",
            "make sure that the two are the same model; policies can list hashes (base_sha256)",
            file=ADAPTER_CONFIG,
        )
    commit, given_commit = str(subject.config.get("revision", "")), subject.base.checkpoint.revision
    if given_commit is not None and _COMMIT.fullmatch(commit) and commit != given_commit:
        yield Hit(
            f"it was made for commit {commit} of its base, the base given is at {given_commit}",
            f"give the base as hf:org/name@{commit}",
            file=ADAPTER_CONFIG,
        )


def _last(name: str) -> str:
    """The last part of a path or of a name of the Hub, without its revision.

    >>> _last("hf:org/Name@main"), _last("models/name/")
    ('name', 'name')
    """
    return name.removeprefix("hf:").partition("@")[0].rstrip("/").rpartition("/")[2].lower()


def _hash(subject: Subject) -> Iterator[Hit]:
    """The policy lists hashes: what cannot be held against them does not pass."""
    if not subject.base_sha256:
        return
    if subject.base is None:
        yield Hit("the policy lists hashes of bases, and no base was given", "name the base with --base")
        return
    for file in subject.base.files:
        if file.sha256 not in subject.base_sha256:
            found = f"sha256 {file.sha256}" if file.sha256 else "no hash, because it was not read whole"
            yield Hit(
                f"the base's {file.name} has {found}, which the policy does not list",
                "use a base that the policy allows; keep a copy of it on this machine so that it can be hashed",
            )


BASES = (
    Rule(
        "base-misfit",
        Severity.error,
        "it does not belong to this base",
        "No module of the adapter finds its weight in the base, or two of them mean the same.",
        "the pairing of wanalyze: by names, never by shapes",
        _misfit,
        needs=_WITH_BASE,
    ),
    Rule(
        "module-not-in-base",
        Severity.error,
        "a module that the base does not have",
        "A module of the adapter finds no weight in the base.",
        "vLLM #34186, #48019: wrong prefixes are dropped silently",
        _lost,
        needs=_WITH_BASE,
    ),
    Rule(
        "shape-not-of-base",
        Severity.error,
        "a shape that the base does not have",
        "A module of the adapter is for a weight of another shape than the base's.",
        "peft refuses to load it",
        _shapes,
        needs=_WITH_BASE,
    ),
    Rule(
        "vocabulary-resized",
        Severity.warning,
        "it brings another vocabulary",
        "A whole embedding or head has more or fewer rows than the base's.",
        "SGLang 0.5.23 refuses adapters that add tokens",
        _vocabulary,
        needs=_WITH_BASE,
    ),
    Rule(
        "base-differs",
        Severity.warning,
        "the base given is not the one named",
        "base_model_name_or_path ends otherwise than the base given and its own config, or the commits differ.",
        "names are claims: weights of one name can differ, and equal weights can have several",
        _other_name,
        needs=(Need.weights, Need.base),
    ),
    Rule(
        "base-hash",
        Severity.error,
        "the base is not one of those allowed",
        "The policy lists sha256 of files of bases, and a file of the base given has none of them.",
        "the policy",
        _hash,
        needs=(),
    ),
)
