"""The kinds that depend on the base against peft's merge."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners.boft import layer as boft_layer
from peft.tuners.osf.utils import decompose_weight_matrix
from torch import Tensor, nn
from transformers.activations import ACT2FN

import wanalyze
from tests.conftest import normal, save_adapter, save_checkpoint
from tests.peft_oracle import Toy, assert_as_merged, make, ours
from wanalyze.adapters import Adapter, parse_adapter
from wanalyze.adapters.peanut import ACTIVATIONS
from wanalyze.checkpoints import AdapterFiles, open_source
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank, Scaled
from wanalyze.result import Status

LINEAR = ["up", "down", "middle"]
KERNELS = ["plane", "point"]
KINDS = {
    "OFT, exact": (peft.OFTConfig, {"oft_block_size": 4, "use_cayley_neumann": False}, LINEAR),
    "OFT, five terms": (peft.OFTConfig, {"oft_block_size": 4}, LINEAR),
    "OFT, two terms": (peft.OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 2}, LINEAR),
    "OFT, three terms": (peft.OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 3}, LINEAR),
    "OFT, seven terms": (peft.OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 7}, LINEAR),
    "OFT by number of blocks": (peft.OFTConfig, {"r": 4, "oft_block_size": 0}, LINEAR),
    "OFT, one block shared": (peft.OFTConfig, {"oft_block_size": 4, "block_share": True}, LINEAR),
    "OFT, adjusted blocks": (peft.OFTConfig, {"oft_block_size": 7}, LINEAR),
    "OFT, constrained": (peft.OFTConfig, {"oft_block_size": 4, "coft": True, "eps": 0.1}, LINEAR),
    "OFT of kernels": (peft.OFTConfig, {"oft_block_size": 4}, KERNELS),
    "OFT of tokens": (peft.OFTConfig, {"oft_block_size": 4}, ["tokens", "up"]),
    "BOFT": (peft.BOFTConfig, {"boft_block_size": 4}, LINEAR),
    "BOFT by number of blocks": (peft.BOFTConfig, {"boft_block_size": 0, "boft_block_num": 2}, LINEAR),
    "BOFT of kernels": (peft.BOFTConfig, {"boft_block_size": 4}, KERNELS),
    "HRA": (peft.HRAConfig, {"r": 4}, LINEAR),
    "HRA, odd": (peft.HRAConfig, {"r": 3}, LINEAR),
    "HRA written out": (peft.HRAConfig, {"r": 13}, LINEAR),
    "HRA, orthogonal": (peft.HRAConfig, {"r": 4, "apply_GS": True}, LINEAR),
    "HRA of kernels": (peft.HRAConfig, {"r": 3}, KERNELS),
    "IA3": (peft.IA3Config, {"feedforward_modules": ["down"]}, LINEAR),
    "IA3 by a pattern": (peft.IA3Config, {"feedforward_modules": ".*ow.*"}, LINEAR),
    "IA3 of Conv1D": (peft.IA3Config, {"feedforward_modules": ["wide"]}, ["wide", "square"]),
    "IA3 of kernels": (peft.IA3Config, {"feedforward_modules": ["plane"]}, [*KERNELS, "space"]),
    "RoAd 1": (peft.RoadConfig, {"group_size": 4}, LINEAR),
    "RoAd 2": (peft.RoadConfig, {"group_size": 4, "variant": "road_2"}, LINEAR),
    "RoAd 4": (peft.RoadConfig, {"group_size": 4, "variant": "road_4"}, LINEAR),
    "HiRA": (peft.HiraConfig, {"r": 3, "rank_pattern": {"up": 2}}, LINEAR),
    "HiRA of kernels": (peft.HiraConfig, {"r": 3}, [*KERNELS, "line", "space"]),
    "HiRA of tokens": (peft.HiraConfig, {"r": 3}, ["tokens", "up"]),
    "HiRA of Conv1D": (peft.HiraConfig, {"r": 3}, ["wide", "square"]),
    "GLoRA": (peft.GloraConfig, {"r": 3}, LINEAR),
    "GLoRA, vectors": (peft.GloraConfig, {"r": 3, "config_A_B": "vector", "config_C": "vector"}, LINEAR),
    "GLoRA, constants": (peft.GloraConfig, {"r": 3, "config_A_B": "constant", "config_D_E": "vector"}, LINEAR),
    "OSF": (peft.OSFConfig, {}, LINEAR),
    "OSF, few triplets": (peft.OSFConfig, {"effective_rank": 10}, LINEAR),
    "OSF, in proportion": (peft.OSFConfig, {"effective_rank": 0.8, "rank_pattern": {"up": 4}}, LINEAR),
    "DEFT": (peft.DeftConfig, {"r": 3}, LINEAR),
    "DEFT, scaled": (peft.DeftConfig, {"r": 3, "alpha": 5, "decomposition_method": "qr"}, LINEAR),
    "PaRa": (peft.DeftConfig, {"r": 3, "para": True}, LINEAR),
    "PaRa, orthogonal": (peft.DeftConfig, {"r": 3, "para": True, "decomposition_method": "qr"}, LINEAR),
    "DEFT of Conv1D": (peft.DeftConfig, {"r": 3}, ["wide", "square"]),
    "PEANuT": (peft.PeanutConfig, {"r": 3, "scaling": 0.3}, LINEAR),
    "PEANuT, one layer deep": (peft.PeanutConfig, {"r": 3, "depth": 1, "act_fn": "silu"}, LINEAR),
    "PEANuT, three layers deep": (peft.PeanutConfig, {"r": 3, "depth": 3, "act_fn": "tanh"}, LINEAR),
    "FRoD": (peft.FrodConfig, {"sparse_rate": 0.1, "progressbar": False}, LINEAR),
    "FRoD of Conv1D": (peft.FrodConfig, {"sparse_rate": 0.1, "progressbar": False}, ["wide", "square"]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("config", "options", "targets"), KINDS.values(), ids=KINDS)
def test_the_update_is_what_peft_merges(
    tmp_path: Path, config: type[peft.PeftConfig], options: dict[str, object], targets: list[str]
) -> None:
    assert_as_merged(make(tmp_path, config(target_modules=targets, **options)))


BIASES = {
    "IA3": (peft.IA3Config, {"feedforward_modules": ["down"]}, [*LINEAR, "plane"]),
    "RoAd": (peft.RoadConfig, {"group_size": 4, "variant": "road_4"}, LINEAR),
    "GLoRA": (peft.GloraConfig, {"r": 3}, LINEAR),
    "GLoRA, vectors": (peft.GloraConfig, {"config_A_B": "none", "config_C": "vector", "config_D_E": "vector"}, LINEAR),
    "GLoRA, D and E alone": (peft.GloraConfig, {"config_C": "none"}, LINEAR),
    "GLoRA, C alone": (peft.GloraConfig, {"r": 3, "config_D_E": "none"}, LINEAR),
    "BEFT": (peft.BeftConfig, {}, LINEAR),
}


@pytest.mark.parametrize(("config", "options", "targets"), BIASES.values(), ids=BIASES)
def test_biases_become_what_peft_merges(
    tmp_path: Path, config: type[peft.PeftConfig], options: dict[str, object], targets: list[str]
) -> None:
    made = make(tmp_path, config(target_modules=targets, **options))
    shifts = {shift.target: shift.read(made.before[shift.target]) for shift in made.adapter().shifts}
    moved = {name: delta for name, delta in made.deltas.items() if name.endswith("bias")}
    assert shifts.keys() == moved.keys()
    assert moved
    for name, delta in moved.items():
        torch.testing.assert_close(shifts[name], made.before[name] + delta, rtol=1e-6, atol=1e-9)


def test_tuned_norms_are_saved_whole(tmp_path: Path) -> None:
    made = make(tmp_path, peft.LNTuningConfig(target_modules=["norm"]))
    adapter = made.adapter()
    assert adapter.replaced.keys() == made.deltas.keys() == {"norm.weight", "norm.bias"}
    assert not adapter.updates
    for name, entry in adapter.replaced.items():
        torch.testing.assert_close(entry.read() - made.before[name], made.deltas[name])


# Peft makes PSOFT of no float64 and works in float32; what it rounds is small against W, not against ΔW.
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"psoft_alpha": 8, "ab_svd_init": "pissa_init"},
        {"psoft_mag_a": False},
        {"psoft_mag_b": False, "use_cayley_neumann": True, "num_cayley_neumann_terms": 4},
        {"use_cayley_neumann": True, "cayley_neumann_eps": 0.05},
        {"psoft_orth": False},
    ],
)
def test_psoft_is_what_peft_merges(tmp_path: Path, options: dict[str, object]) -> None:
    config = peft.PsoftConfig(r=5, target_modules=LINEAR, **options)
    assert_as_merged(make(tmp_path, config, dtype=torch.float32, noise=0.2), rtol=5e-6)


def test_the_spectrum_of_psoft_does_not_depend_on_signs_that_are_not_stored(tmp_path: Path) -> None:
    made = make(tmp_path, peft.PsoftConfig(r=5, target_modules=["up"]), dtype=torch.float32, noise=0.2)
    [update] = made.adapter().updates
    weight = made.before["up.weight"].double()
    delta = update.read(weight).dense()
    u, _, v = torch.linalg.svd(weight, full_matrices=False)
    mixing = u[:, :5].mT @ delta @ v[:5].mT  # S (R − I)
    flipped = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    other = u[:, :5] * flipped @ mixing * flipped @ v[:5]
    assert torch.dist(other, delta) > 0.1 * delta.norm()
    for matrix in (delta, weight + delta):
        turned = other + (matrix - delta)
        torch.testing.assert_close(torch.linalg.svdvals(turned), torch.linalg.svdvals(matrix), rtol=1e-5, atol=1e-9)


class Blocks:
    """What BOFT's CUDA extension computes, without which peft makes one factor of any number."""

    def forward(self, blocks: Tensor) -> list[Tensor]:
        return [torch.stack([torch.block_diag(*one) for one in blocks])]


