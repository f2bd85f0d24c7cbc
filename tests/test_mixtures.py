"""A weighted sum of adapters: of their updates as peft merges each, in float64."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import jsonschema
import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

import wanalyze
from tests.conftest import FIXTURES, Run, lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from tests.hub_server import Hub
from tests.peft_oracle import Made, Toy, make
from tests.test_hub import hub  # noqa: F401 - a fixture
from wanalyze.adapters import Update
from wanalyze.adapters.mixture import weighted_sum
from wanalyze.checkpoints import TensorEntry
from wanalyze.engine.bases import oriented
from wanalyze.errors import AdapterError, PairingError, WanalyzeError
from wanalyze.operators import Dense, Kronecker, LowRank, Scaled
from wanalyze.pairing import Pair
from wanalyze.result import Module, Result, Status, Vector
from wanalyze.result.records import json_schema

# Metrics that depend on whether ΔW is a product of factors or was stored.
OF_ROUNDING = {"numerical_rank", "noise_edge", "signal_rank", "merged_rank", "merged_sharpness", "amplification"}
UP, DOWN, Q = (f"model.layers.0.{name}" for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj"))


def deltas(base: Path, text: str, **options: object) -> dict[str, Tensor]:
    """ΔW of everything that the mix changes, in float64 and as the base stores it."""
    pairing = wanalyze.plan(base, text, **options).tuned[0].pairing  # type: ignore[arg-type]
    return {
        pair.base.name: delta_of(pair)
        for pair in (*pairing.matrices, *pairing.vectors)
        if pair.tuned is not None and delta_of(pair).any()
    }


def delta_of(pair: Pair) -> Tensor:
    stored = pair.base.read()
    if isinstance(pair.tuned, TensorEntry):
        return pair.tuned.read().double() - stored.double()
    assert pair.tuned is not None
    if stored.ndim == 1:
        moved = pair.tuned.read(stored)
        assert isinstance(moved, Tensor)
        return moved - stored.double()
    found = pair.tuned.read(oriented(stored.double(), pair))
    assert not isinstance(found, Tensor)
    dense = found.columns(slice(0, found.shape[1]), torch.float64)
    return (dense.mT if pair.transposed else dense).reshape(stored.shape if pair.rows is None else dense.shape)


def expected(terms: list[tuple[float, Made]]) -> dict[str, Tensor]:
    """Σ wᵢ ΔWᵢ of what peft merges."""
    found: dict[str, Tensor] = {}
    for weight, made in terms:
        for name, delta in made.deltas.items():
            found[name] = found.get(name, 0) + weight * delta
    return found


def assert_alike(found: dict[str, Tensor], wanted: dict[str, Tensor], *, rtol: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    assert wanted
    for name, delta in wanted.items():
        assert (found[name] - delta).norm() < rtol * delta.norm(), name


# --- against peft ---


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.0, -0.5), (2.0, 1e-3)])
def test_the_sum_is_what_peft_makes_of_concatenated_factors(tmp_path: Path, weights: tuple[float, float]) -> None:
    configs = {
        "one": LoraConfig(target_modules=["up", "down"], r=4, lora_alpha=6, rank_pattern={"up": 2}),
        "two": LoraConfig(target_modules=["up", "down"], r=3, lora_alpha=5, use_rslora=True),
    }
    torch.manual_seed(0)
    start = Toy().double()
    before = {name: tensor.detach().clone() for name, tensor in start.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(start, configs["one"], adapter_name="one")
        tuned.add_adapter("two", configs["two"])
        for name, parameter in tuned.named_parameters():
            parameter.data += 0.05 * torch.randn_like(parameter) if "lora_" in name else 0
        tuned.save_pretrained(tmp_path)
        tuned.add_weighted_adapter(["one", "two"], list(weights), "mix", combination_type="cat")
        after = copy.deepcopy(tuned).merge_and_unload(adapter_names=["mix"]).state_dict()
    base = save_checkpoint(tmp_path / "base", before)
    moved = {name: after[name] - tensor for name, tensor in before.items() if (after[name] - tensor).any()}
    text = f"{weights[0]}*{tmp_path / 'one'}+{weights[1]}*{tmp_path / 'two'}"
    assert_alike(deltas(base, text), moved)
    (mixed,) = wanalyze.plan(base, text).tuned
    operators = [pair.tuned.read() for pair in mixed.pairing.matrices if isinstance(pair.tuned, Update)]
    assert [type(matrix) for matrix in operators] == [LowRank, LowRank]


EVERYWHERE = ["up", "down", "middle"]
CONFIGS = {
    "lora": LoraConfig(target_modules=EVERYWHERE, r=3, lora_alpha=5, bias="all"),
    "loha": peft.LoHaConfig(target_modules=[*EVERYWHERE, "plane"], r=3, alpha=4, init_weights=False),
    "ia3": peft.IA3Config(target_modules=["up", "down", "score", "plane"], feedforward_modules=["down"]),
    "lokr": peft.LoKrConfig(target_modules=["up", "middle"], r=2, alpha=3, init_weights=False),
    "dora": LoraConfig(target_modules=["up", "score", "plane"], r=2, lora_alpha=3, use_dora=True),
    "tuned norms": peft.LNTuningConfig(target_modules=["norm"]),
    "conv1d": LoraConfig(target_modules=["square", "wide"], r=2, lora_alpha=3, fan_in_fan_out=True),
    "ia3 of conv1d": peft.IA3Config(target_modules=["square", "wide"], feedforward_modules=[], fan_in_fan_out=True),
    "oft": peft.OFTConfig(target_modules=["up", "middle"], oft_block_size=4),
    "fourier": peft.FourierFTConfig(target_modules=["up", "down"], n_frequency=20, scaling=30.0),
    "tokens": LoraConfig(target_modules=["up"], r=2, trainable_token_indices={"tokens": [1, 4, 7]}),
    "embedding": LoraConfig(target_modules=["tokens"], r=2, lora_alpha=3),
    "table": LoraConfig(target_modules=["up"], r=2, modules_to_save=["tokens", "square", "score"]),
}
MIXES = {
    "three kinds": [(0.7, "lora"), (0.3, "loha"), (-0.5, "ia3")],
    "structured and not": [(0.7, "lokr"), (0.3, "lora"), (1.5, "dora")],
    "one alone, scaled": [(0.4, "lokr")],
    "norms": [(0.7, "tuned norms"), (0.6, "lora"), (-0.3, "ia3")],
    "Conv1D": [(0.7, "conv1d"), (0.3, "ia3 of conv1d")],
    "rotations": [(-1.0, "oft"), (2.0, "lora"), (0.5, "loha")],
    "rows of an embedding": [(0.7, "tokens"), (0.3, "embedding"), (-0.2, "table")],
    "a Conv1D saved whole": [(0.7, "conv1d"), (0.3, "table")],
    "many": [(0.1 * (place + 1), name) for place, name in enumerate(CONFIGS)],
}


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """An adapter of each kind, made when it is first asked for; their bases are equal."""
    known: dict[str, Made] = {}

    def made(kind: str) -> Made:
        if kind not in known:
            known[kind] = make(tmp_path_factory.mktemp("made"), CONFIGS[kind])
        return known[kind]

    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("terms", MIXES.values(), ids=MIXES)
def test_any_kinds_add_up_to_what_peft_merges(of_kind: Callable[[str], Made], terms: list[tuple[float, str]]) -> None:
    made = [(weight, of_kind(kind)) for weight, kind in terms]
    text = "+".join(f"{weight}*{adapter.folder}" for weight, adapter in made)
    assert_alike(deltas(made[0][1].base, text), expected(made), rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sums_terms_that_are_built_in_different_places(of_kind: Callable[[str], Made]) -> None:
    terms = [(0.7, of_kind("fourier")), (-0.4, of_kind("ia3")), (0.5, of_kind("lora"))]
    text = "x=" + "+".join(f"{weight}*{made.folder}" for weight, made in terms)
    found = [wanalyze.compare(terms[0][1].base, text, device=device, cache=False) for device in ("cuda", "cpu")]
    for one, other in zip(*(result.modules for result in found), strict=True):
        assert_near(one.metric("delta_norm"), other.metric("delta_norm"), rel=1e-9)


def test_the_numbers_are_those_of_the_sum_written_out(tmp_path: Path, of_kind: Callable[[str], Made]) -> None:
    terms = [(0.7, of_kind("lora")), (-0.4, of_kind("ia3")), (0.5, of_kind("loha"))]
    moved, before = expected(terms), terms[0][1].before
    whole = {name: tensor + moved[name] if name in moved else tensor for name, tensor in before.items()}
    save_checkpoint(tmp_path, whole)
    text = "mix=" + "+".join(f"{weight}*{made.folder}" for weight, made in terms)
    result = wanalyze.compare(terms[0][1].base, text, f"whole={tmp_path}")
    assert len([one for one, _ in pairs(result) if one.status is Status.measured]) == 17
    for one, other in pairs(result):
        assert one.status is other.status
        for key in set(one.metrics) - OF_ROUNDING if one.status is Status.measured else ():
            assert_near(one.metrics[key], other.metrics[key], rel=1e-5)


def assert_near(value: float | None, wanted: float | None, *, rel: float) -> None:
    assert value == (None if wanted is None else pytest.approx(wanted, rel=rel, abs=1e-12))


def pairs(result: Result) -> list[tuple[Module, Module] | tuple[Vector, Vector]]:
    """The records of both models of a run, side by side."""
    labels = [model.label for model in result.models]
    found = []
    for records in (result.modules, result.vectors):
        ours, theirs = ({r.name: r for r in records if r.model == label} for label in labels)
        assert ours.keys() == theirs.keys()
        found += [(ours[name], theirs[name]) for name in ours]
    return found


# --- laws ---


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, two adapters that share a module, and one that shares none; the current one."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "base", tiny_base())
    save_adapter(tmp_path / "a", lora_factors(UP, 20, 16) | lora_factors(Q, 12, 16, seed=3))
    save_adapter(tmp_path / "b", lora_factors(UP, 20, 16, rank=3, seed=7), r=3, lora_alpha=2)
    save_adapter(tmp_path / "c", lora_factors(DOWN, 16, 20, seed=11))
    return tmp_path


def numbers(text: str, name: str = UP) -> dict[str, float | None]:
    (module,) = [module for module in wanalyze.compare("base", text).modules if module.name == name]
    return module.metrics


EQUAL = {
    "once": ("1*a", "a", 0.0),
    "half and half": ("0.5*a+0.5*a", "a", 1e-12),
    "and none of another": ("1*a+0*b", "a", 1e-12),
    "order": ("0.7*a+0.3*b", "0.3*b+0.7*a", 1e-12),
    "a first term without its weight": ("a-0.5*b", "1*a+-0.5*b", 0.0),
    "spaces": ("0.7*a + 0.3*b", "0.7*a+0.3*b", 0.0),
}


@pytest.mark.parametrize(("one", "other", "rel"), EQUAL.values(), ids=EQUAL)
def test_sums_that_are_equal_measure_equal(three: Path, one: str, other: str, rel: float) -> None:
    first, second = numbers(f"x={one}"), numbers(f"x={other}")
    assert first["delta_norm"]
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert_near(value, second[key], rel=rel)


def test_each_weight_counts(three: Path) -> None:
    texts = ("0.7*a+0.3*b", "0.3*a+0.7*b", "0.7*a-0.3*b", "0.7*a", "a", "b")
    found = {numbers(f"x={text}")["delta_norm"] for text in texts}
    assert None not in found
    assert len(found) == len(texts)
    assert numbers("x=-2*a")["delta_norm"] == pytest.approx(2 * float(numbers("a")["delta_norm"] or 0), rel=1e-11)


def test_what_one_adapter_alone_changes_is_weighted(three: Path) -> None:
    found = deltas(three / "base", "0.7*a+0.3*c")
    alone = deltas(three / "base", "a") | deltas(three / "base", "c")
    weights = {UP: 0.7, Q: 0.7, DOWN: 0.3}
    assert_alike(found, {f"{name}.weight": weight * alone[f"{name}.weight"] for name, weight in weights.items()})


def test_of_a_weight_of_zero_nothing_is_left(three: Path) -> None:
    result = wanalyze.compare("base", "x=0*a+1*c")
    assert [module.name for module in result.modules if module.status is Status.measured] == [DOWN]
    assert result.models[0].summary.unchanged == len(result.modules) - 1


def test_adapters_that_only_see_what_is_left_out_are_no_error(three: Path) -> None:
    result = wanalyze.compare("base", "x=0.7*a+0.3*c", only=["*down_proj"])
    assert [module.name for module in result.modules if module.status is Status.measured] == [DOWN]
    with pytest.raises(PairingError, match="nothing is left"):
        wanalyze.compare("base", "x=0.7*a+0.3*c", only=["*nothing"])


def test_operators_are_summed_as_they_are() -> None:
    left, right = normal(30, 2, dtype=torch.float64), normal(2, 20, dtype=torch.float64)
    product, dense = LowRank(left, right, 0.5), Dense(normal(30, 20, seed=3))
    kron = Kronecker(Dense(normal(5, 4, seed=4)), Dense(normal(6, 5, seed=5)), 2.0)
    scaled = Scaled(dense, normal(30), normal(20, seed=2))
    for terms, kind in [
        ([(0.7, product), (0.3, product)], LowRank),
        ([(0.7, product)] * 9, Dense),  # 18 factors of 12 that would be smaller than their product
        ([(0.7, kron)], Kronecker),
        ([(0.7, kron), (0.1, kron)], Dense),
        ([(-0.7, scaled), (0.1, product), (2.0, dense), (0.3, kron)], Dense),
    ]:
        found = weighted_sum(terms)
        wanted = sum(weight * matrix.columns(slice(0, 20), torch.float64) for weight, matrix in terms)
        assert isinstance(found, kind)
        assert torch.allclose(found.columns(slice(0, 20), torch.float64), wanted, rtol=1e-12)
    assert torch.equal(dense.matrix, normal(30, 20, seed=3))  # no operand is changed in place


# --- what a module may be ---


def test_experts_of_a_stack_are_summed_one_by_one(tmp_path: Path) -> None:
    experts, name = "model.layers.0.mlp.experts", "model.layers.0.mlp.experts.down_proj"
    up = f"{experts}.gate_up_proj"
    stacks = {name: normal(3, 10, 7), up: normal(3, 14, 10, seed=1)}
    base = save_checkpoint(tmp_path / "base", stacks)
    factors = {
        f"base_model.model.{experts}.lora_A.weight": normal(6, 7, seed=2),
        f"base_model.model.{experts}.lora_B.weight": normal(10, 6, seed=3),
    }
    options = {"target_parameters": ["mlp.experts.down_proj"], "peft_version": "0.20.0"}
    save_adapter(tmp_path / "lora", factors, **options)
    whole = stacks[name] + normal(3, 10, 7, seed=9)
    save_adapter(tmp_path / "whole", {f"base_model.model.{name}": whole}, peft_type="LN_TUNING")
    alone = deltas(base, str(tmp_path / "lora"))
    found = deltas(base, f"0.7*{tmp_path / 'lora'}-0.3*{tmp_path / 'whole'}")
    moved = (whole.double() - stacks[name].double()).unbind()
    assert len(found) == 3
    assert_alike(found, {key: 0.7 * alone[key] - 0.3 * more for key, more in zip(alone, moved, strict=True)})


def replicated(folder: Path, name: str, ranges: list[list[int]], layers: list[int], seed: int = 0) -> Path:
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors |= lora_factors(f"model.layers.{layer}.mlp.up_proj", 20, 16, seed=seed + layer)
    return save_adapter(folder / name, tensors, layer_replication=ranges)


def test_every_run_of_a_replicated_layer_is_summed_apart(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    a = replicated(tmp_path, "a", [[0, 2], [0, 2]], [0, 1, 2, 3])
    b = replicated(tmp_path, "b", [[0, 2], [0, 2]], [2, 3], seed=20)
    one, other, both = deltas(base, f"a={a}"), deltas(base, f"b={b}"), deltas(base, f"0.7*{a}+0.3*{b}")
    assert len(both) == 4
    assert len(other) == 2
    assert_alike(both, {name: 0.7 * one[name] + 0.3 * other.get(name, torch.zeros(())) for name in one})


def test_stacks_of_other_layers_have_no_sum(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    a = replicated(tmp_path, "a", [[0, 2], [0, 2]], [0, 2])
    b = replicated(tmp_path, "b", [[0, 2], [1, 2]], [0, 2])
    plain = save_adapter(tmp_path / "plain", lora_factors(UP, 20, 16))
    for other in (b, plain):
        with pytest.raises(AdapterError, match="different orders"):
            wanalyze.plan(base, f"x=0.7*{a}+0.3*{other}")


def saved_whole(folder: Path, name: str, tensor: Tensor) -> Path:
    return save_adapter(folder, {f"base_model.model.{name}": tensor} | lora_factors(DOWN, 16, 20))


def test_a_matrix_saved_whole_counts_by_its_difference_and_says_so(three: Path) -> None:
    base = tiny_base()["model.embed_tokens.weight"]
    saved_whole(three / "d", "model.embed_tokens.weight", base + normal(30, 16, seed=5))
    result = wanalyze.compare("base", "x=0.5*d+0.5*a")
    (module,) = result["model.embed_tokens"]
    assert module.metric("delta_norm") == pytest.approx(0.5 * normal(30, 16, seed=5).norm().item(), rel=1e-6)
    assert "its difference from the base counts" in (module.reason or "")
    assert module.metric("noise_edge") is None


def test_vocabularies_of_other_lengths(three: Path) -> None:
    name, base = "model.embed_tokens.weight", tiny_base()["model.embed_tokens.weight"]
    longer, shorter = torch.cat([base, normal(4, 16)]) + 1, base[:28] + 2
    saved_whole(three / "longer", name, longer)
    saved_whole(three / "shorter", name, shorter)
    lora = {"lora_embedding_A": normal(2, 30), "lora_embedding_B": normal(16, 2, seed=1)}
    save_adapter(three / "lora", {f"base_model.model.model.embed_tokens.{k}": t for k, t in lora.items()})

    found = deltas(three / "base", "x=0.5*longer+0.25*shorter")[name]
    assert torch.allclose(found, torch.full((28, 16), 1.0, dtype=torch.float64), atol=1e-6)
    product = 2.0 * (normal(16, 2, seed=1).double() @ normal(2, 30).double()).mT
    found = deltas(three / "base", "x=0.5*longer+0.25*lora")[name]
    assert torch.allclose(found, 0.5 + 0.25 * product, atol=1e-6)
    result = wanalyze.compare("base", "x=0.5*shorter+0.25*lora+1*a")
    assert {item.name: item.reason for item in result.skipped} == {
        "model.embed_tokens": "one adapter updates all its rows, another replaces the first 28"
    }


def test_a_head_tied_to_the_embedding_that_another_term_changes(three: Path) -> None:
    saved_whole(three / "head", "lm_head.weight", normal(30, 16, seed=4))
    lora = {"lora_embedding_A": normal(2, 30), "lora_embedding_B": normal(16, 2, seed=1)}
    save_adapter(three / "lora", {f"base_model.model.model.embed_tokens.{k}": t for k, t in lora.items()})
    found = deltas(three / "base", "x=0.5*head+1*a")
    embedding = tiny_base()["model.embed_tokens.weight"]
    assert torch.allclose(found["lm_head.weight"], 0.5 * (normal(30, 16, seed=4) - embedding).double(), atol=1e-6)
    with pytest.raises(PairingError, match="the base stores in one place"):
        wanalyze.plan("base", "x=0.5*head+1*lora")


def test_parts_of_a_fused_weight_and_the_whole_have_no_sum(tmp_path: Path) -> None:
    name, settings = "model.layers.0.self_attn", {"model_type": "phi3", "num_attention_heads": 4, "hidden_size": 16}
    fused, more = {f"{name}.qkv_proj.weight": normal(48, 16)}, {f"{name}.o_proj.weight": normal(16, 16, seed=1)}
    base = save_checkpoint(tmp_path / "base", fused | more)
    (base / "config.json").write_text(json.dumps(settings))
    saved = {f"base_model.model.{name}.q_proj.weight": fused[f"{name}.qkv_proj.weight"][:16] + 1}
    q = save_adapter(tmp_path / "q", saved, peft_type="LN_TUNING")
    o = save_adapter(tmp_path / "o", lora_factors(f"{name}.o_proj", 16, 16))
    qkv = save_adapter(tmp_path / "qkv", lora_factors(f"{name}.qkv_proj", 48, 16))
    found = wanalyze.compare(base, f"x=0.5*{q}+0.5*{o}").modules
    parts = {module.name.removeprefix(name): module.metric("delta_norm") for module in found}
    assert parts.keys() == {".qkv_proj[q]", ".qkv_proj[k]", ".qkv_proj[v]", ".o_proj"}
    assert parts[".qkv_proj[q]"] == pytest.approx(0.5 * 16, rel=1e-6)
    with pytest.raises(PairingError, match="stores in one place"):
        wanalyze.plan(base, f"x=0.5*{q}+0.5*{qkv}")


def test_a_tensor_that_a_term_cannot_have_is_left_out_with_its_reason(three: Path) -> None:
    saved_whole(three / "d", f"{UP}.weight", normal(7, 7))
    result = wanalyze.compare("base", "x=0.5*d+0.5*a")
    (item,) = [item for item in result.skipped if item.name == UP]
    assert item.reason.startswith("other shape")
    assert UP not in [module.name for module in result.modules]


def test_conflicting_orientations_are_refused(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", {"m.square.weight": normal(8, 8)})
    for name, is_turned in (("a", True), ("b", False)):
        save_adapter(tmp_path / name, lora_factors("m.square", 8, 8), fan_in_fan_out=is_turned)
    with pytest.raises(PairingError, match="fan_in_fan_out"):
        wanalyze.plan(base, f"x=0.5*{tmp_path / 'a'}+0.5*{tmp_path / 'b'}")


def test_a_term_that_is_not_finite_is_a_failed_matrix(three: Path) -> None:
    factors = lora_factors(UP, 20, 16)
    factors[f"base_model.model.{UP}.lora_B.weight"][2, 1] = torch.inf
    save_adapter(three / "bad", factors)
    found = {m.name: m.status.value for m in wanalyze.compare("base", "x=0.5*bad+0.5*a").modules}
    assert (found[UP], found[Q]) == ("failed", "measured")
    found = {m.name: m.status.value for m in wanalyze.compare("base", "x=1e300*a+0.5*b").modules}
    assert found[UP] == "failed"


# --- the record ---


def test_the_record_holds_every_term(cli: Run, tmp_path: Path) -> None:
    mix = f"mix=0.7*{FIXTURES / 'lora-r8'}+0.3*{FIXTURES / 'lora-r64'}"
    done = cli("compare", FIXTURES / "base", mix, "-o", tmp_path / "run")
    assert done.code == 0
    found = json.loads((tmp_path / "run/result.json").read_text())
    jsonschema.validate(found, json_schema())
    (model,) = found["models"]
    assert model["ref"] == "0.7*lora-r8+0.3*lora-r64"
    assert model["method"] == "mix of 0.7 × LoRA r=8 and 0.3 × LoRA r=64"
    assert (model["files"], model["revision"]) == ([], None)
    alone = wanalyze.compare(FIXTURES / "base", FIXTURES / "lora-r8", FIXTURES / "lora-r64").models
    for term, weight, plain in zip(model["terms"], (0.7, 0.3), alone, strict=True):
        assert (term["weight"], term["ref"], term["method"]) == (weight, plain.ref, plain.method)
        assert term["files"] == [file.model_dump() for file in plain.files]
        assert term["files"][0]["sha256"]
        assert term["trained_parameters"] == plain.trained_parameters
    assert model["trained_parameters"] == sum(plain.trained_parameters or 0 for plain in alone)
    page = (tmp_path / "run/report.html").read_text()
    for term in model["terms"]:
        assert term["files"][0]["sha256"] in page
    assert "mix of 0.7 × LoRA r=8 and 0.3 × LoRA r=64" in page
    assert str(FIXTURES) not in page + json.dumps(found)
    assert "mix" in cli("show", tmp_path / "run", "*q_proj").out


def test_methods_and_bases_that_differ_are_told(three: Path) -> None:
    for name, base in (("d", "org/one"), ("e", "/home/me/two"), ("f", "C:\\me\\two")):
        save_adapter(three / name, lora_factors(UP, 20, 16), base_model_name_or_path=base, use_rslora=True)
    model = wanalyze.compare("base", "x=0.5*d+0.25*e-0.25*f").models[0]
    assert model.method == "mix of 0.5 × rsLoRA r=2, 0.25 × rsLoRA r=2 and -0.25 × rsLoRA r=2"
    assert model.notes == ["its adapters name different bases: org/one, two"]
    assert [term.base_model for term in model.terms] == ["org/one", "two", "two"]
    assert wanalyze.compare("base", "x=0.5*e+0.5*f").models[0].notes == []
    assert wanalyze.plan("base", "x=0.5*d").tuned[0].method == "0.5 × rsLoRA r=2"
    assert wanalyze.plan("base", "x=" + "+".join(["0.2*d"] * 5)).tuned[0].method == "mix of 5 adapters"


def test_terms_on_the_hub_are_named_with_their_commits(hub: Hub) -> None:  # noqa: F811
    shutil.copytree(hub.root / "org/lora", "local")
    (model,) = wanalyze.compare("org/tiny", "x=0.7*hf:org/lora@main+0.3*local").models
    assert model.ref == "0.7*hf:org/lora@main+0.3*local"
    assert [term.revision for term in model.terms] == [hub.commit("org/lora"), None]
    assert [file.sha256 for file in model.terms[0].files] == [file.sha256 for file in model.terms[1].files]
    assert all(file.sha256 for file in model.terms[0].files)
    whole = wanalyze.compare("org/tiny", "x=org/lora").modules
    summed = wanalyze.compare("org/tiny", "x=0.7*org/lora+0.3*local").modules
    assert [m.metric("delta_norm") for m in summed] == pytest.approx([m.metric("delta_norm") for m in whole], rel=1e-12)


# --- what is refused ---

REFUSED = {
    "a checkpoint as a term": (
        ["compare", "base", "x=0.5*a+0.5*base"],
        "holds whole weights, and a sum is of adapters",
    ),
    "a sum as the base": (["compare", "0.5*a+0.5*b", "a"], "can be compared with a base and nothing else"),
    "a sum inspected": (["inspect", "0.5*a+0.5*b"], "can be compared with a base and nothing else"),
    "a term that is not there": (["compare", "base", "x=0.5*a+0.5*nowhere"], "nowhere: no such file or folder"),
    "no weight behind a plus": (["compare", "base", "x=0.5*a+b"], "give the second a weight: 1*PATH"),
    "nan": (["compare", "base", "x=nan*a+0.5*b"], "'nan' is no weight"),
    "infinity": (["compare", "base", "x=0.5*a-inf*b"], "'inf' is no weight"),
    "too large": (["compare", "base", "x=1e400*a"], "'1e400' is no weight"),
    "no weight": (["compare", "base", "x=*a+0.5*b"], "a weight is missing before a *"),
    "two stars": (["compare", "base", "x=0.5**a"], "a weight is missing before a *"),
    "no adapter": (["compare", "base", "x=0.5*"], "an adapter is missing behind a weight"),
    "no adapter in between": (["compare", "base", "x=0.5*+0.5*b"], "an adapter is missing behind a weight"),
    "too many": (["compare", "base", "x=" + "+".join(["0.1*a"] * 33)], "33 terms; 32 can be summed"),
    "far too many": (["compare", "base", "x=" + "+".join(["0.1*a"] * 1000)], "1000 terms; 32 can be summed"),
    "no Hub repository": (["compare", "base", "x=0.5*a+0.5*hf:name"], "names no repository"),
    "a label that is none": (["compare", "base", "a/b=0.5*a"], "cannot be a label"),
    "one label for two": (["compare", "base", "a", "a=0.5*a+0.5*b"], "both called 'a'"),
    "the label of the base": (["compare", "base", "base=0.5*a"], "the label 'base' is taken"),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_one_line(cli: Run, three: Path, arguments: list[str], says: str) -> None:
    before = sorted(three.rglob("*"))
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert len(done.err) < 1000
    assert sorted(three.rglob("*")) == before


def test_a_dry_run_and_the_default_folder_name_the_sum(cli: Run, three: Path) -> None:
    said = cli("compare", "base", "0.7*a+0.3*b", "--dry-run").out
    assert "mix of 0.7 × LoRA r=2 and 0.3 × LoRA r=3" in said
    assert cli("compare", "base", "0.7*a+0.3*b", "-q").code == 0
    assert (three / "reports/0.7_a+0.3_b/result.json").is_file()


def test_32_terms_are_summed(three: Path) -> None:
    (module,) = wanalyze.compare("base", "x=" + "+".join(["0.03125*a"] * 32))[UP]
    assert module.metric("delta_norm") == pytest.approx(float(numbers("a")["delta_norm"] or 0), rel=1e-12)


def test_a_term_of_another_base_is_refused_by_name(three: Path) -> None:
    save_adapter(three / "other", lora_factors("model.layers.7.mlp.up_proj", 20, 16))
    with pytest.raises(WanalyzeError, match="is this its base"):
        wanalyze.compare("base", "x=0.5*a+0.5*other")
