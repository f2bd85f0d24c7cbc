"""What adapter_config.json says: its fields, the code it names, the patterns it would have run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType

from wanalyze.auditing.records import Severity
from wanalyze.auditing.regexes import may_hang
from wanalyze.auditing.rule import Hit, Need, Rule
from wanalyze.auditing.subject import Subject
from wanalyze.checkpoints.sources import ADAPTER_CONFIG

_PEFT = "LoraConfig of peft 0.21.2"
_LARGEST = 2**31


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _is_targets(value: object) -> bool:
    return (isinstance(value, str) and value != "") or _is_names(value)


def _is_ranks(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_whole, value.values()))


def _is_alphas(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_bias(value: object) -> bool:
    return value in ("none", "all", "lora_only")


# Fields that all or most kinds share, and what each must be; those of LoRA alone below.
_COMMON: Mapping[str, tuple[Callable[[object], bool], str]] = MappingProxyType(
    {
        "peft_type": (_is_text, "a text"),
        "base_model_name_or_path": (_is_text, "a text"),
        "target_modules": (_is_targets, "a text or a list of names"),
        "modules_to_save": (_is_names, "a list of names"),
        "fan_in_fan_out": (_is_switch, "true or false"),
    }
)
_OF_LORA: Mapping[str, tuple[Callable[[object], bool], str]] = MappingProxyType(
    {
        "r": (_is_whole, "a whole number from 1 on"),
        "lora_alpha": (_is_number, "a finite number"),
        "use_rslora": (_is_switch, "true or false"),
        "use_dora": (_is_switch, "true or false"),
        "lora_bias": (_is_switch, "true or false"),
        "rank_pattern": (_is_ranks, "names with whole numbers from 1 on"),
        "alpha_pattern": (_is_alphas, "names with finite numbers"),
        "bias": (_is_bias, "none, all or lora_only"),
    }
)
_NEEDED = ("r", "lora_alpha")
# Every field that a release of peft up to 0.21.2 has written for LoRA.
_KNOWN = frozenset(
    {
        *("alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path"),
        *("bias", "corda_config", "enable_lora", "ensure_weight_tying", "eva_config", "exclude_modules"),
        *("fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config", "layer_replication"),
        *("layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout"),
        *("lora_ga_config", "megatron_config", "megatron_core", "merge_weights", "modules_to_save"),
        *("monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision"),
        *("runtime_config", "target_modules", "target_parameters", "task_type", "trainable_token_indices"),
        *("use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config"),
    }
)
# Keys, at any depth, that make a loader import or run something.
_RUNS = {
    "auto_map": "names classes to import from the repository",
    "custom_pipeline": "names a pipeline to download and run",
    "custom_pipelines": "names pipelines to download and run",
    "trust_remote_code": "asks loaders to run code of the repository",
    "tokenizer_kwargs": "passes options to the tokenizer's loader, trust_remote_code among them",
    "_attn_implementation": "names a kernel that transformers may download and run",
    "_attn_implementation_internal": "names a kernel that transformers may download and run (CVE-2026-4372)",
    "attn_implementation": "names a kernel that transformers may download and run",
}
_LIBRARY = re.compile(r"(?:transformers|peft|diffusers|sentence_transformers)(?:\.\w+)*")
_MEGATRON = "megatron.core"
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save")
_PLAIN_STARTS = frozenset({"true", "false", "gaussian", "eva", "orthogonal", "mica"})
_RESIDUAL = re.compile(r"(?:^|[/_-])(pissa|loftq|corda|olora)(?:[/_-]|$)", re.IGNORECASE)


def is_lora(subject: Subject) -> bool:
    return subject.config.get("peft_type") == "LORA"


def hit(message: str, fix: str, *, value: float | None = None, limit: float | None = None) -> Hit:
    return Hit(message, fix, file=ADAPTER_CONFIG, value=value, limit=limit)


def _bad_fields(subject: Subject) -> Iterator[Hit]:
    config = subject.config
    expected = {**_COMMON, **_OF_LORA} if is_lora(subject) else _COMMON
    for field, (is_right, needed) in expected.items():
        if field in config and not is_right(config[field]):
            yield hit(
                f"{field} is {_shown(config[field])}; it must be {needed}", f"set {field} to what it was trained with"
            )
    if is_lora(subject):
        for field in _NEEDED:
            if field not in config:
                yield hit(
                    f"{field} is missing; the scale of every update depends on it", "take it from the training run"
                )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unknown(subject: Subject) -> Iterator[tuple[str, str | None]]:
    """Fields that no release of peft writes, each with the one that it looks like."""
    if is_lora(subject):
        for field in sorted(subject.config.keys() - _KNOWN):
            yield field, next(iter(get_close_matches(field[:80], _KNOWN, 1, cutoff=0.85)), None)


def _misspelt(subject: Subject) -> Iterator[Hit]:
    for field, near in _unknown(subject):
        if near is not None:
            yield hit(f"{field[:80]} is no field of peft's LoRA and is ignored", f"was {near} meant?")


def _strange(subject: Subject) -> Iterator[Hit]:
    for field, near in _unknown(subject):
        if near is None:
            yield hit(f"{field[:80]} is no field of peft's LoRA up to 0.21.2", "ask what wrote it; peft ignores it")


def _code(subject: Subject) -> Iterator[Hit]:
    for key, value in _entries(subject.config):
        if key in _RUNS and value not in (None, False, "eager", "sdpa", "flash_attention_2"):
            yield _names_code(f"{key} is {_shown(value)}: it {_RUNS[key]}")
    mapping = subject.config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    if library is not None and not (isinstance(library, str) and _LIBRARY.fullmatch(library)):
        yield _names_code(f"auto_mapping makes peft before 0.20 import {_shown(library)}")
    megatron = subject.config.get("megatron_core", _MEGATRON)
    if megatron != _MEGATRON:
        yield _names_code(f"megatron_core makes peft before 0.20 import {_shown(megatron)}")


def _names_code(message: str) -> Hit:
    return hit(message, "remove the field; an adapter needs no code")


def _entries(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Every key at any depth, without recursion: depth is a stranger's choice."""
    waiting: list[object] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _hanging_patterns(subject: Subject) -> Iterator[Hit]:
    for field in _PATTERNS:
        for pattern in _texts(subject.config.get(field)):
            if reason := may_hang(pattern):
                yield hit(
                    f"{field} has the pattern {_shown(pattern)}, which peft runs against every module name: {reason}",
                    "write module names, or a simpler pattern",
                )