@pytest.mark.parametrize(("factors", "size"), [(2, 2), (2, 6), (3, 2)])
def test_butterflies_are_what_peft_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factors: int, size: int
) -> None:
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", Blocks)

    def model() -> nn.Module:
        start = Toy()
        start.up = nn.Linear(24, 20)
        return start

    config = peft.BOFTConfig(target_modules=["up"], boft_block_size=size, boft_n_butterfly_factor=factors)
    made = make(tmp_path, config, model=model, noise=0.5)
    assert made.adapter().updates[0].parts["boft_R"].shape[0] == factors
    assert_as_merged(made)


def opened(tmp_path: Path, tensors: dict[str, Tensor], base: dict[str, Tensor], **config: object) -> Adapter:
    """An adapter made up by hand, beside a base."""
    saved = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    source = open_source(save_adapter(tmp_path / "adapter", saved, **{"r": None, "lora_alpha": None, **config}))
    assert isinstance(source, AdapterFiles)
    return parse_adapter(source, wanalyze.open_checkpoint(save_checkpoint(tmp_path / "base", base)))


def delta_of(tmp_path: Path, tensors: dict[str, Tensor], weight: Tensor, **config: object) -> Tensor:
    [update] = opened(tmp_path, tensors, {"up.weight": weight}, **config).updates
    return update.read(weight).dense()


