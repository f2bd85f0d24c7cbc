"""What the kinds that depend on the base refuse: contradictions of config and tensors, and another base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import wanalyze
from tests.conftest import normal, save_adapter
from tests.test_multiplicative_kinds import opened
from wanalyze.errors import AdapterError, NumericsError

X = normal(4, 6)
CONTRADICTIONS: dict[str, tuple[dict[str, Tensor], dict[str, object], str]] = {
    "OFT of no square": ({"up.oft_R.weight": normal(3, 5)}, {"peft_type": "OFT"}, "5 entries a block"),
    "OFT not shared": ({"up.oft_R.weight": normal(3, 6)}, {"peft_type": "OFT", "block_share": True}, "blocks is 1"),
    "OFT of two versions": ({"up.oft_R.weight": X, "up.oft_r": X + 1}, {"peft_type": "OFT"}, "OFT has one of"),
    "OFT with another r": ({"up.oft_r": normal(3, 5, 5)}, {"peft_type": "OFT", "r": 4}, "blocks is 4"),
    "OFT, a long series": (
        {"up.oft_R.weight": X},
        {"peft_type": "OFT", "num_cayley_neumann_terms": 10**9},
        "less than or equal to 64",
    ),
    "OFT, eps": ({"up.oft_R.weight": X}, {"peft_type": "OFT", "eps": "inf"}, "eps is 'inf'"),
    "BOFT without s": ({"up.boft_R": normal(1, 3, 4, 4)}, {"peft_type": "BOFT"}, "no boft_s"),
    "BOFT of other blocks": (
        {"up.boft_R": normal(1, 3, 4, 4), "up.boft_s": normal(20, 1)},
        {"peft_type": "BOFT", "boft_block_size": 8},
        "boft_block_size",
    ),
    "BOFT, no butterfly": (
        {"up.boft_R": normal(2, 3, 4, 4), "up.boft_s": normal(20, 1)},
        {"peft_type": "BOFT"},
        "no butterfly connects",
    ),
    "HRA of another r": ({"up.hra_u": normal(12, 4)}, {"peft_type": "HRA", "r": 3}, "r is 3"),
    "IA3, the wrong side": (
        {"up.ia3_l": normal(12, 1)},
        {"peft_type": "IA3", "feedforward_modules": ["up"]},
        "it scales inputs",
    ),
    "IA3, a runaway pattern": (
        {"up.ia3_l": normal(12, 1)},
        {"peft_type": "IA3", "feedforward_modules": "(a+)+"},
        "without end",
    ),
    "RoAd of half a group": (
        {"up.road_theta": normal(10), "up.road_alpha": normal(10)},
        {"peft_type": "ROAD", "group_size": 16},
        "no whole groups",
    ),
    "RoAd of another variant": ({"up.road_theta": X}, {"peft_type": "ROAD", "variant": "road_3"}, "variant"),
    "HiRA of another r": (
        {"up.hira_A": normal(3, 12), "up.hira_B": normal(20, 3)},
        {"peft_type": "HIRA", "r": 2},
        "has 3 by its tensors",
    ),
    "HiRA, A and B swapped": (
        {"up.hira_A": normal(20, 3), "up.hira_B": normal(3, 12)},
        {"peft_type": "HIRA", "r": 3},
        "one must be mended",
    ),
    "GLoRA of another path": (
        {"up.glora_A.X": normal(20, 1), "up.glora_B.X": normal(20, 1)},
        {"peft_type": "GLORA", "r": 3},
        "no A.Xd",
    ),
    "OSF of another rank": (
        {
            "up.osf_svd_params.U_low": normal(20, 3),
            "up.osf_svd_params.S_low": normal(3),
            "up.osf_svd_params.V_low": normal(3, 12),
        },
        {"peft_type": "OSF"},
        "effective_rank",
    ),
    "OSF of too many": (
        {
            "up.osf_svd_params.U_low": normal(20, 30),
            "up.osf_svd_params.S_low": normal(30),
            "up.osf_svd_params.V_low": normal(30, 12),
        },
        {"peft_type": "OSF", "rank_pattern": {"up": 2}},
        "effective_rank",
    ),
    "DEFT without R": ({"up.deft_P": normal(20, 3)}, {"peft_type": "DEFT", "r": 3}, "no deft_R"),
    "PaRa with R": (
        {"up.deft_P": normal(20, 3), "up.deft_R": normal(3, 12)},
        {"peft_type": "DEFT", "r": 3, "para": True},
        "only one form",
    ),
    "PSOFT by chance": ({"up.psoft_R.weight": normal(10)}, {"peft_type": "PSOFT", "psoft_svd": "lowrank"}, "by chance"),
    "PSOFT of another r": (
        {"up.psoft_R.weight": normal(10), "up.psoft_R.vector_a": normal(5), "up.psoft_R.vector_b": normal(5)},
        {"peft_type": "PSOFT", "r": 4},
        "entries is 6",
    ),
    "PEANuT of an unknown activation": ({"up.peanut_A.weight": X}, {"peft_type": "PEANUT", "act_fn": "prelu"}, "prelu"),
    "PEANuT, deeper than said": (
        {"up.peanut_A.weight": normal(3, 20), "up.peanut_encoders.0.weight": normal(3, 3)},
        {"peft_type": "PEANUT", "r": 3},
        "no part of PEANuT",
    ),
    "FRoD without projections": (
        {"up.frod_lambda_l": normal(12), "up.frod_lambda_s_values": normal(3)},
        {"peft_type": "FROD"},
        "projections were not saved",
    ),
    "BEFT, a matrix": ({"up.beft_bias": normal(20, 2)}, {"peft_type": "BEFT"}, "one is 1"),
    "LN tuning, gathered badly": ({"norm.ln_tuning_layers.weight": torch.zeros(0)}, {"peft_type": "LN_TUNING"}, "ZeRO"),
}


@pytest.mark.parametrize(("tensors", "config", "rule"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, object], rule: str
) -> None:
    with pytest.raises(AdapterError, match=rule.replace("(", r"\(")):
        opened(tmp_path, tensors, {"up.weight": normal(20, 12)}, **config)


OTHER_BASES: dict[str, tuple[dict[str, Tensor], dict[str, object]]] = {
    "OFT": ({"up.oft_R.weight": normal(4, 6)}, {"peft_type": "OFT"}),
    "OFT, shared": ({"up.oft_R.weight": normal(1, 10)}, {"peft_type": "OFT", "block_share": True}),
    "OFT of 0.13": ({"up.oft_r": normal(1, 1, 1)}, {"peft_type": "OFT", "block_share": True, "r": 7}),
    "BOFT": ({"up.boft_R": normal(1, 3, 4, 4), "up.boft_s": normal(18, 1)}, {"peft_type": "BOFT"}),
    "HRA": ({"up.hra_u": normal(20, 4)}, {"peft_type": "HRA", "r": 4}),
    "IA3": ({"up.ia3_l": normal(12, 1)}, {"peft_type": "IA3"}),
    "RoAd": ({"up.road_theta": normal(6), "up.road_alpha": normal(6)}, {"peft_type": "ROAD", "group_size": 4}),
    "HiRA": ({"up.hira_A": normal(3, 20), "up.hira_B": normal(12, 3)}, {"peft_type": "HIRA", "r": 3}),
    "DEFT": ({"up.deft_P": normal(12, 3), "up.deft_R": normal(3, 20)}, {"peft_type": "DEFT", "r": 3}),
    "PEANuT": (
        {"up.peanut_A.weight": normal(3, 12), "up.peanut_B.weight": normal(12, 3)},
        {"peft_type": "PEANUT", "r": 3},
    ),
    "PSOFT": (
        {"up.psoft_R.weight": normal(15, 15)},
        {"peft_type": "PSOFT", "r": 15, "psoft_orth": False, "psoft_mag_a": False, "psoft_mag_b": False},
    ),
}


@pytest.mark.parametrize(("tensors", "config"), OTHER_BASES.values(), ids=OTHER_BASES)
def test_another_base_is_refused(tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    weight = normal(20, 12)
    [update] = opened(tmp_path, tensors, {"up.weight": weight}, **config).updates
    with pytest.raises(AdapterError, match="is this its base"):
        update.read(weight)


def test_what_is_not_finite_is_one_module_lost(tmp_path: Path) -> None:
    tensors = {"up.oft_R.weight": torch.full((3, 6), torch.nan)}
    [update] = opened(tmp_path, tensors, {"up.weight": normal(20, 12)}, peft_type="OFT").updates
    with pytest.raises(NumericsError, match="oft_R holds NaN"):
        update.read(normal(20, 12))


def test_they_are_read_without_a_base(tmp_path: Path) -> None:
    for kind, (tensors, config) in OTHER_BASES.items():
        saved = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
        adapter = wanalyze.open_adapter(
            save_adapter(tmp_path / kind, saved, **{"r": None, "lora_alpha": None, **config})
        )
        with pytest.raises(AdapterError, match="compare it with its base"):
            adapter.updates[0].read()
