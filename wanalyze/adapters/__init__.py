"""What an adapter does to a weight. One file per family, one row of KINDS each; opens no files itself."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from wanalyze.adapters.adapter import Adapter, Shift, Update, rows_of
from wanalyze.adapters.boft import parse_boft
from wanalyze.adapters.circulant import parse_c3a
from wanalyze.adapters.deft import parse_deft
from wanalyze.adapters.delora import parse_delora
from wanalyze.adapters.foreign import parse_foreign, tool_of
from wanalyze.adapters.frod import parse_frod
from wanalyze.adapters.glora import parse_glora
from wanalyze.adapters.gralora import parse_gralora
from wanalyze.adapters.hira import parse_hira
from wanalyze.adapters.householder import parse_hra
from wanalyze.adapters.ia3 import parse_ia3
from wanalyze.adapters.loha import parse_loha
from wanalyze.adapters.lokr import parse_lokr
from wanalyze.adapters.lora import parse_adalora, parse_lora, parse_trainable_tokens
from wanalyze.adapters.miss import parse_bone, parse_miss
from wanalyze.adapters.mixture import Mixture
from wanalyze.adapters.norms import parse_beft, parse_ln_tuning
from wanalyze.adapters.oft import parse_oft
from wanalyze.adapters.osf import parse_osf
from wanalyze.adapters.peanut import parse_peanut
from wanalyze.adapters.psoft import parse_psoft
from wanalyze.adapters.randlora import parse_randlora
from wanalyze.adapters.road import parse_road
from wanalyze.adapters.sparse import parse_shira, parse_supertuning
from wanalyze.adapters.spectral import parse_fourierft, parse_waveft
from wanalyze.adapters.tinylora import parse_tinylora
from wanalyze.adapters.unilora import parse_unilora
from wanalyze.adapters.vblora import parse_vblora
from wanalyze.adapters.vera import parse_pvera, parse_vera
from wanalyze.checkpoints import AdapterFiles, Checkpoint
from wanalyze.errors import AdapterError

__all__ = ["KINDS", "Adapter", "Mixture", "Shift", "Update", "parse_adapter", "rows_of"]

KINDS: MappingProxyType[str, Callable[[AdapterFiles, Checkpoint | None], Adapter]] = MappingProxyType(
    {
        "LORA": parse_lora,
        "ADALORA": parse_adalora,
        "TRAINABLE_TOKENS": parse_trainable_tokens,
        "LOHA": parse_loha,
        "LOKR": parse_lokr,
        "VERA": parse_vera,
        "PVERA": parse_pvera,
        "RANDLORA": parse_randlora,
        "FOURIERFT": parse_fourierft,
        "WAVEFT": parse_waveft,
        "VBLORA": parse_vblora,
        "UNILORA": parse_unilora,
        "MISS": parse_miss,
        "BONE": parse_bone,
        "C3A": parse_c3a,
        "SHIRA": parse_shira,
        "GRALORA": parse_gralora,
        "DELORA": parse_delora,
        "TINYLORA": parse_tinylora,
        "SUPERTUNING": parse_supertuning,
        "OFT": parse_oft,
        "BOFT": parse_boft,
        "HRA": parse_hra,
        "IA3": parse_ia3,
        "LN_TUNING": parse_ln_tuning,
        "BEFT": parse_beft,
        "ROAD": parse_road,
        "HIRA": parse_hira,
        "GLORA": parse_glora,
        "OSF": parse_osf,
        "DEFT": parse_deft,
        "PSOFT": parse_psoft,
        "PEANUT": parse_peanut,
        "FROD": parse_frod,
    }
)

_WITHOUT_UPDATE = MappingProxyType(
    {
        "PROMPT_TUNING": "has no update of a weight: it learns tokens that are put before the input",
        "MULTITASK_PROMPT_TUNING": "has no update of a weight: it learns tokens for each task, put before the input",
        "P_TUNING": "has no update of a weight: a small network makes tokens that are put among the input",
        "PREFIX_TUNING": "has no update of a weight: it learns keys and values that every layer sees before its own",
        "CPT": "has no update of a weight: it learns the embeddings of a context that is put before the input",
        "CARTRIDGE": "has no update of a weight: it is a cache of keys and values",
        "ADAPTION_PROMPT": "has no update of a weight: it learns tokens that the upper layers attend to through a gate",
        "XLORA": "has no one update of a weight: a gate mixes several adapters anew for every token",
        "POLY": "has no one update of a weight: a router mixes its factors anew for every task",
        "LILY": "has no one update of a weight: a router mixes its factors anew for every input",
        "SHADOW": "has no update of a weight: it is a small model that runs beside the base",
        "ADAMSS": "cannot be rebuilt from its files: the rows that each part changes come from a clustering of the "
        "base that is not stored; merge it with peft and compare the merged model",
    }
)


def parse_adapter(files: AdapterFiles, base: Checkpoint | None = None) -> Adapter:
    """Understand an adapter by its tool, or peft's by the row of its peft_type; AdapterError for others, by name.

    Some kinds need the names or shapes of the base's weights: without a `base` they say so.
    """
    if (tool := tool_of(files)) is not None:
        return parse_foreign(files, base, tool)
    kind = files.config.get("peft_type")
    if not isinstance(kind, str):
        raise AdapterError(
            f"{files.name}: adapter_config.json has no peft_type, and its tensors are named as no known tool names them"
        )
    if kind in _WITHOUT_UPDATE:
        raise AdapterError(f"{files.name}: peft_type {kind} {_WITHOUT_UPDATE[kind]}")
    if kind not in KINDS:
        raise AdapterError(f"{files.name}: peft_type {kind[:40]} is not supported yet; known: {', '.join(KINDS)}")
    return KINDS[kind](files, base)
