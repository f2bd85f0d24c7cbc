"""The additive kinds beside LoRA against peft's merge, and in what form they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import normal, save_adapter, save_checkpoint
from tests.peft_oracle import Made, assert_as_merged, make, ours
from wanalyze.adapters import Adapter, parse_adapter
from wanalyze.checkpoints import AdapterFiles, open_source
from wanalyze.operators import Dense, Kronecker, LowRank
from wanalyze.spectra.values import spectra

LINEAR = ["up", "down", "middle"]
STORED_BOTH_WAYS = [*LINEAR, "wide", "square"]
KERNELS = ["plane", "point", "line"]
KINDS = {
    "LoHa as factors": (peft.LoHaConfig, {"r": 2, "alpha": 3}, LINEAR),
    "LoHa written out": (peft.LoHaConfig, {"r": 4, "alpha": 3}, LINEAR),
    "LoHa by module": (
        peft.LoHaConfig,
        {"r": 4, "alpha": 3, "rank_pattern": {"up": 2}, "alpha_pattern": {"do.n": 5}},
        LINEAR,
    ),
    "LoHa of kernels": (peft.LoHaConfig, {"r": 2, "alpha": 3}, KERNELS),
    "LoHa of kernels, Tucker": (peft.LoHaConfig, {"r": 2, "alpha": 3, "use_effective_conv2d": True}, KERNELS),
    "LoKr, both whole": (peft.LoKrConfig, {"r": 16, "alpha": 3}, LINEAR),
    "LoKr, second a product": (peft.LoKrConfig, {"r": 2, "alpha": 3, "decompose_factor": 2}, LINEAR),
    "LoKr, both products": (peft.LoKrConfig, {"r": 1, "alpha": 3, "decompose_both": True}, LINEAR),
    "LoKr by module": (
        peft.LoKrConfig,
        {"r": 2, "alpha": 3, "rank_pattern": {"up": 1}, "alpha_pattern": {"down": 5}},
        LINEAR,
    ),
    "LoKr of kernels": (peft.LoKrConfig, {"r": 1, "alpha": 3, "decompose_factor": 2}, KERNELS),
    "LoKr of kernels, whole": (peft.LoKrConfig, {"r": 9, "alpha": 3, "decompose_factor": 2}, KERNELS),
    "LoKr of kernels, Tucker": (
        peft.LoKrConfig,
        {"r": 1, "alpha": 3, "decompose_factor": 2, "use_effective_conv2d": True},
        ["plane", "point"],  # peft crashes on the third, a Conv1d, see below
    ),
    "VeRA": (peft.VeraConfig, {"r": 3}, LINEAR),
    "VeRA drawn again": (peft.VeraConfig, {"r": 3, "save_projection": False, "projection_prng_key": 5}, LINEAR),
    "VeRA of Conv1D": (peft.VeraConfig, {"r": 3, "fan_in_fan_out": True}, ["wide", "square"]),
    "VeRA of Conv1D drawn again": (peft.VeraConfig, {"r": 3, "save_projection": False}, ["wide", "square"]),
    "PVeRA": (peft.PveraConfig, {"r": 3}, LINEAR),
    "PVeRA drawn again": (peft.PveraConfig, {"r": 3, "save_projection": False, "projection_prng_key": 5}, LINEAR),
    "RandLoRA": (peft.RandLoraConfig, {"r": 5, "randlora_alpha": 64}, LINEAR),
    "RandLoRA, sparse": (peft.RandLoraConfig, {"r": 5, "randlora_alpha": 64, "sparse": True}, LINEAR),
    "RandLoRA of Conv1D": (peft.RandLoraConfig, {"r": 5, "randlora_alpha": 64}, ["wide", "square"]),
    "FourierFT as factors": (peft.FourierFTConfig, {"n_frequency": 2, "scaling": 110.0}, LINEAR),
    "FourierFT written out": (
        peft.FourierFTConfig,
        {"n_frequency": 20, "n_frequency_pattern": {"up": 7}, "random_loc_seed": 3},
        LINEAR,
    ),
    "FourierFT of Conv1D": (peft.FourierFTConfig, {"n_frequency": 20}, ["wide", "square"]),
    "WaveFT": (peft.WaveFTConfig, {"n_frequency": 20, "scaling": 11.0, "random_loc_seed": 3}, LINEAR),
    "WaveFT of odd sides": (peft.WaveFTConfig, {"n_frequency": 20}, ["score"]),
    "WaveFT without transform": (
        peft.WaveFTConfig,
        {"n_frequency": 20, "use_idwt": False, "wavelet_family": "db4"},
        LINEAR,
    ),
    "WaveFT in proportion": (peft.WaveFTConfig, {"n_frequency": 20, "proportional_parameters": True}, LINEAR),
    "WaveFT of Conv1D": (peft.WaveFTConfig, {"n_frequency": 20}, ["wide", "square"]),
    "VB-LoRA": (peft.VBLoRAConfig, {"r": 3, "num_vectors": 8, "vector_length": 4, "topk": 2}, LINEAR),
    "VB-LoRA, top logits": (
        peft.VBLoRAConfig,
        {"r": 3, "num_vectors": 8, "vector_length": 4, "topk": 2, "save_only_topk_weights": True},
        LINEAR,
    ),
    "VB-LoRA, top logit": (
        peft.VBLoRAConfig,
        {"r": 3, "num_vectors": 300, "vector_length": 4, "topk": 1, "save_only_topk_weights": True},
        LINEAR,
    ),
    "VB-LoRA of Conv1D": (peft.VBLoRAConfig, {"r": 3, "num_vectors": 8, "vector_length": 4}, ["wide", "square"]),
    "Uni-LoRA": (peft.UniLoraConfig, {"r": 3, "theta_d_length": 17, "save_indices": True}, LINEAR),
    "Uni-LoRA of Conv1D": (
        peft.UniLoraConfig,
        {"r": 3, "theta_d_length": 17, "save_indices": True},
        ["wide", "square"],
    ),
    "MiSS": (peft.MissConfig, {"r": 4}, LINEAR),
    "MiSS, cut off": (peft.MissConfig, {"r": 5, "init_weights": False}, LINEAR),
    "MiSS written out": (peft.MissConfig, {"r": 12}, ["up", "middle"]),
    "MiSS-mini": (peft.MissConfig, {"r": 5, "mini_r": 2, "init_weights": "mini"}, LINEAR),
    "MiSS-bat": (peft.MissConfig, {"r": 4, "init_weights": "bat"}, LINEAR),
    "C3A": (peft.C3AConfig, {"block_size": 4}, LINEAR),
    "C3A by module": (peft.C3AConfig, {"block_size": 4, "block_size_pattern": {"up": 2}}, LINEAR),
    "SHiRA": (peft.ShiraConfig, {"r": 2}, LINEAR),
    "GraLoRA": (peft.GraloraConfig, {"r": 2, "alpha": 6, "gralora_k": 2}, LINEAR),
    "GraLoRA written out": (peft.GraloraConfig, {"r": 8, "alpha": 6, "gralora_k": 4}, LINEAR),
    "GraLoRA, hybrid": (peft.GraloraConfig, {"r": 2, "alpha": 6, "gralora_k": 2, "hybrid_r": 1}, LINEAR),
    "GraLoRA of Conv1D": (peft.GraloraConfig, {"r": 4, "alpha": 6, "gralora_k": 2}, ["wide", "square"]),
    "DeLoRA": (peft.DeloraConfig, {"r": 3, "rank_pattern": {"up": 2}, "lambda_pattern": {"up": 4}}, LINEAR),
    "TinyLoRA": (peft.TinyLoraConfig, {"r": 2, "u": 3, "projection_seed": 9}, LINEAR),
    "TinyLoRA, tied": (peft.TinyLoraConfig, {"r": 2, "u": 3, "weight_tying": 0.5}, [*LINEAR, "score"]),
    "TinyLoRA, one vector": (peft.TinyLoraConfig, {"r": 2, "u": 3, "weight_tying": 1.0}, LINEAR),
    "TinyLoRA drawn again": (peft.TinyLoraConfig, {"r": 2, "u": 3, "save_projection": False}, ["up"]),
    "TinyLoRA of tokens": (peft.TinyLoraConfig, {"r": 2, "u": 3}, ["tokens", "up"]),
    "TinyLoRA of Conv1D": (peft.TinyLoraConfig, {"r": 2, "u": 3}, ["wide", "square"]),
    "Super-tuning": (peft.SupertuningConfig, {"sparsity": 0.9}, LINEAR),
    "Super-tuning with LoRA": (peft.SupertuningConfig, {"sparsity": 0.9, "r": 3, "lora_alpha": 4.0}, LINEAR),
    "Super-tuning with LoRA, alpha 2r": (peft.SupertuningConfig, {"sparsity": 0.9, "r": 3}, LINEAR),
}


@pytest.mark.filterwarnings("ignore:Specified to not save")
@pytest.mark.parametrize(("config", "options", "targets"), KINDS.values(), ids=KINDS)
def test_the_update_is_what_peft_merges(
    tmp_path: Path, config: type[peft.PeftConfig], options: dict[str, object], targets: list[str]
) -> None:
    assert_as_merged(make(tmp_path, config(target_modules=targets, **options)))


def edited(made: Made, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict, **config: object) -> Made:
    """The same adapter with other tensors or fields."""
    weights, fields = made.folder / "adapter_model.safetensors", made.folder / "adapter_config.json"
    save_file(change(load_file(weights)), weights)
    fields.write_text(json.dumps(json.loads(fields.read_text()) | config))
    return made


def made_of(tmp_path: Path, name: str) -> Made:
    config, options, targets = KINDS[name]
    return make(tmp_path, config(target_modules=targets, **options))


SCALES = {
    "LoHa as factors": ("alpha", 6, 2),
    "LoKr, both whole": ("alpha", 6, 2),
    "LoKr of kernels": ("alpha", 6, 2),
    "RandLoRA": ("randlora_alpha", 128, 2),
    "FourierFT as factors": ("scaling", 220.0, 2),
    "WaveFT": ("scaling", 33.0, 3),
    "WaveFT without transform": ("scaling", 50.0, 2),
    "GraLoRA": ("alpha", 18, 3),
}


@pytest.mark.parametrize(("name", "change"), SCALES.items(), ids=SCALES)
def test_the_scale_is_that_of_the_config(tmp_path: Path, name: str, change: tuple[str, float, float]) -> None:
    field, value, factor = change
    made = made_of(tmp_path, name)
    before = ours(made)
    after = ours(edited(made, **{field: value}))
    for target, delta in before.items():
        assert torch.allclose(after[target], factor * delta, rtol=1e-12)


SEEDS = {
    "FourierFT as factors": "random_loc_seed",
    "WaveFT": "random_loc_seed",
    "VeRA drawn again": "projection_prng_key",
    "PVeRA drawn again": "projection_prng_key",
}


@pytest.mark.filterwarnings("ignore:Specified to not save")
@pytest.mark.parametrize(("name", "field"), SEEDS.items(), ids=SEEDS)
def test_another_seed_is_another_update(tmp_path: Path, name: str, field: str) -> None:
    made = made_of(tmp_path, name)
    before, after = ours(made), ours(edited(made, **{field: 1234}))
    assert all((after[target] - delta).norm() > 0.5 * delta.norm() for target, delta in before.items())


@pytest.mark.filterwarnings("ignore:Specified to not save")
@pytest.mark.parametrize("name", KINDS)
def test_sixteen_bits_on_disk_only_round_the_tensors(tmp_path: Path, name: str) -> None:
    def rounded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.bfloat16().float() if t.is_floating_point() else t for name, t in tensors.items()}

    def narrow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}

    made = made_of(tmp_path, name)
    wide, half = ours(edited(made, rounded)), ours(edited(made, narrow))
    assert wide.keys() == half.keys()
    assert all(torch.equal(wide[target], half[target]) for target in wide)


@pytest.mark.filterwarnings("ignore:Specified to not save")
@pytest.mark.parametrize("name", KINDS)
def test_what_needs_no_base_can_be_told_without_one(tmp_path: Path, name: str) -> None:
    made = made_of(tmp_path, name)
    adapter = alone(made.folder)
    assert {update.target for update in adapter.updates} == set(made.deltas)
    assert adapter.facts["modules"] == len(made.deltas)
    for update in adapter.updates:
        assert (update.shape is None) <= update.needs_base
        if not update.needs_base:
            assert update.read().shape == update.shape


def alone(folder: Path) -> Adapter:
    source = open_source(folder)
    assert isinstance(source, AdapterFiles)
    return parse_adapter(source)


FORMS = {
    "LoHa as factors": (LowRank, {4}, "LoHa r=2"),
    "LoHa by module": (None, {4, None}, "LoHa r=2–4"),
    "LoHa written out": (Dense, {None}, "LoHa r=4"),
    "LoKr, both whole": (Kronecker, {None}, "LoKr"),
    "LoKr of kernels, whole": (None, {None}, "LoKr"),
    "VeRA": (LowRank, {3}, "VeRA r=3"),
    "PVeRA": (LowRank, {3}, "PVeRA r=3"),
    "RandLoRA": (Dense, {None}, "RandLoRA"),
    "FourierFT as factors": (LowRank, {None}, "FourierFT (2 coefficients)"),
    "FourierFT written out": (None, {None}, "FourierFT (7–20 coefficients)"),
    "WaveFT": (Dense, {None}, "WaveFT (20 coefficients)"),
    "VB-LoRA": (LowRank, {3}, "VB-LoRA r=3"),
    "Uni-LoRA": (LowRank, {3}, "Uni-LoRA r=3"),
    "MiSS": (LowRank, {4}, "MiSS r=4"),
    "MiSS written out": (Dense, {12}, "MiSS r=12"),
    "MiSS-mini": (LowRank, {2}, "MiSS r=5"),
    "MiSS-bat": (Dense, {None}, "MiSS-bat (blocks of 4)"),
    "C3A": (Dense, {None}, "C3A (blocks of 4)"),
    "SHiRA": (Dense, {None}, "SHiRA"),
    "GraLoRA": (LowRank, {4}, "GraLoRA r=2 (2 x 2 blocks)"),
    "GraLoRA, hybrid": (LowRank, {5}, "GraLoRA r=2 (2 x 2 blocks)"),
    "GraLoRA written out": (Dense, {None}, "GraLoRA r=8 (4 x 4 blocks)"),
    "DeLoRA": (LowRank, {2, 3}, "DeLoRA r=2–3"),
    "TinyLoRA": (LowRank, {2}, "TinyLoRA r=2"),
    "Super-tuning with LoRA": (Dense, {None}, "Super-tuning + LoRA r=3"),
}


@pytest.mark.parametrize(("name", "form"), FORMS.items(), ids=FORMS)
def test_a_structured_update_keeps_its_structure_and_its_rank(
    tmp_path: Path, name: str, form: tuple[type | None, set[int | None], str]
) -> None:
    operator, ranks, method = form
    made = made_of(tmp_path, name)
    adapter = made.adapter()
    assert adapter.method == method
    assert {update.rank for update in adapter.updates} == ranks
    for update in adapter.updates:
        base = made.before[update.target]
        found = update.read(base.reshape(len(base), -1))
        assert operator is None or isinstance(found, operator)
        if update.rank is not None:
            assert torch.linalg.matrix_rank(made.deltas[update.target], rtol=1e-5) <= update.rank


def test_the_spectrum_of_a_kronecker_product_is_that_of_its_matrix(tmp_path: Path) -> None:
    made = made_of(tmp_path, "LoKr, second a product")
    for update in made.adapter().updates:
        (found,) = spectra([update.read()])
        expected = torch.linalg.svdvals(made.deltas[update.target])
        assert torch.allclose(found.values, expected, atol=1e-6 * expected[0].item())


def test_a_tucker_kernel_of_one_side_is_the_kronecker_product_that_was_meant(tmp_path: Path) -> None:
    # peft 0.21 cannot train or merge it: torch.kron refuses the strides of its second factor.
    core, a, b, first = normal(2, 2, 5, 1), normal(2, 3, seed=1), normal(2, 4, seed=2), normal(2, 3, seed=3)
    tensors = {"lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_w1": first}
    save_adapter(
        tmp_path / "a", {f"base_model.model.m.{n}": t for n, t in tensors.items()}, peft_type="LOKR", r=2, alpha=6
    )
    (update,) = alone(tmp_path / "a").updates
    second = torch.einsum("ijkl,ip,jr->prkl", *(t.double() for t in (core, a, b)))
    expected = torch.stack([3 * torch.kron(first.double(), second[:, :, k, 0]) for k in range(5)], -1)
    assert update.shape == (6, 60)
    assert torch.allclose(update.read().dense(), expected.flatten(1))


@pytest.mark.parametrize(("form", "shape"), [(True, (4, 20)), ("bat", (5, 4, 4))])
def test_a_bone_adapter_is_what_peft_0_17_merged(tmp_path: Path, form: object, shape: tuple[int, ...]) -> None:
    # Its class is gone from peft, so the two merges of 0.17.1 are written out.
    block, weight = normal(*shape).double(), normal(20, 12, seed=1).double()
    tensors = {"base_model.model.m.bone_block": block.float()}
    save_adapter(tmp_path / "a", tensors, peft_type="BONE", r=4, init_weights=form)
    (update,) = alone(tmp_path / "a").updates
    if form == "bat":
        tiles = weight.reshape(5, 4, 3, 4).permute(2, 0, 1, 3)
        expected = (tiles @ block + block).permute(1, 2, 0, 3).reshape(20, 12)
    else:
        tiles = torch.zeros(20, 3, 4, dtype=torch.float64).permute(1, 2, 0)
        expected = (tiles + block).permute(2, 0, 1).reshape(20, 12)
    assert torch.allclose(update.read(weight).dense(), expected, atol=1e-6)


def test_super_tuning_that_tells_no_alpha_has_that_of_peft(tmp_path: Path) -> None:
    made = made_of(tmp_path, "Super-tuning with LoRA, alpha 2r")
    assert_as_merged(edited(made, lora_alpha=None))


@pytest.mark.filterwarnings("ignore:Specified to not save")
def test_projections_are_drawn_for_the_base_by_whatever_prefix_its_names_have(tmp_path: Path) -> None:
    made = made_of(tmp_path, "VeRA drawn again")
    before = ours(made)
    save_checkpoint(made.base, {f"model.{name}": tensor for name, tensor in made.before.items()})
    after = ours(made)
    assert all(torch.equal(after[target], delta) for target, delta in before.items())


def test_a_sampled_update_is_its_mean_and_says_so(tmp_path: Path) -> None:
    made = make(tmp_path, peft.PveraConfig(target_modules=["up"], r=3, sample_at_inference=True))
    assert_as_merged(made)
    assert "this is the mean" in made.adapter().notes[0]
