"""Initialisations of LoRA that take something out of the base's weight, and getting it back from the base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.lora.build import Taken
from wanalyze.adapters.lora.config import HARMLESS_STARTS, LoraConfig
from wanalyze.checkpoints import AdapterFiles
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank
from wanalyze.spectra.decomposition import decompose
from wanalyze.spectra.triplets import leading_triplets
from wanalyze.spectra.values import spectra

if TYPE_CHECKING:
    from torch import Tensor

# What the adapter does not keep of initialisations that change the base.
_LOST = {
    "pissa_niter": "by singular vectors of a randomised SVD, which come out different every time",
    "corda": "by directions that depend on training data",
    "lora_ga": "by directions that depend on gradients",
    "loftq": "by quantising it",
}
# Where training tools keep a base that an initialisation changed.
_RESIDUAL = re.compile(r"(?:^|[/_-])(pissa|loftq|corda|olora)(?:[/_-]|$)", re.IGNORECASE)
_LEFT_BEHIND = {"loftq_config": "LoftQ", "corda_config": "CorDA", "lora_ga_config": "LoRA-GA"}


def _principal(base: Tensor, rank: int, scale: float) -> LowRank:  # noqa: ARG001 - peft divides by it and multiplies
    matrix = Dense(base)
    found = leading_triplets([matrix], rank, spectra([matrix]), tolerance=1e-9, together=True)[0]
    return LowRank(found.u * found.values, found.v.mT)


def _first_columns(base: Tensor, rank: int, scale: float) -> LowRank:
    """Q[:, :r] R[:r] of the QR decomposition: the projection of the base onto its first r columns."""
    q = torch.linalg.qr(base[:, :rank]).Q
    return LowRank(q, q.mT @ base, scale)


def _minor(base: Tensor, rank: int, scale: float) -> LowRank:  # noqa: ARG001 - as the others
    found = decompose(Dense(base))
    return LowRank(found.u[:, -rank:] * found.values[-rank:], found.v[:, -rank:].mT)


# Name, what it takes, and what users are told.
_STARTS: Mapping[str, tuple[str, Taken, str]] = {
    "pissa": ("PiSSA", _principal, "its first r singular components"),
    "olora": ("OLoRA", _first_columns, "the part of it in the span of its first r columns"),
    "kasa": ("KaSA", _minor, "its last r singular components"),
}


def start_of(files: AdapterFiles, config: LoraConfig) -> str | None:
    """Which of the initialisations that can be undone was used; AdapterError for one that cannot."""
    name = str(config.init_lora_weights).lower()
    if name in ("pissa", "olora"):
        _check_start(files, config, name)
        return name
    lost = next((reason for stem, reason in _LOST.items() if name.startswith(stem)), None)
    if lost is not None:
        raise AdapterError(
            f"{files.name}: init_lora_weights {name[:40]!r} changes the base {lost}, so ΔW against the original base "
            "is not in the adapter; save it with peft's path_initial_model_for_weight_conversion, or set "
            "init_lora_weights to true and compare it with the changed base it was trained on"
        )
    if name not in HARMLESS_STARTS:
        raise AdapterError(
            f"{files.name}: init_lora_weights {name[:40]!r} is not known; it may change the base, so ΔW would be wrong"
        )
    return "kasa" if config.kasa_config is not None else None


def _check_start(files: AdapterFiles, config: LoraConfig, name: str) -> None:
    if config.lora_alpha == 0:
        raise AdapterError(f"{files.name}: init_lora_weights {name!r} with lora_alpha 0 divides the base by zero")
    if config.target_parameters or config.enable_lora or config.kasa_config is not None:
        raise AdapterError(f"{files.name}: init_lora_weights {name!r} is for linear layers alone, peft has no other")
    if name == "olora" and config.fan_in_fan_out:
        raise AdapterError(
            f"{files.name}: peft's OLoRA takes the wrong sides of layers that store (in, out) (fan_in_fan_out), so its "
            "update has no meaning there"
        )


def name_of(start: str) -> str:
    return _STARTS[start][0]


def taken_by(start: str) -> Taken:
    return _STARTS[start][1]


def notes_on_base(files: AdapterFiles, config: LoraConfig, start: str | None) -> list[str]:
    """What a reader must know of the base that this adapter belongs to."""
    if start is not None:
        name, _, what = _STARTS[start]
        return [
            f"{name} takes out of the base {what} before it trains; ΔW is against the original base, up to the "
            "rounding of what was left of it"
        ]
    left = [name for field, name in _LEFT_BEHIND.items() if files.config.get(field)]
    notes = [
        f"its config mentions {name}, though not as its initialisation: right if it was converted, or is compared with "
        "the changed base it was trained on"
        for name in left
    ]
    residual = _RESIDUAL.search(config.base_model_name_or_path or "")
    if residual:
        notes.append(
            f"its base {config.base_model_name_or_path!r:.100} looks like one that {residual[1]} changed; "
            "compare it with that one"
        )
    return notes
