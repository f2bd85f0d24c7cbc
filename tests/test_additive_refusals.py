"""Additive kinds beside LoRA: every contradiction between tensors, config and base is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftType
from torch import Tensor

import wanalyze
from tests.conftest import normal, save_adapter, save_checkpoint
from tests.limits import within_limits
from wanalyze.adapters import _WITHOUT_UPDATE, KINDS, Adapter, parse_adapter
from wanalyze.checkpoints import AdapterFiles, open_source
from wanalyze.errors import AdapterError

ROOT, OUT, INP = "base_model.model.m.", 12, 16


def own(**tensors: Tensor) -> dict[str, Tensor]:
    return {ROOT + name: tensor for name, tensor in tensors.items()}


def whole(**tensors: Tensor) -> dict[str, Tensor]:
    return {f"base_model.{name}": tensor for name, tensor in tensors.items()}


def indices(*rows: list[int]) -> Tensor:
    return torch.tensor(rows[0] if len(rows) == 1 else list(rows), dtype=torch.int32)


HADA = {f"hada_w{i}_{side}": normal(*((OUT, 2) if side == "a" else (2, INP))) for i in (1, 2) for side in "ab"}
LOHA = (own(**HADA), {"peft_type": "LOHA", "r": 2, "alpha": 3})
LOKR = (own(lokr_w1=normal(3, 4), lokr_w2=normal(4, 4)), {"peft_type": "LOKR", "r": 2, "alpha": 3})
VERA = (
    own(vera_lambda_b=normal(OUT), vera_lambda_d=normal(2)) | whole(vera_A=normal(2, INP), vera_B=normal(OUT, 2)),
    {"peft_type": "VERA", "r": 2},
)
DRAWN = (own(vera_lambda_b=normal(OUT), vera_lambda_d=normal(2)), {**VERA[1], "save_projection": False})
RANDLORA = (
    own(randlora_lambda=normal(5, 3), randlora_gamma=normal(3, OUT))
    | whole(randlora_A=normal(5, 1, OUT), randlora_B=normal(INP, 3, 5)),
    {"peft_type": "RANDLORA", "r": 5, "randlora_alpha": 7},
)
FOURIER = (own(fourierft_spectrum=normal(6)), {"peft_type": "FOURIERFT", "n_frequency": 6})
WAVE = (own(waveft_spectrum=normal(6)), {"peft_type": "WAVEFT", "n_frequency": 6})
VBLORA = (
    own(vblora_logits_A=normal(2, 4, 8), vblora_logits_B=normal(3, 2, 8)) | whole(vblora_vector_bank=normal(8, 4)),
    {"peft_type": "VBLORA", "r": 2, "topk": 2, "num_vectors": 8, "vector_length": 4},
)
TOP = (
    own(
        vblora_logits_A_topk_indices=torch.full((2, 4, 2), 7, dtype=torch.uint8),
        vblora_logits_A_topk_weights=normal(2, 4, 1),
        vblora_logits_B_topk_indices=torch.full((3, 2, 2), 7, dtype=torch.uint8),
        vblora_logits_B_topk_weights=normal(3, 2, 1),
    )
    | whole(vblora_vector_bank=normal(8, 4)),
    {**VBLORA[1], "save_only_topk_weights": True},
)
UNILORA = (
    own(
        unilora_indices_A=torch.zeros(2, INP, dtype=torch.int64),
        unilora_scales_A=normal(2, INP),
        unilora_indices_B=torch.zeros(OUT, 2, dtype=torch.int64),
        unilora_scales_B=normal(OUT, 2),
    )
    | whole(unilora_theta_d=normal(5)),
    {"peft_type": "UNILORA", "r": 2, "theta_d_length": 5},
)
MISS = (own(miss_block=normal(4, OUT)), {"peft_type": "MISS", "r": 4})
BAT = (own(miss_block=normal(3, 4, 4)), {"peft_type": "MISS", "r": 4, "init_weights": "bat"})
BONE = (own(bone_block=normal(4, OUT)), {"peft_type": "BONE", "r": 4})
C3A = (own(c3a_kernel=normal(3, 4, 4)), {"peft_type": "C3A", "block_size": 4})
SHIRA = (own(shira_weight=normal(3), shira_indices=indices([0, 1, 11], [0, 5, 15])), {"peft_type": "SHIRA"})
GRALORA = (
    own(gralora_A=normal(2, 8, 4), gralora_B=normal(2, 4, 6)),
    {"peft_type": "GRALORA", "r": 4, "alpha": 5, "gralora_k": 2},
)
HYBRID = (
    GRALORA[0] | own(**{"gralora_A_general.weight": normal(3, INP), "gralora_B_general.weight": normal(OUT, 3)}),
    {**GRALORA[1], "hybrid_r": 3},
)
DELORA = (
    own(delora_A=normal(2, INP), delora_B=normal(OUT, 2), delora_lambda=normal(1), delora_w_norm=normal(INP)),
    {"peft_type": "DELORA", "r": 2},
)
TINY = (
    own(tinylora_A=normal(2, INP), tinylora_B=normal(OUT, 2), tinylora_P=normal(3, 2, 2))
    | {"base_model.model.n." + n: t for n, t in {"tinylora_A": normal(2, 5), "tinylora_B": normal(7, 2)}.items()}
    | {"base_model.model.n.tinylora_P": normal(3, 2, 2, seed=1)}
    | whole(**{"tinylora_v.0": normal(3), "tinylora_v.1": normal(3)}),
    {"peft_type": "TINYLORA", "r": 2, "u": 3},
)
SUPER = (own(supertuning_values=normal(3), supertuning_indices=indices([0, 5, 191])), {"peft_type": "SUPERTUNING"})
SUPRA = (
    SUPER[0] | own(**{"supertuning_lora_A.weight": normal(2, INP), "supertuning_lora_B.weight": normal(OUT, 2)}),
    {**SUPER[1], "r": 2},
)
Adapted = tuple[dict[str, Tensor], dict[str, object]]
GOOD: dict[str, Adapted] = {
    name: value for name, value in globals().items() if isinstance(value, tuple) and len(value) == 2
}


def saved(tmp_path: Path, adapted: Adapted) -> Path:
    return save_adapter(tmp_path / "adapter", adapted[0], **{"r": None, "lora_alpha": None, **adapted[1]})


def opened(folder: Path, base: Path | None = None) -> Adapter:
    source = open_source(folder)
    assert isinstance(source, AdapterFiles)
    return parse_adapter(source, None if base is None else wanalyze.open_checkpoint(base))


@pytest.mark.parametrize("adapted", GOOD.values(), ids=GOOD)
def test_what_is_mended_below_is_read_as_it_stands(tmp_path: Path, adapted: Adapted) -> None:
    base = save_checkpoint(tmp_path / "base", {"m.weight": normal(OUT, INP)})
    adapter = opened(saved(tmp_path, adapted), base)
    if adapted is not TINY:  # whose P is of no seed, see below
        assert adapter.updates[0].read(normal(OUT, INP)).shape == (OUT, INP)


def but(adapted: Adapted, drop: str = "", **changes: object) -> Adapted:
    """Without the tensors named `drop…`, with others and other fields."""
    tensors = {name: tensor for name, tensor in adapted[0].items() if not (drop and drop in name)}
    fields = {name: value for name, value in changes.items() if not isinstance(value, Tensor)}
    new = {name: value for name, value in changes.items() if isinstance(value, Tensor)}
    return tensors | own(**new), adapted[1] | fields


SWAPPED = own(**{name[:-1] + ("b" if name[-1] == "a" else "a"): tensor for name, tensor in HADA.items()})
FILES = {
    "LoHa: no alpha": (but(LOHA, alpha=None), "alpha: field required"),
    "LoHa: alpha as text": (but(LOHA, alpha="much"), "alpha is 'much'"),
    "LoHa: r against the tensors": (but(LOHA, r=3), "but r is 3"),
    "LoHa: r by a pattern": (but(LOHA, rank_pattern={"m": 4}), "but r is 4"),
    "LoHa: A and B swapped": ((SWAPPED, LOHA[1]), "but r is 2"),
    "LoHa: a part missing": (but(LOHA, drop="w2_a"), "no hada_w2_a"),
    "LoHa: an unknown part": (but(LOHA, hada_w3_a=normal(2)), "no part of LoHa"),
    "LoHa: one core": (but(LOHA, hada_t1=normal(2, 2, 3, 3)), "no hada_t2"),
    "LoHa: other outputs": (but(LOHA, hada_w2_a=normal(OUT + 1, 2)), "but out is 12"),
    "LoHa: an empty part": (but(LOHA, hada_w2_a=torch.zeros(0)), "ZeRO-3"),
    "LoKr: two forms": (but(LOKR, lokr_w1_a=normal(3, 2)), "lokr_w1_a beside lokr_w1"),
    "LoKr: half a product": (but(LOKR, drop="w2", lokr_w2_a=normal(4, 2)), "no lokr_w2_b"),
    "LoKr: five sides": (but(LOKR, lokr_w2=normal(4, 4, 1, 1, 1)), r"\(b d\) is expected"),
    "LoKr: r against the tensors": (
        but(LOKR, drop="w2", lokr_w2_a=normal(4, 3), lokr_w2_b=normal(3, 4)),
        "but r is 2",
    ),
    "VeRA: projections lost": (but(VERA, drop="vera_A", save_projection=True), "no A"),
    "VeRA: both projections lost": ((DRAWN[0], VERA[1]), "they are missing"),
    "VeRA: B too short": (but(VERA, vera_lambda_b=normal(OUT + 1)), "13 outputs, its shared B only 12 rows"),
    "VeRA: r against the tensors": (but(VERA, r=3), "but rows is 3"),
    "VeRA: a seed as text": (but(VERA, projection_prng_key="0"), "projection_prng_key is '0'"),
    "VeRA: a negative seed": (but(VERA, projection_prng_key=-1), "projection_prng_key is '-1'"),
    "VeRA: a seed beyond 64 bits": (but(VERA, projection_prng_key=2**80), "projection_prng_key"),
    "RandLoRA: bases not saved": (but(RANDLORA, drop="lora_A"), "save_projection=True"),
    "RandLoRA: too few bases": (but(RANDLORA, randlora_gamma=normal(2, OUT), randlora_lambda=normal(5, 2)), "2 bases"),
    "RandLoRA: no alpha": (but(RANDLORA, randlora_alpha=None), "randlora_alpha: field required"),
    "FourierFT: n_frequency": (but(FOURIER, n_frequency=5), "has 6 by its tensors, but n_frequency"),
    "FourierFT: scaling": (but(FOURIER, scaling="wide"), "scaling is 'wide'"),
    "FourierFT: two sides": (but(FOURIER, fourierft_spectrum=normal(2, 3)), r"\(count\) is expected"),
    "WaveFT: another wavelet": (but(WAVE, wavelet_family="sym2"), "'sym2' is not read, only 'db1'"),
    "WaveFT: n_frequency": (but(WAVE, n_frequency=5), "has 6 by its tensors, but n_frequency"),
    "VB-LoRA: topk": (but(VBLORA, topk=9), "topk is 9, but the bank has 8 vectors only"),
    "VB-LoRA: another bank": (but(VBLORA, num_vectors=9), "but bank is 9"),
    "VB-LoRA: vector_length": (but(VBLORA, vector_length=2), "but length is 2"),
    "VB-LoRA: no bank": (but(VBLORA, drop="bank"), "no vectors"),
    "VB-LoRA: saved whole, said to be in part": (but(VBLORA, save_only_topk_weights=True), "no A_topk_weights"),
    "VB-LoRA: topk against the tensors": (but(TOP, topk=3), "but less is 2"),
    "Uni-LoRA: indices not saved": (but(UNILORA, drop=".m."), "save_indices=True"),
    "Uni-LoRA: another length": (but(UNILORA, theta_d_length=6), "but d is 6"),
    "Uni-LoRA: no scales": (but(UNILORA, drop="scales_B"), "no B_scales"),
    "MiSS: r": (but(MISS, r=3), "but r is 3"),
    "MiSS: said to be bat": (but(MISS, init_weights="bat"), r"\(row_blocks r r\) is expected"),
    "MiSS: bat, not said": (but(BAT, init_weights=True), r"\(r out\) is expected"),
    "MiSS: mini_r": (but(MISS, init_weights="mini", mini_r=5), "but mini_r is 5"),
    "MiSS: a form of its own": (but(MISS, init_weights="maxi"), "init_weights"),
    "Bone: mini": (but(BONE, init_weights="mini"), "not of Bone"),
    "C3A: block_size": (but(C3A, block_size=2, block_size_pattern={"x": 3}), "has 4 by its tensors, but block_size"),
    "SHiRA: three rows": (but(SHIRA, shira_indices=indices([0, 1, 2], [0, 1, 2], [0, 1, 2])), "but two is 2"),
    "SHiRA: fewer indices": (but(SHIRA, shira_indices=indices([0, 1], [0, 1])), "but count is 3"),
    "SHiRA: no indices": (but(SHIRA, drop="indices"), "no indices"),
    "GraLoRA: k": (but(GRALORA, gralora_k=3), "gralora_k, 3, does not divide"),
    "GraLoRA: k against the tensors": (but(GRALORA, gralora_k=4), "but k is 4"),
    "GraLoRA: a general part too many": (but(HYBRID, hybrid_r=0), "A_general beside"),
    "GraLoRA: a general part missing": (but(GRALORA, hybrid_r=3), "no A_general"),
    "GraLoRA: hybrid_r": (but(HYBRID, hybrid_r=2), "but hybrid_r is 2"),
    "GraLoRA: a general part of other sides": (
        but(HYBRID, **{"gralora_A_general.weight": normal(3, INP + 1)}),
        "its general part is for 12 x 17",
    ),
    "DeLoRA: r": (but(DELORA, r=3), "but r is 3"),
    "DeLoRA: norms": (but(DELORA, delora_w_norm=normal(OUT)), "but inp is 16"),
    "DeLoRA: no lambda": (but(DELORA, drop="lambda"), "no lambda"),
    "TinyLoRA: a vector missing": (but(TINY, drop="v.1"), "share 2 vectors tinylora_v, but it has 1"),
    "TinyLoRA: vectors tied": (but(TINY, weight_tying=1.0), "share 1 vectors tinylora_v, but it has 2"),
    "TinyLoRA: tied beyond all": (but(TINY, weight_tying=1.5), "weight_tying is '1.5'"),
    "TinyLoRA: projections not saved": (but(TINY, drop="m.tinylora_P"), "save_projection=True"),
    "TinyLoRA: r": (but(TINY, r=4), "but r"),
    "TinyLoRA: u": (but(TINY, u=4), "but u is 4"),
    "Super-tuning: indices not saved": (but(SUPER, drop="indices"), "save_precomputed_indices=True"),
    "Super-tuning: LoRA missing": (but(SUPER, r=2), "no lora_A"),
    "Super-tuning: LoRA not told": (but(SUPRA, r=None), "lora_A beside"),
}


@pytest.mark.parametrize(("adapted", "rule"), FILES.values(), ids=FILES)
def test_a_contradiction_is_refused_by_name(tmp_path: Path, adapted: Adapted, rule: str) -> None:
    with pytest.raises(AdapterError, match=rule):
        opened(saved(tmp_path, adapted))


BUILDS = {
    "LoHa: needs none": (LOHA, None, None),
    "VeRA: other outputs": (VERA, (OUT + 1, INP), "for 12 outputs, the base's weight has 13"),
    "VeRA: more inputs than A": (VERA, (OUT, INP + 1), "17 inputs, the shared A only 16"),
    "VeRA: no base": (VERA, None, "depends on the base"),
    "VeRA: drawn for no base": (DRAWN, (OUT, INP), "were not saved and follow from the base"),
    "RandLoRA: another short side": (RANDLORA, (INP, OUT + 1), "the base's weight is 16 x 13"),
    "RandLoRA: a longer side": (RANDLORA, (OUT, INP + 1), "the base's weight is 12 x 17"),
    "FourierFT: more coefficients than entries": (FOURIER, (5, 1), "6 coefficients for a weight of 5 x 1"),
    "WaveFT: more coefficients than entries": (WAVE, (5, 1), "6 coefficients for a weight of 5 x 1"),
    "VB-LoRA: an index beyond": (
        but(TOP, vblora_logits_B_topk_indices=torch.full((3, 2, 2), 8, dtype=torch.uint8)),
        None,
        "outside 0 to 7",
    ),
    "Uni-LoRA: an index below": (
        but(UNILORA, unilora_indices_A=torch.full((2, INP), -1)),
        None,
        "outside 0 to 4",
    ),
    "MiSS: other outputs": (MISS, (OUT + 1, INP), "for 12 outputs"),
    "MiSS: outputs that no mini_r divides": (
        but(MISS, miss_block=normal(4, 5), init_weights="mini", mini_r=5),
        (OUT, INP),
        "no multiple of 5",
    ),
    "MiSS: inputs that no block divides": (BAT, (OUT, INP + 1), "17 inputs of the base's weight are no multiple of 4"),
    "SHiRA: a row beyond": (SHIRA, (OUT - 1, INP), "outside 0 to 10"),
    "SHiRA: a column below": (but(SHIRA, shira_indices=indices([0, 1, 2], [0, -1, 2])), (OUT, INP), "outside 0 to 15"),
    "TinyLoRA: a projection of no seed": (TINY, None, "of no seed from projection_seed on"),
    "Super-tuning: a place beyond": (SUPER, (OUT - 1, INP), "outside 0 to 175"),
    "Super-tuning: LoRA of other sides": (SUPRA, (OUT + 1, INP), "for 12 outputs"),
}


@pytest.mark.parametrize(("adapted", "shape", "rule"), BUILDS.values(), ids=BUILDS)
def test_what_does_not_fit_its_base_is_refused(
    tmp_path: Path, adapted: Adapted, shape: tuple[int, int] | None, rule: str | None
) -> None:
    update = opened(saved(tmp_path, adapted)).updates[0]
    base = None if shape is None else normal(*shape).double()
    if rule is None:
        assert update.read(base).shape == (OUT, INP)
        return
    with pytest.raises(AdapterError, match=rule):
        update.read(base)


BASES = {
    "the module is missing": ({"other.weight": normal(OUT, INP)}, "no one weight for module 'm'"),
    "two modules end alike": ({"a.m.weight": normal(OUT, INP), "b.m.weight": normal(OUT, INP)}, "no one weight"),
    "other outputs": ({"m.weight": normal(OUT + 1, INP)}, r"has 12 outputs, its weight in the base is \(13, 16\)"),
    "a kernel": ({"m.weight": normal(OUT, INP, 3)}, r"its weight in the base is \(12, 16, 3\)"),
}


@pytest.mark.parametrize(("tensors", "rule"), BASES.values(), ids=BASES)
def test_projections_are_drawn_for_no_base_but_their_own(tmp_path: Path, tensors: dict[str, Tensor], rule: str) -> None:
    base = save_checkpoint(tmp_path / "base", tensors)
    with pytest.raises(AdapterError, match=rule):
        opened(saved(tmp_path, DRAWN), base)


@pytest.mark.parametrize("kind", _WITHOUT_UPDATE)
def test_what_has_no_update_is_refused_with_its_reason(tmp_path: Path, kind: str) -> None:
    assert kind not in KINDS
    with pytest.raises(AdapterError, match=f"peft_type {kind} (has no|cannot be rebuilt)"):
        opened(saved(tmp_path, ({"prompt_embeddings": normal(2, 3)}, {"peft_type": kind})))


def test_every_kind_that_peft_can_save_is_read_or_refused_with_a_reason() -> None:
    assert {kind.value for kind in PeftType} <= KINDS.keys() | _WITHOUT_UPDATE.keys()


def test_indices_that_windows_stored_as_numbers_are_read(tmp_path: Path) -> None:
    plain = opened(saved(tmp_path / "a", SHIRA)).updates[0].read(normal(OUT, INP)).dense()
    stored = but(SHIRA, shira_indices=torch.tensor([[0.0, 1.0, 11.0], [0.0, 5.0, 15.0]]))
    assert torch.equal(opened(saved(tmp_path / "b", stored)).updates[0].read(normal(OUT, INP)).dense(), plain)


BOMBS: dict[str, tuple[Adapted, tuple[int, int]]] = {
    "a projection of millions of rows": (
        (own(vera_lambda_b=normal(2), vera_lambda_d=normal(10**5)), {**DRAWN[1], "r": 10**5}),
        (2, 30_000),
    ),
    "a random matrix of millions": (
        (
            own(tinylora_A=normal(500, 600), tinylora_B=normal(600, 500)) | whole(**{"tinylora_v.0": normal(20_000)}),
            {"peft_type": "TINYLORA", "r": 500, "u": 20_000},
        ),
        (600, 600),
    ),
    "one circle": ((own(c3a_kernel=normal(1, 1, 10**6)), {"peft_type": "C3A", "block_size": 10**6}), (2, 2)),
}


@pytest.mark.parametrize(("adapted", "shape"), BOMBS.values(), ids=BOMBS)
def test_a_small_file_makes_no_matrix_of_gigabytes(tmp_path: Path, adapted: Adapted, shape: tuple[int, int]) -> None:
    base = save_checkpoint(tmp_path / "base", {"m.weight": normal(*shape)})
    folder = saved(tmp_path, adapted)
    with within_limits(), pytest.raises(AdapterError, match=r"numbers, more than \d+; refused"):
        opened(folder, base).updates[0].read(torch.zeros(shape))


def test_what_is_tiled_or_blocked_takes_no_more_than_its_result(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", {"m.weight": normal(512, 512)})
    tiled = (own(miss_block=normal(50_000, 4)), {"peft_type": "MISS", "r": 50_000})
    blocked = (
        own(gralora_A=normal(512, 1, 512), gralora_B=normal(512, 512, 1)),
        {"peft_type": "GRALORA", "r": 512, "alpha": 512, "gralora_k": 512},
    )
    with within_limits():
        one = opened(saved(tmp_path / "a", tiled)).updates[0].read(torch.zeros(4, 16)).dense()
        other = opened(saved(tmp_path / "b", blocked), base).updates[0].read().dense()
    torch.testing.assert_close(one, normal(50_000, 4)[:16].double().mT)
    a, b = normal(512, 1, 512)[:, 0].double(), normal(512, 512, 1)[..., 0].double()
    torch.testing.assert_close(other, a.mT * b)
