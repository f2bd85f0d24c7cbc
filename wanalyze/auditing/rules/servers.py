"""What servers do with an adapter, read from one release of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal

from wanalyze.auditing.declared import names_in
from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Rule
from wanalyze.auditing.rules.config import hit
from wanalyze.auditing.subject import Subject


@dataclass(frozen=True)
class Server:
    """A release whose source the rules were read from, and when."""

    name: str
    title: str
    version: str
    read: str

    @property
    def source(self) -> str:
        return f"the source of {self.title} {self.version}, read {self.read}"


SERVERS: MappingProxyType[str, Server] = MappingProxyType(
    {
        server.name: server
        for server in (
            Server("vllm", "vLLM", "0.33.0", "2026-11"),
            Server("sglang", "SGLang", "0.5.23", "2026-11"),
            Server("tgi", "TGI", "of 2026-01-08", "2026-11"),
            Server("lorax", "LoRAX", "of 2026-05-28", "2026-11"),
            Server("llama-cpp", "llama.cpp", "(convert_lora_to_gguf.py)", "2026-11"),
        )
    }
)

_PLAIN_NAMES = re.compile(
    r".+\.(?:lora_[AB]\.weight|lora_embedding_[AB]|(?:score|classifier)\.(?:weight|bias))"
    r"|.+\.(?:embed_tokens|lm_head)\.base_layer\.weight"
)
_DROPPED = re.compile(r".+\.(?:embed_tokens|lm_head)\.base_layer\.weight")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_OF_SGLANG = {
    *(*_ATTENTION, *_MLP, "qkv_proj", "gate_up_proj", "embed_tokens", "lm_head", "qkvr", "wo_ud"),
    *("q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj", "wq_b", "wk", "weights_proj"),
}
_OF_TGI = {*_ATTENTION, *_MLP, "qkv_proj", "c_fc", "c_proj", "lm_head"}
_PLAIN_STARTS = {"true", "false", "gaussian", "eva", "orthogonal", "mica", "lora_ga"}  # of vLLM
_OF_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


# --- what several servers ask ---


def _set(subject: Subject, *fields: str) -> list[str]:
    """Which of the fields are switched on."""
    return [field for field in fields if subject.config.get(field) not in (None, False, "none", [], {})]


def _kind(subject: Subject, title: str) -> Iterator[Hit]:
    kind = subject.config.get("peft_type")
    if kind != "LORA":
        what = f"peft_type is {str(kind)[:40]!r}" if kind is not None else "it has no peft_type"
        yield hit(f"{what}; {title} knows LORA alone", "merge it into its base")


def _fields(subject: Subject, title: str, fields: Iterable[str], does: str) -> Iterator[Hit]:
    for field in _set(subject, *fields):
        yield hit(f"{title} {does} {field}", "merge it into its base, or train it without")


def _modules(subject: Subject) -> set[str]:
    """The last parts of the names of modules that have an update."""
    updates = subject.adapter.updates if subject.adapter is not None else ()
    return {update.module.rpartition(".")[2] for update in updates}


def _unserved(subject: Subject, title: str, served: set[str], does: str) -> Iterator[Hit]:
    for module in sorted(_modules(subject) - served):
        yield Hit(
            f"{title} {does} updates of {module[:80]}", "merge it into its base, or train it without", module=module
        )


def _ranks(subject: Subject) -> list[int]:
    pattern = subject.config.get("rank_pattern", {})
    values = [subject.config.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool)]


# --- vLLM ---


def _vllm_rank(subject: Subject) -> Iterator[Hit]:
    rank, limit = max(_ranks(subject), default=0), subject.limits["vllm-rank"]
    if rank > limit:
        fitting = next((one for one in _OF_VLLM_RANKS if one >= rank), None)
        fix = f"start vLLM with --max-lora-rank {fitting}" if fitting else "merge it into its base"
        yield hit(f"vLLM serves ranks up to {limit:g}, its r is {rank}", fix, value=rank, limit=limit)


def _vllm_variants(subject: Subject) -> Iterator[Hit]:
    fields = (
        "use_dora",
        "lora_bias",
        "bias",
        "alora_invocation_tokens",
        "layer_replication",
        "use_bdlora",
        "use_qalora",
    )
    return _fields(subject, "vLLM", fields, "refuses adapters with")


def _vllm_start(subject: Subject) -> Iterator[Hit]:
    start = str(subject.config.get("init_lora_weights", True)).lower()
    if start not in _PLAIN_STARTS:
        yield hit(f"vLLM refuses init_lora_weights {start[:40]!r}", "convert it to a plain LoRA")


def _vllm_saved(subject: Subject) -> Iterator[Hit]:
    saved = names_in(subject.config.get("modules_to_save"))
    if len(saved) > 1 or any(name.rpartition(".")[2] not in ("classifier", "score") for name in saved):
        yield hit(f"vLLM refuses modules_to_save {', '.join(saved)[:120]}", "merge it into its base")


def _vllm_config(subject: Subject) -> Iterator[Hit]:
    for field in ("r", "lora_alpha", "target_modules"):
        if field not in subject.config:
            yield hit(f"vLLM needs {field} in adapter_config.json", "write it in")


def _vllm_names(subject: Subject) -> Iterator[Hit]:
    odd = [name for name in subject.tensors if not _PLAIN_NAMES.fullmatch(name)]
    if odd:
        yield Hit(
            f"vLLM refuses {len(odd):,} tensors by their names, {odd[0][:160]} the first",
            "merge it into its base, or save it without them",
            module=odd[0],
            value=len(odd),
            limit=0,
        )


def _vllm_dropped(subject: Subject) -> Iterator[Hit]:
    for name in subject.tensors:
        if _DROPPED.fullmatch(name):
            yield Hit(f"vLLM drops {name[:160]} without a word", "merge it into its base", module=name)


# --- SGLang ---


def _sglang_variants(subject: Subject) -> Iterator[Hit]:
    return _fields(subject, "SGLang", ("use_dora",), "refuses adapters with")


def _sglang_targets(subject: Subject) -> Iterator[Hit]:
    asked = subject.config.get("target_modules")
    if isinstance(asked, str) and asked not in ("all", "all-linear"):
        yield hit(f"SGLang refuses target_modules as a pattern ({asked[:80]!r})", "write a list of names")
    yield from _unserved(subject, "SGLang", _OF_SGLANG, "refuses")


def _sglang_scale(subject: Subject) -> Iterator[Hit]:
    rank = next(iter(_ranks(subject)), 1)
    if subject.config.get("use_rslora") and rank > 1:
        share = rank**-0.5
        yield hit(
            f"SGLang scales by alpha / r whatever use_rslora says: it serves {share:.3g} times the update",
            f"set lora_alpha to {rank**0.5:.4g} times its value and use_rslora to false, for SGLang alone",
            value=share,
            limit=1,
        )
    for field in _set(subject, "rank_pattern", "alpha_pattern"):
        yield hit(f"SGLang ignores {field}: some modules are served at another scale", "merge it into its base")


def _sglang_skipped(subject: Subject) -> Iterator[Hit]:
    names = [*subject.adapter.replaced] if subject.adapter is not None else []
    if names:
        yield Hit(
            f"SGLang skips tensors that are saved whole, {names[0][:160]} among them",
            "start it with --lora-strict-loading to be told, or merge it into its base",
            module=names[0],
        )


# --- TGI and LoRAX, of one family ---


def _only_safetensors(subject: Subject) -> Iterator[Hit]:
    name = subject.weights_file
    if name is not None and PurePosixPath(name).suffix != ".safetensors":
        yield Hit(f"TGI reads safetensors alone, not {name}", "save it as safetensors", file=name)


def _ignored(subject: Subject, title: str) -> Iterator[Hit]:
    fields = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "bias")
    yield from _fields(subject, title, fields, "ignores, without a word,")
    yield from _unserved(subject, title, _OF_TGI, "ignores, without a word,")


# --- llama.cpp ---


def _llama_names(subject: Subject) -> Iterator[Hit]:
    odd = [name for name in subject.tensors if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if odd and not (subject.weights_file or "").endswith(".gguf"):
        yield Hit(
            f"convert_lora_to_gguf.py refuses {len(odd):,} tensors, {odd[0][:160]} the first: not lora_A or lora_B",
            "merge it into its base",
            module=odd[0],
            value=len(odd),
            limit=0,
        )


def _llama_scale(subject: Subject) -> Iterator[Hit]:
    for field in _set(subject, "use_rslora", "alpha_pattern"):
        yield hit(f"llama.cpp scales by alpha / r and ignores {field}", "merge it into its base")


def _row(
    server: str,
    what: str,
    outcome: Literal["refuses", "differs"],
    title: str,
    check: Callable[[Subject], Iterable[Hit]],
    *,
    limit: float | None = None,
) -> Rule:
    """A rule on a server: shown for information, an error where the policy names the server."""
    found = SERVERS[server]
    does = "refuses the adapter" if outcome == "refuses" else "loads the adapter and computes something else"
    return Rule(
        f"{server}-{what}",
        Severity.info,
        f"{found.title}: {title}",
        f"{found.title} {does}: {title}.",
        found.source,
        check,
        limit=limit,
        caveat="Of that release; a later one may do otherwise. An error where the policy's `servers` names it.",
        server=server,
        outcome=outcome,
    )


SERVER_RULES = (
    _row("vllm", "kind", "refuses", "it knows LoRA alone", partial(_kind, title="vLLM")),
    _row("vllm", "rank", "refuses", "the rank is above --max-lora-rank", _vllm_rank, limit=16),
    _row("vllm", "variant", "refuses", "a variant that it does not have", _vllm_variants),
    _row("vllm", "initialisation", "refuses", "an initialisation that changes the base", _vllm_start),
    _row("vllm", "saved-module", "refuses", "modules_to_save other than one of score and classifier", _vllm_saved),
    _row("vllm", "config", "refuses", "a field that it needs is missing", _vllm_config),
    _row("vllm", "name", "refuses", "names of tensors that it does not know", _vllm_names),
    _row("vllm", "dropped", "differs", "copies of embedding and head are dropped", _vllm_dropped),
    _row("sglang", "kind", "refuses", "it knows LoRA alone", partial(_kind, title="SGLang")),
    _row("sglang", "variant", "refuses", "a variant that it does not have", _sglang_variants),
    _row("sglang", "target", "refuses", "modules or target_modules that it does not have", _sglang_targets),
    _row("sglang", "scale", "differs", "the scale is alpha / r, whatever the config says (issue 40835)", _sglang_scale),
    _row("sglang", "skipped", "differs", "tensors that are saved whole are skipped", _sglang_skipped),
    _row("tgi", "kind", "refuses", "it knows LoRA alone", partial(_kind, title="TGI")),
    _row("tgi", "format", "refuses", "weights that are no safetensors", _only_safetensors),
    _row("tgi", "ignored", "differs", "what it does not have is ignored", partial(_ignored, title="TGI")),
    _row("lorax", "kind", "refuses", "it knows LoRA alone", partial(_kind, title="LoRAX")),
    _row("lorax", "ignored", "differs", "what it does not have is ignored", partial(_ignored, title="LoRAX")),
    _row("llama-cpp", "name", "refuses", "tensors other than lora_A and lora_B", _llama_names),
    _row("llama-cpp", "scale", "differs", "the scale is alpha / r, whatever the config says", _llama_scale),
)