def rotation(matrix: Tensor) -> Tensor:
    skew, identity = (matrix - matrix.mT) / 2, torch.eye(len(matrix), dtype=torch.float64)
    return (identity - skew) @ torch.linalg.inv(identity + skew)


def shrunk(blocks: Tensor, eps: float) -> Tensor:
    return torch.stack([block * min(1.0, eps / len(blocks) ** 0.5 / block.norm().item()) for block in blocks])


@pytest.mark.parametrize("options", [{}, {"block_share": True}, {"coft": True, "eps": 0.01}])
@pytest.mark.parametrize("out", [20, 18])
def test_oft_up_to_0_13_turns_the_outputs(tmp_path: Path, options: dict[str, object], out: int) -> None:
    """As OFTLayer.merge of peft 0.13.2 computes it; later versions cannot load these files."""
    shared = "block_share" in options
    weight, r = normal(out, 12, dtype=torch.float64), normal(1 if shared else 4, 5, 5, seed=1, dtype=torch.float64)
    used = shrunk(r, 0.01 * 5 * 5) if "coft" in options else r
    whole = torch.block_diag(*(rotation(block) for block in (used.expand(4, 5, 5) if shared else used)))[:out, :out]
    found = delta_of(tmp_path, {"up.oft_r": r}, weight, peft_type="OFT", **{"r": 4, **options})
    torch.testing.assert_close(found, (weight.mT @ whole).mT - weight)