def _texts(value: object) -> list[str]:
    """The texts of a field that peft runs as patterns: itself, the items of a list, the keys of a mapping."""
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list | dict) else []


def _extreme_scale(subject: Subject) -> Iterator[Hit]:
    updates = subject.adapter.updates if subject.adapter and is_lora(subject) else ()
    scales = {update.scale for update in updates if update.scale is not None}
    limit = subject.limits["scale-extreme"]
    for scale in sorted(scales):
        if not 0 <= scale <= limit:
            yield hit(
                f"updates are multiplied by {scale:.4g}; alpha / r is usually between 0.5 and 4",
                "ask whether lora_alpha and r are those it was trained with",
                value=scale,
                limit=limit,
            )


def _changed_base(subject: Subject) -> Iterator[Hit]:
    start = str(subject.config.get("init_lora_weights", True)).lower()
    if is_lora(subject) and start not in _PLAIN_STARTS:
        yield hit(
            f"init_lora_weights is {start[:40]!r}: it was trained on a changed base; on the original one "
            "it computes something else",
            "convert it (path_initial_model_for_weight_conversion), or serve it on the base it was trained on",
        )
    if (name := subject.base_named) and (found := _RESIDUAL.search(name)):
        yield hit(
            f"its base {name[:120]!r} looks like one that {found[1]} changed", "serve it on that base and no other"
        )


def _variants(subject: Subject) -> Iterator[Hit]:
    asked = {
        "use_dora": "DoRA",
        "use_rslora": "rsLoRA's scale",
        "use_qalora": "QALoRA",
        "use_bdlora": "BD-LoRA",
        "alora_invocation_tokens": "aLoRA, which is active from certain tokens on",
        "layer_replication": "replicated layers",
        "trainable_token_indices": "trained tokens",
        "target_parameters": "updates of raw parameters",
        "lora_bias": "a bias beside B",
    }
    for field, name in asked.items():
        if subject.config.get(field):
            yield hit(f"{field} asks for {name}; not every server knows it", "see the list of servers")
    if subject.config.get("bias", "none") != "none":
        yield hit(f"bias is {_shown(subject.config['bias'])}: it changes biases of the base", "see the list of servers")


CONFIG = (
    Rule(
        "bad-field",
        Severity.error,
        "a field of the config is wrong",
        "A field of adapter_config.json is missing or of a type or range that it cannot have.",
        _PEFT,
        _bad_fields,
    ),
    Rule(
        "config-code",
        Severity.error,
        "the config names code",
        "adapter_config.json names something that a loader would import, download or run.",
        "peft #2888, #3085, #3090; transformers CVE-2026-4372, CVE-2026-5241; vLLM CVE-2026-22807",
        _code,
        caveat="By the names of fields that are known to do so; nothing is imported to find out.",
    ),
    Rule(
        "hanging-pattern",
        Severity.error,
        "a pattern of the config may never end",
        "A regular expression that peft would run against every module name can take a time without reasonable bound.",
        "peft runs target_modules, rank_pattern, alpha_pattern and others as they are written",
        _hanging_patterns,
        caveat="By the form of the pattern; it is not run. Some patterns of that form are harmless.",
    ),
    Rule(
        "scale-extreme",
        Severity.warning,
        "the scale is far from any that is trained with",
        "The factor of an update of a LoRA, alpha / r or alpha / √r, is negative or above the limit.",
        "wanalyze: trained adapters have 0.5 to 4, rsLoRA up to some 16",
        _extreme_scale,
        needs=(Need.weights, Need.adapter),
        limit=64,
    ),
    Rule(
        "changed-base",
        Severity.warning,
        "it belongs to a base that its initialisation changed",
        "The config or the name of the base says that PiSSA, OLoRA, CorDA, LoftQ or the like changed the base.",
        "peft's initialisations; vLLM 0.33.0 refuses them",
        _changed_base,
    ),
    Rule(
        "misspelt-field",
        Severity.warning,
        "a field of the config looks misspelt",
        "adapter_config.json has a field that peft does not know and that resembles one it does.",
        _PEFT,
        _misspelt,
    ),
    Rule(
        "unknown-field",
        Severity.info,
        "a field of the config is unknown",
        "adapter_config.json has a field that no release of peft up to 0.21.2 has.",
        _PEFT,
        _strange,
        caveat="Later releases and other tools write fields of their own.",
    ),
    Rule(
        "variant",
        Severity.info,
        "it asks for more than s·B·A",
        "The config switches on a variant of LoRA or the training of biases.",
        _PEFT,
        _variants,
    ),
)
