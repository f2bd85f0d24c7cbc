"""Where the adapter comes from, by its own account: which base it is for, and under which license."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Rule
from wanalyze.auditing.rules.config import hit
from wanalyze.auditing.subject import Subject

_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_PEFT = "adapter_config.json as peft 0.21.2 writes it"


def _unnamed_base(subject: Subject) -> Iterator[Hit]:
    if subject.config and subject.base_named is None:
        yield hit(
            "base_model_name_or_path is empty: nothing says which base it is for", "ask its author, and write it in"
        )


def _local_base(subject: Subject) -> Iterator[Hit]:
    name = subject.base_named
    if name is not None and not _HUB_NAME.fullmatch(name):
        yield hit(
            f"its base is {name[:120]!r}, no name of the Hub: which model that is cannot be told",
            "ask its author for the base and its commit",
        )


def _card_differs(subject: Subject) -> Iterator[Hit]:
    name, said = subject.base_named, subject.card.values("base_model")
    if name and said and _HUB_NAME.fullmatch(name) and name.lower() not in [one.lower() for one in said]:
        yield hit(
            f"the README names the base {', '.join(said)[:160]}, the config {name[:120]}",
            "ask its author which of them is right",
        )


def _license(subject: Subject) -> Iterator[Hit]:
    said = [value.lower() for value in subject.card.values("license")]
    allowed = {text.lower() for text in subject.licenses}
    refused = [value for value in said if value not in allowed]
    if allowed and (refused or not said):
        yield Hit(
            f"its license is {refused[0]!r}" if refused else _without_license(subject),
            f"allowed by the policy: {', '.join(sorted(allowed))}",
            file="README.md",
        )


def _no_license(subject: Subject) -> Iterator[Hit]:
    if not subject.card.values("license") and not subject.licenses:
        yield Hit(_without_license(subject), "ask its author", file="README.md")


def _without_license(subject: Subject) -> str:
    problem = subject.card.problem
    return "its README names no license" if problem is None else f"no license is named: {problem}"


def _same_weights(subject: Subject) -> Iterator[Hit]:
    if subject.twin is not None:
        yield Hit(
            f"its weights are those of {subject.twin}, byte for byte",
            "make sure that both are meant, and that it is not one adapter under another's name",
        )


PROVENANCE = (
    Rule(
        "base-unnamed",
        Severity.warning,
        "no base is named",
        "adapter_config.json has no base_model_name_or_path.",
        _PEFT,
        _unnamed_base,
    ),
    Rule(
        "base-local",
        Severity.info,
        "the base is named by a path or an address",
        "base_model_name_or_path is no name of the form org/name.",
        "the Hub's rules for names",
        _local_base,
    ),
    Rule(
        "card-base-differs",
        Severity.warning,
        "README and config name different bases",
        "base_model in the README's front matter is not base_model_name_or_path.",
        "the Hub's model cards",
        _card_differs,
    ),
    Rule(
        "license",
        Severity.error,
        "the license is not allowed",
        "The policy lists licenses, and the README's front matter names none or another.",
        "the policy",
        _license,
        needs=(),
        caveat="Reads `license` of the front matter of README.md and nothing else.",
    ),
    Rule(
        "license-missing",
        Severity.info,
        "no license is named",
        "The README's front matter has no license, and the policy lists none.",
        "the Hub's model cards",
        _no_license,
    ),
    Rule(
        "same-weights",
        Severity.warning,
        "another adapter has the same weights",
        "The files of its tensors have the sha256 of those of an adapter that the same audit read before.",
        "wanalyze",
        _same_weights,
        caveat="Within one audit, by the bytes of the files: the same tensors saved in another way are not noticed.",
    ),
)