@pytest.mark.parametrize("options", [{}, {"block_share": True}, {"coft": True, "eps": 0.01}])
def test_oft_0_14_and_0_15_turns_the_inputs_and_scales_the_outputs(tmp_path: Path, options: dict[str, object]) -> None:
    """As Linear.merge of peft 0.15.2 computes it; later versions cannot load these files."""
    shared = "block_share" in options
    weight, r = normal(20, 12, dtype=torch.float64), normal(1 if shared else 4, 3, 3, seed=1, dtype=torch.float64)
    s = normal(20, 1, seed=2, dtype=torch.float64)
    used = shrunk(r, 0.01 * 5 * 5) if "coft" in options else r
    whole = torch.block_diag(*(rotation(block) for block in (used.expand(4, 3, 3) if shared else used)))
    tensors = {"up.oft_r": r, "up.oft_s": s}
    found = delta_of(tmp_path, tensors, weight, peft_type="OFT", **{"r": 4, "oft_block_size": 0, **options})
    torch.testing.assert_close(found, (whole @ weight.mT).mT * s - weight)


@pytest.mark.parametrize(("version", "last"), [(None, 2.0), ("0.17.1", 2.0), ("0.18.0", 1.0), ("0.21.2.dev0@abc", 1.0)])
def test_the_series_of_oft_ends_as_in_the_version_that_trained_it(
    tmp_path: Path, version: str | None, last: float
) -> None:
    weight, vectors = normal(20, 12, dtype=torch.float64), 0.2 * normal(3, 6, seed=1, dtype=torch.float64)
    blocks = []
    for vector in vectors:
        q = torch.zeros(4, 4, dtype=torch.float64)
        q[[0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3]] = vector
        q = q - q.mT
        blocks.append(torch.eye(4) + 2 * q + 2 * q @ q + 2 * q @ q @ q + last * q @ q @ q @ q)
    found = delta_of(tmp_path, {"up.oft_R.weight": vectors}, weight, peft_type="OFT", r=0, peft_version=version)
    torch.testing.assert_close(found, weight @ torch.block_diag(*blocks).mT - weight)


@pytest.mark.parametrize("kernel", [(), (3, 2)], ids=["a grouped linear layer is none", "a grouped kernel"])
def test_ia3_scales_the_inputs_of_each_group(tmp_path: Path, kernel: tuple[int, ...]) -> None:
    weight, factors = normal(8, 3, *kernel, dtype=torch.float64), normal(1, 6, *(1 for _ in kernel), seed=1).double()
    adapter = opened(
        tmp_path, {"up.ia3_l": factors}, {"up.weight": weight}, peft_type="IA3", feedforward_modules=["up"]
    )
    if not kernel:
        with pytest.raises(AdapterError, match="6 inputs"):
            adapter.updates[0].read(weight)
        return
    expected = torch.cat([weight[:4] * (factors[:, :3] - 1), weight[4:] * (factors[:, 3:] - 1)])
    found = adapter.updates[0].read(weight.flatten(1)).dense()
    torch.testing.assert_close(found, expected.flatten(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_osf_untrained_changes_nothing_in_any_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    """What peft subtracts is rounded to the dtype of the base, as what it started from."""
    weight = normal(20, 12).to(dtype)
    start = decompose_weight_matrix(weight, 4)
    tensors = {f"up.osf_svd_params.{name}": start[name].detach().float() for name in ("U_low", "S_low", "V_low")}
    assert delta_of(tmp_path, tensors, weight, peft_type="OSF", effective_rank=4).norm() < 1e-13


class Half(Toy):
    def double(self) -> Half:
        return self.bfloat16()


def test_frod_keeps_the_base_in_its_dtype(tmp_path: Path) -> None:
    """Its U follows from W and V and is rounded as W is: at 16 bits that is a part of what the model became."""
    held: list[Tensor] = []

    def keep(tuned: nn.Module) -> None:
        layer = tuned.base_model.model.up
        u, v = layer.frod_U["default"].double(), layer.frod_V["default"].double()
        middle = layer.frod_lambda_l["default"].detach().double().diag()
        middle[tuple(layer.frod_s_indices["default"])] = layer.frod_lambda_s_values["default"].detach().double()
        held.append(u @ middle @ v.mT)

    config = peft.FrodConfig(target_modules=["up"], sparse_rate=0.1, progressbar=False)
    made = make(tmp_path, config, model=Half, merge=False, change=keep)
    expected = held[0] - made.before["up.weight"].double()
    torch.testing.assert_close(ours(made)["up.weight"], expected, rtol=1e-6, atol=1e-9)


FORMS = {
    "OFT": (Dense, None),
    "HRA": (LowRank, 4),
    "HRA, orthogonal": (LowRank, 4),
    "HRA written out": (Dense, 13),
    "IA3": (Scaled, None),
    "RoAd 1": (Dense, None),
    "HiRA": (Dense, None),
    "GLoRA": (Dense, None),
    "OSF": (Dense, None),
    "OSF, few triplets": (LowRank, 4),
    "DEFT": (LowRank, 3),
    "PaRa": (LowRank, 3),
    "PEANuT": (LowRank, 3),
    "FRoD": (Dense, None),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "form"), FORMS.items(), ids=FORMS)
def test_a_rank_is_promised_where_the_maths_keeps_it(tmp_path: Path, kind: str, form: tuple[type, int | None]) -> None:
    config, options, _ = KINDS[kind if kind in KINDS else f"{kind}, exact"]
    made = make(tmp_path, config(target_modules=LINEAR, **options), merge=False)
    update = next(update for update in made.adapter().updates if update.module == "up")
    found = update.read(made.before["up.weight"])
    assert (type(found), update.rank) == form
    assert update.needs_base
    if update.rank is not None:
        assert int(torch.linalg.matrix_rank(found.dense(), rtol=1e-9)) <= update.rank


FIELDS = {
    "OFT, five terms": {"use_cayley_neumann": False, "num_cayley_neumann_terms": 4, "coft": True},
    "OFT, constrained": {"coft": False, "eps": 0.2},
    "HRA": {"apply_GS": True},
    "RoAd 1": {"group_size": 2},
    "RoAd 2": {"group_size": 2},
    "DEFT": {"decomposition_method": "qr", "alpha": 2},
    "PEANuT": {"act_fn": "tanh", "scaling": 0.2},
}


@pytest.mark.parametrize(
    ("kind", "field", "value"), [(kind, *item) for kind, fields in FIELDS.items() for item in fields.items()]
)
def test_each_field_of_the_config_counts(tmp_path: Path, kind: str, field: str, value: object) -> None:
    config, options, _ = KINDS[kind]
    made = make(tmp_path, config(target_modules=["up"], **options), merge=False, noise=0.2)
    before = ours(made)["up.weight"]
    path = made.folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert torch.dist(ours(made)["up.weight"], before) > 1e-3 * before.norm()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name: str) -> None:
    x = 3 * normal(50, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x))


def test_a_run_compares_them_with_their_base(tmp_path: Path) -> None:
    made = make(tmp_path, peft.OFTConfig(target_modules=LINEAR, oft_block_size=4))
    result = wanalyze.compare(made.base, made.folder)
    changed = {module.name: module for module in result.modules if module.status is Status.measured}
    assert changed.keys() == set(LINEAR)
    for name, module in changed.items():
        assert module.metrics["delta_norm"] == pytest.approx(made.deltas[f"{name}.weight"].norm().item(), rel=1e-6)
