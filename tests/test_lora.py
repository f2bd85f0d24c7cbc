"""LoRA in all its forms against peft's merge, or the formula in float64 where peft cannot merge, or not rightly."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, TrainableTokensConfig
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from peft.tuners.lora.variants import QALoraLinearVariant
from torch import Tensor, nn

import wanalyze
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint
from tests.peft_oracle import assert_as_merged, make, ours
from wanalyze.adapters import Adapter, Update, parse_adapter
from wanalyze.checkpoints import AdapterFiles, open_source
from wanalyze.errors import AdapterError
from wanalyze.operators import LowRank
from wanalyze.result import Status

PREFIX = "base_model.model."
LINEAR = ["up", "down", "middle"]
LAYERS = {
    "linear": LINEAR,
    "conv1d of gpt-2": ["square", "wide"],
    "embedding": ["tokens"],
    "convolutions": ["line", "plane", "point", "space"],
}
SCALES = {
    "alpha over r": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"up": 2, "tokens": 3, "plane": 2, "wide": 5},
        "alpha_pattern": {"down": 9, "^space": 1, "square": 7.5},
    },
}


def parsed(folder: Path, base: Path | None = None) -> Adapter:
    source = open_source(folder)
    assert isinstance(source, AdapterFiles)
    return parse_adapter(source, None if base is None else wanalyze.open_checkpoint(base))


def written(folder: Path, tensors: dict[str, Tensor], **config: object) -> Adapter:
    return parsed(save_adapter(folder / "adapter", {PREFIX + name: t for name, t in tensors.items()}, **config))


def only(adapter: Adapter) -> Update:
    (update,) = adapter.updates
    return update


def delta(update: Update, base: Tensor | None = None) -> Tensor:
    return update.read(base).map(lambda tensor: tensor.double()).dense()


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("targets", LAYERS.values(), ids=LAYERS)
def test_every_layer_type_is_what_peft_merges(tmp_path: Path, targets: list[str], scale: dict[str, object]) -> None:
    config = LoraConfig(target_modules=targets, r=4, lora_alpha=6, **scale)
    made = make(tmp_path, config)
    assert_as_merged(made)
    for update in made.adapter().updates:
        assert isinstance(update.read(), LowRank)
        assert not update.needs_base


@pytest.mark.parametrize("targets", LAYERS.values(), ids=LAYERS)
def test_dora_is_what_peft_merges_and_promises_no_rank(tmp_path: Path, targets: list[str]) -> None:
    made = make(tmp_path, LoraConfig(target_modules=targets, r=4, lora_alpha=6, use_dora=True))
    assert_as_merged(made)
    adapter = made.adapter()
    assert adapter.method == "DoRA r=4"
    assert {(update.rank, update.needs_base) for update in adapter.updates} == {(None, True)}
    assert adapter.facts["ranks"] == {4: len(targets)}


def test_an_attention_counts_its_out_proj_once(tmp_path: Path) -> None:
    made = make(tmp_path, LoraConfig(target_modules=["attention"], r=4, lora_alpha=6, alpha_pattern={"attention": 9}))
    found = ours(made)
    assert found.keys() == {"attention.in_proj_weight", "attention.out_proj.weight"}
    # peft 0.21.2 merges the out_proj twice, see its MultiheadAttention.merge.
    for name, times in (("attention.in_proj_weight", 1), ("attention.out_proj.weight", 2)):
        assert (times * found[name] - made.deltas[name]).norm() < 1e-6 * made.deltas[name].norm()
    assert any("twice" in note for note in made.adapter().notes)


VARIANTS = {
    "gaussian": ({"init_lora_weights": "gaussian"}, "LoRA r=4"),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, "LoRA r=4"),
    "mica": ({"init_lora_weights": "mica"}, "LoRA r=4"),
    "no init": ({"init_lora_weights": False}, "LoRA r=4"),
    "monteclora": ({"monteclora_config": MontecloraConfig()}, "MonteCLoRA r=4"),
    "velora": ({"velora_config": VeloraConfig(num_groups=4)}, "VeLoRA r=4"),
    "bd-lora": (
        {"use_bdlora": BdLoraConfig(nblocks=2, target_modules_bd_a=["up"], target_modules_bd_b=["down", "middle"])},
        "BD-LoRA r=4",
    ),
    "rslora dora": ({"use_dora": True, "use_rslora": True}, "DoRA r=4 (rsLoRA scale)"),
}


@pytest.mark.parametrize(("options", "method"), VARIANTS.values(), ids=VARIANTS)
def test_every_variant_is_what_peft_merges(tmp_path: Path, options: dict[str, object], method: str) -> None:
    # MiCA decomposes the base when it begins, which peft does in at most 32 bits.
    dtype = torch.float32 if options.get("init_lora_weights") == "mica" else torch.float64
    made = make(tmp_path, LoraConfig(target_modules=LINEAR, r=4, lora_alpha=6, **options), dtype=dtype)
    assert_as_merged(made, rtol=1e-6 if dtype == torch.float64 else 2e-5)
    assert made.adapter().method == method


STARTS = {
    "pissa": ({"init_lora_weights": "pissa"}, "PiSSA", 8),
    "olora": ({"init_lora_weights": "olora"}, "OLoRA", 8),
    "kasa": ({"kasa_config": KasaConfig()}, "KaSA", 8),
    "pissa dora": ({"init_lora_weights": "pissa", "use_dora": True}, "DoRA", None),
    "olora rslora": ({"init_lora_weights": "olora", "use_rslora": True}, "OLoRA", 8),
    "pissa patterns": (
        {"init_lora_weights": "pissa", "rank_pattern": {"up": 3}, "alpha_pattern": {"down": 1}},
        "PiSSA",
        8,
    ),
}


@pytest.mark.parametrize(("options", "method", "rank"), STARTS.values(), ids=STARTS)
def test_what_an_initialisation_took_from_the_base_counts(
    tmp_path: Path, options: dict[str, object], method: str, rank: int | None
) -> None:
    made = make(tmp_path, LoraConfig(target_modules=LINEAR, r=4, lora_alpha=6, **options), dtype=torch.float32)
    assert_as_merged(made, rtol=2e-5)
    adapter = made.adapter()
    assert adapter.method.startswith(method)
    assert {u.module: u.rank for u in adapter.updates}["middle"] == rank
    assert all(update.needs_base for update in adapter.updates)
    assert any("against the original base" in note for note in adapter.notes)


def test_pissa_reaches_the_same_on_a_large_layer(tmp_path: Path) -> None:
    """Where the leading triplets come from a Krylov space; Eckart-Young in float64 is the oracle."""
    base, tensors = normal(800, 900), lora_factors("m", 800, 900, rank=4)
    folder = save_adapter(tmp_path / "a", tensors, r=4, lora_alpha=6, init_lora_weights="pissa")
    u, s, vh = torch.linalg.svd(base.double(), full_matrices=False)
    a, b = (tensors[f"{PREFIX}m.lora_{side}.weight"].double() for side in "AB")
    expected = 1.5 * b @ a - (u[:, :4] * s[:4]) @ vh[:4]
    assert (delta(only(parsed(folder)), base) - expected).norm() < 1e-9 * expected.norm()


def test_the_diagonal_of_kasa_may_be_saved_as_a_column(tmp_path: Path) -> None:
    tensors, base = {"m.lora_A.weight": normal(2, 5), "m.lora_B.weight": normal(6, 2)}, normal(6, 5).double()
    flat, column = (
        only(written(tmp_path / name, {**tensors, "m.lora_diag": diagonal}, kasa_config={})).read(base).dense()
        for name, diagonal in {"flat": normal(2, seed=4), "column": normal(2, 1, seed=4)}.items()
    )
    torch.testing.assert_close(column, flat)


def test_a_converted_pissa_is_plain(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=LINEAR, r=4, lora_alpha=6, init_lora_weights="pissa")
    start = make(tmp_path / "start", config, noise=0.0, dtype=torch.float32, merge=False).folder
    fields = json.loads((start / "adapter_config.json").read_text())
    (start / "adapter_config.json").write_text(json.dumps(fields | {"init_lora_weights": True}))

    def convert(tuned: nn.Module) -> None:
        tuned.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(start))

    made = make(tmp_path / "made", config, dtype=torch.float32, change=convert)
    adapter = parsed(tmp_path / "converted")
    assert adapter.method == "LoRA r=8"
    for update in adapter.updates:
        expected = made.deltas[update.target]
        assert (delta(update) - expected).norm() < 2e-5 * expected.norm()


REFUSED = {
    "pissa_niter_4": "randomised",
    "corda": "training data",
    "lora_ga": "gradients",
    "loftq": "quantising",
    "tomorrow": "not known",
}


@pytest.mark.parametrize(("init", "reason"), REFUSED.items(), ids=REFUSED)
def test_an_initialisation_that_cannot_be_undone_is_refused(tmp_path: Path, init: str, reason: str) -> None:
    save_adapter(tmp_path, lora_factors("m", 6, 5), init_lora_weights=init)
    with pytest.raises(AdapterError, match=reason):
        parsed(tmp_path)


def test_qalora_pools_its_inputs_as_peft_does(tmp_path: Path) -> None:
    a, b, base = normal(2, 3), normal(5, 2, seed=1), normal(5, 12)
    tensors = {"m.lora_A.weight": a, "m.lora_B.weight": b}
    update = only(written(tmp_path, tensors, use_qalora=True, qalora_group_size=4, lora_alpha=3))
    layer = SimpleNamespace(
        lora_A={"x": SimpleNamespace(weight=a.double())},
        lora_B={"x": SimpleNamespace(weight=b.double())},
        lora_dropout={"x": nn.Identity()},
        scaling={"x": 1.5},
        qalora_group_size={"x": 4},
        in_features=12,
        training=False,
    )
    unit = torch.eye(12, dtype=torch.float64)
    expected = QALoraLinearVariant.forward(layer, "x", unit, torch.zeros(12, 5, dtype=torch.float64)).mT
    assert torch.allclose(delta(update, base), expected, atol=1e-6)
    # On a base that GPTQ did not quantise peft ignores the option.
    assert torch.allclose(delta(update, base[:, :3]), 1.5 * (b @ a).double(), atol=1e-6)
    for other in (base[:, :11], base[:4]):
        with pytest.raises(AdapterError, match="is this its base"):
            delta(update, other)


def test_alora_is_analysed_and_called_conditional(tmp_path: Path) -> None:
    adapter = written(
        tmp_path, {k[len(PREFIX) :]: t for k, t in lora_factors("m", 6, 5).items()}, alora_invocation_tokens=[1]
    )
    assert adapter.method == "aLoRA r=2"
    assert any("conditional" in note for note in adapter.notes)


def test_the_grouped_lora_of_peft_0_2_is_what_it_merged(tmp_path: Path) -> None:
    """Against MergedLinear of peft 0.2: a grouped convolution of A by B, spread over the enabled thirds."""
    enabled, a, b = [True, False, True], normal(4, 10), normal(12, 2, 1, seed=1)
    tensors = {"qkv.lora_A.weight": a, "qkv.lora_B.weight": b}
    update = only(written(tmp_path, tensors, enable_lora=enabled, lora_alpha=3))
    rows = torch.nn.functional.conv1d(a[None].double(), b.double(), groups=2)[0] * 1.5
    expected = torch.zeros(18, 10, dtype=torch.float64)
    expected[torch.tensor(enabled).repeat_interleave(6)] = rows
    assert torch.allclose(delta(update), expected, atol=1e-6)
    assert (update.shape, update.rank) == ((18, 10), 4)


def test_a_grouped_convolution_of_groups_is_one_grouped_kernel(tmp_path: Path) -> None:
    a, b, x = normal(4, 3, 2, 2), normal(8, 2, 1, 1, seed=1), normal(1, 6, 5, 5, seed=2).double()
    adapter = written(tmp_path, {"c.lora_A.weight": a, "c.lora_B.weight": b}, r=4, lora_alpha=6)
    kernel = delta(only(adapter)).reshape(8, 3, 2, 2)
    conv = torch.nn.functional.conv2d
    twice = 1.5 * conv(conv(x, a.double(), groups=2), b.double(), groups=2)
    assert torch.allclose(conv(x, kernel, groups=2), twice, atol=1e-5)
    assert any("grouped convolution" in note for note in adapter.notes)


def as_reloaded(tuned: nn.Module) -> None:
    """Peft trains the number it divides by where the base is not float32, and does not save it: it is r again."""
    for name, parameter in tuned.named_parameters():
        if ".ranknum." in name:
            parameter.data.fill_(4.0)


@pytest.mark.parametrize("alpha", [6, 0], ids=["alpha", "no alpha"])
def test_adalora_is_what_peft_merges(tmp_path: Path, alpha: int) -> None:
    config = AdaLoraConfig(
        target_modules=["up", "wide", "plane", "middle"], init_r=4, target_r=2, total_step=9, lora_alpha=alpha
    )
    made = make(tmp_path, config, change=as_reloaded)
    assert_as_merged(made)
    assert made.adapter().method == "AdaLoRA r=4"


def test_what_adalora_pruned_is_gone_and_its_scale_stays(tmp_path: Path) -> None:
    masks = {"up.lora_E": [True, False, True, False], "middle.lora_E": [False] * 4}
    config = AdaLoraConfig(target_modules=LINEAR, init_r=4, target_r=2, total_step=9, rank_pattern=masks)

    def prune(tuned: nn.Module) -> None:
        as_reloaded(tuned)
        for name, mask in masks.items():
            tuned.get_submodule(f"{PREFIX}{name}").default.data *= torch.tensor(mask)[:, None]

    made = make(tmp_path, config, change=prune)
    found = {update.module: update for update in made.adapter().updates}
    assert {module: update.rank for module, update in found.items()} == {"up": 2, "down": 4, "middle": 0}
    for module in ("up", "down"):
        expected = made.deltas[f"{module}.weight"]
        assert (delta(found[module]) - expected).norm() < 1e-6 * expected.norm()
    assert not delta(found["middle"]).any()
    assert "middle.weight" not in made.deltas


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["up"], r=2, trainable_token_indices=[7, 1]),
        LoraConfig(target_modules=["up"], r=2, trainable_token_indices={"tokens": [7, 1]}),
        TrainableTokensConfig(target_modules=["tokens"], token_indices=[7, 1]),
    ],
    ids=["list", "by module", "kind of its own"],
)
def test_trainable_tokens_replace_rows(tmp_path: Path, config: LoraConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.peft_oracle import Toy

    monkeypatch.setattr(Toy, "get_input_embeddings", lambda self: self.tokens, raising=False)
    made = make(tmp_path, config)
    assert_as_merged(made)
    update = next(update for update in made.adapter().updates if update.module == "tokens")
    assert (update.rank, update.shape) == (2, (10, 12))


def test_tokens_beyond_the_vocabulary_of_the_base_are_new(tmp_path: Path) -> None:
    base, new = normal(10, 4), normal(3, 4, seed=1)
    save_checkpoint(tmp_path / "base", {"tokens.weight": base})
    save_adapter(
        tmp_path / "a", {"tokens.trainable_tokens_delta": new}, peft_type="TRAINABLE_TOKENS", token_indices=[11, 2, 10]
    )
    adapter = parsed(tmp_path / "a", tmp_path / "base")
    expected = torch.zeros(10, 4, dtype=torch.float64)
    expected[2] = new[1].double() - base[2].double()
    assert torch.allclose(delta(only(adapter), base), expected)
    assert any("2 of the trainable tokens" in note for note in adapter.notes)


def test_many_tokens_are_as_right_as_few(tmp_path: Path) -> None:
    base, new, indices = normal(10, 4), normal(6, 4, seed=1), [9, 0, 3, 2, 7, 5]
    tensors = {"tokens.trainable_tokens_delta": new}
    update = only(written(tmp_path, tensors, peft_type="TRAINABLE_TOKENS", token_indices=indices))
    after = base.clone()
    after[indices] = new
    assert torch.equal(delta(update, base), after.double() - base.double())
    assert update.rank is None


def test_biases_are_shifted_by_lora_bias_and_replaced_by_bias(tmp_path: Path) -> None:
    made = make(
        tmp_path / "shift", LoraConfig(target_modules=["up", "wide", "plane"], r=4, lora_alpha=6, lora_bias=True)
    )
    adapter = made.adapter()
    assert {shift.target for shift in adapter.shifts} == {"up.bias", "wide.bias", "plane.bias"}
    for shift in adapter.shifts:
        before = made.before[shift.target]
        assert torch.allclose(shift.read(before) - before, made.deltas[shift.target], atol=1e-7)
    whole = make(tmp_path / "all", LoraConfig(target_modules=["attention", "up"], r=4, bias="all")).adapter()
    assert {"attention.out_proj.bias", "up.bias", "norm.bias"} <= whole.replaced.keys()
    assert not whole.shifts


def test_a_saved_module_of_several_parts_has_its_plain_names(tmp_path: Path) -> None:
    tensors = {
        "m.lora_A.default.weight": normal(2, 5),
        "m.lora_B.default.weight": normal(6, 2),
        "head.modules_to_save.default.dense.weight": normal(3, 4),
        "head.original_module.dense.weight": normal(3, 4),
        "_orig_mod.norm.modules_to_save.weight": normal(4),
    }
    assert written(tmp_path, tensors).replaced.keys() == {"head.dense.weight", "norm.weight"}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module.", "module._orig_mod."])
def test_what_compilers_and_wrappers_put_into_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    tensors = {f"{prefix}{name}": tensor for name, tensor in lora_factors("layers.0._orig_mod.q_proj", 6, 5).items()}
    assert only(parsed(save_adapter(tmp_path, tensors))).module == "layers.0.q_proj"


def test_the_copy_of_an_embedding_that_peft_saves_counts_only_by_its_difference(tmp_path: Path) -> None:
    base, a, b = normal(10, 4), normal(2, 13), normal(4, 2, seed=1)
    longer = torch.cat([base, normal(3, 4, seed=2)])
    tensors = {"t.lora_embedding_A": a, "t.lora_embedding_B": b, "t.base_layer.weight": longer}
    product = 2.0 * (b.double() @ a.double()).mT[:10]
    save_checkpoint(tmp_path / "base", {"t.weight": base})
    written(tmp_path, tensors)
    update = only(parsed(tmp_path / "adapter", tmp_path / "base"))
    assert update.shape == (10, 4)
    assert isinstance(update.read(base), LowRank)
    assert torch.allclose(delta(update, base), product)
    assert torch.allclose(delta(update, base + 1), product - 1, atol=1e-6)
    with pytest.raises(AdapterError, match="is this its base"):
        delta(update, normal(14, 4))


@pytest.mark.parametrize("stores_head", [False, True])
def test_a_tied_update_counts_once_unless_the_base_stores_the_head(tmp_path: Path, stores_head: bool) -> None:
    a, b = normal(2, 10), normal(4, 2, seed=1)
    tensors = {"t.lora_embedding_A": a, "t.lora_embedding_B": b}
    head = {"lm_head.lora_A.weight": b.mT.clone(), "lm_head.lora_B.weight": a.mT.clone()}
    written(tmp_path, tensors | head, ensure_weight_tying=True)
    names = ["t", "lm_head"] if stores_head else ["t"]
    save_checkpoint(tmp_path / "base", {f"{name}.weight": normal(10, 4, seed=len(name)) for name in names})
    adapter = parsed(tmp_path / "adapter", tmp_path / "base")
    assert {update.module for update in adapter.updates} == set(names)
    assert any("tied" in note for note in adapter.notes) != stores_head


@pytest.mark.parametrize(
    ("config", "adapts", "dtype"),
    [
        (LoraConfig(target_modules=["tokens", "up", "wide", "plane"], r=4, use_dora=True), 4, torch.float64),
        (LoraConfig(target_modules=["up", "space"], r=4, lora_bias=True), 2, torch.float64),
        (LoraConfig(target_modules=["up", "middle"], r=4, init_lora_weights="olora"), 2, torch.float32),
        (TrainableTokensConfig(target_modules=["tokens"], token_indices=[3, 9]), 1, torch.float64),
    ],
    ids=["dora", "lora_bias", "olora", "tokens"],
)
def test_a_comparison_measures_what_peft_merges(
    tmp_path: Path, config: LoraConfig, adapts: int, dtype: torch.dtype
) -> None:
    made = make(tmp_path, config, dtype=dtype)
    result = wanalyze.compare(made.base, made.folder, cache=False)
    found = {m.name: m.metrics["delta_norm"] for m in result.modules if m.status is Status.measured}
    moved = {v.name: v.metrics["delta_norm"] for v in result.vectors if v.status is Status.measured}
    expected = {name: delta.norm().item() for name, delta in made.deltas.items()}
    assert len(found) == adapts
    assert {f"{name}.weight": norm for name, norm in found.items()} | moved == pytest.approx(expected, rel=2e-5)


def test_dora_over_a_longer_embedding_takes_its_norms_over_all_of_it(tmp_path: Path) -> None:
    base, a, b, m = normal(10, 4), normal(2, 13), normal(4, 2, seed=1), normal(4, seed=5).abs()
    longer = torch.cat([base, normal(3, 4, seed=2)])
    tensors = {"t.lora_embedding_A": a, "t.lora_embedding_B": b, "t.lora_magnitude_vector": m}
    update = only(written(tmp_path, tensors | {"t.base_layer.weight": longer}, use_dora=True))
    v = longer.double() + 2.0 * (b.double() @ a.double()).mT
    expected = (m.double() / v.norm(dim=0) * v - longer.double())[:10]
    assert torch.allclose(delta(update, base), expected)


def test_a_lora_that_was_never_trained_is_no_error(tmp_path: Path) -> None:
    tensors = {"m.lora_A.weight": normal(2, 5), "m.lora_B.weight": torch.zeros(6, 2)}
    assert not delta(only(written(tmp_path, tensors))).any()


def test_every_field_and_factor_changes_a_number(tmp_path: Path) -> None:
    """What a swapped, transposed or forgotten piece would give is told apart: the norm alone differs."""
    a, b = normal(4, 5), normal(6, 4, seed=1)
    tensors = {"m.lora_A.weight": a, "m.lora_B.weight": b}

    def norm(folder: str, **config: object) -> float:
        return delta(only(written(tmp_path / folder, tensors, **{"r": 4, "lora_alpha": 6, **config}))).norm().item()

    unit = (b.double() @ a.double()).norm().item()
    found = {
        "alpha over r": norm("0") / unit,
        "rslora": norm("1", use_rslora=True) / unit,
        "pattern": norm("2", alpha_pattern={"m": 2}) / unit,
        "float": norm("3", lora_alpha=1.25) / unit,
    }
    assert found == pytest.approx({"alpha over r": 1.5, "rslora": 3.0, "pattern": 0.5, "float": 0.3125})
    with pytest.raises(AdapterError, match="gives it rank 4"):
        written(tmp_path / "swapped", {"m.lora_A.weight": b, "m.lora_B.weight": a}, r=4)
    with pytest.raises(AdapterError, match="gives it rank 4"):
        written(tmp_path / "turned", {"m.lora_A.weight": a.mT, "m.lora_B.weight": b.mT}, r=4)
    assert only(written(tmp_path / "shape", tensors, r=4)).shape == (6, 5)


def test_the_facts_say_where_an_adapter_comes_from(tmp_path: Path) -> None:
    tensors = {k[len(PREFIX) :]: t for k, t in lora_factors("m", 6, 5).items()}
    base = {"base_model_name_or_path": "unsloth/x-bnb-4bit", "target_modules": ["m"]}
    facts = written(tmp_path / "old", tensors, **base, use_dora=False).facts
    assert facts["trained_with"] == "unsloth"
    assert facts["peft_version"] == "0.9 or later, by the fields of its config"
    assert (facts["ranks"], facts["scales"], facts["target_modules"]) == ({2: 1}, {2.0: 1}, ["m"])
    assert (facts["alpha"], facts["scale_rule"], facts["initialisation"]) == (4.0, "alpha / r", "True")
    residual = written(tmp_path / "residual", tensors, base_model_name_or_path="out/pissa_init")
    assert any("compare it with that one" in note for note in residual.notes)
    assert any("LoftQ" in note for note in written(tmp_path / "left", tensors, loftq_config={"loftq_bits": 4}).notes)


A, B, M = "m.lora_A.weight", "m.lora_B.weight", "m.lora_magnitude_vector"
GOOD = {A: normal(2, 5), B: normal(6, 2)}
E_A, E_B = "t.lora_embedding_A", "t.lora_embedding_B"
CONTRADICTIONS = {
    "DoRA without magnitudes": (GOOD, {"use_dora": True}, "no lora_magnitude_vector in spite of use_dora"),
    "magnitudes without DoRA": (GOOD | {M: normal(6)}, {}, "lora_magnitude_vector, which needs use_dora"),
    "magnitudes of the inputs": (GOOD | {M: normal(5)}, {"use_dora": True}, "6 numbers are needed"),
    "a bias unasked": (GOOD | {"m.lora_B.bias": normal(6)}, {}, "which needs lora_bias"),
    "a bias missing": (GOOD, {"lora_bias": True}, "no lora_B.bias"),
    "a diagonal unasked": (GOOD | {"m.lora_diag": normal(2)}, {}, "which needs kasa_config"),
    "KaSA without its diagonal": (GOOD, {"kasa_config": {}}, "no lora_diag"),
    "two variants": (GOOD, {"use_dora": True, "use_qalora": True}, "DoRA and QALoRA at once"),
    "Arrow": (GOOD, {"arrow_config": {"top_k": 2}}, "Arrow router"),
    "an option of the future": (GOOD, {"use_zlora": True}, "'use_zlora', an option"),
    "a config of the future": (GOOD, {"zlora_config": {"k": 1}}, "'zlora_config', an option"),
    "pissa with alpha 0": (GOOD, {"init_lora_weights": "pissa", "lora_alpha": 0}, "by zero"),
    "pissa of an embedding": (
        {E_A: normal(2, 9), E_B: normal(4, 2)},
        {"init_lora_weights": "pissa"},
        "is no linear layer",
    ),
    "olora where peft is wrong": (GOOD, {"init_lora_weights": "olora", "fan_in_fan_out": True}, "wrong sides"),
    "both factors in blocks": (
        GOOD,
        {"use_bdlora": {"nblocks": 2, "target_modules_bd_a": ["m"], "target_modules_bd_b": ["m"]}},
        "both factors",
    ),
    "blocks that do not divide": (GOOD, {"use_bdlora": {"nblocks": 4, "target_modules_bd_b": ["m"]}}, "rank 2"),
    "an embedding and a layer": (GOOD | {"m.lora_embedding_A": normal(2, 9)}, {}, "no lora_embedding_B"),
    "all four factors": (
        GOOD | {"m.lora_embedding_A": normal(2, 9), "m.lora_embedding_B": normal(4, 2)},
        {},
        "gives it rank 2",
    ),
    "blocks of more than anything holds": (
        {A: normal(2**15, 1), B: normal(2**15, 1, 1)[:, :, 0]},
        {"r": 2**15, "use_bdlora": {"nblocks": 2**15, "target_modules_bd_b": ["m"]}},
        "block-diagonal factor",
    ),
    "a shard": ({A: normal(10), B: normal(12)}, {}, "did not gather"),
    "an empty saved module": (GOOD | {"score.weight": torch.zeros(0)}, {}, "ZeRO-3"),
    "a grouped B without the groups": ({A: normal(4, 5), B: normal(6, 2, 1)}, {}, "gives it rank 2"),
    "a kernel of B": ({A: normal(2, 5, 3), B: normal(6, 2, 3)}, {}, "gives it rank 2"),
    "tokens missing": (GOOD, {"trainable_token_indices": [1]}, "no tensor holds their rows"),
    "tokens too few": (
        GOOD | {"t.token_adapter.trainable_tokens_delta": normal(1, 4)},
        {"trainable_token_indices": [1, 2]},
        "2 different indices",
    ),
    "tokens twice": (
        GOOD | {"t.token_adapter.trainable_tokens_delta": normal(2, 4)},
        {"trainable_token_indices": [3, 3]},
        "1 different indices",
    ),
    "a negative token": (GOOD, {"trainable_token_indices": [-1]}, "trainable_token_indices"),
    "a whole weight beside": (GOOD | {"m.weight": normal(6, 5)}, {}, "only one can be meant"),
    "a whole weight of another shape": (GOOD | {"m.base_layer.weight": normal(5, 6)}, {}, "only one can be meant"),
    "one part twice": (GOOD | {"m.lora_A.default.weight": normal(2, 5)}, {}, "same part of a module"),
    "integers": (GOOD | {A: torch.ones(2, 5, dtype=torch.int8)}, {}, "real numbers"),
    "wrapped twice": ({k.replace("m.", "m.base_layer."): t for k, t in GOOD.items()}, {}, "target_parameters"),
}


@pytest.mark.parametrize(("tensors", "config", "rule"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, object], rule: str
) -> None:
    with pytest.raises(AdapterError, match=rule):
        written(tmp_path, tensors, **config)


ADALORA = {"m.lora_A": normal(3, 5), "m.lora_B": normal(6, 3), "m.lora_E": normal(3, 1)}
OF_ADALORA = {
    "the rank": (ADALORA, {"init_r": 4}, "leaves it rank 4"),
    "a mask": (ADALORA, {"init_r": 3, "rank_pattern": {"m.lora_E": [True, False, True]}}, "leaves it rank 2"),
    "no values": ({k: t for k, t in ADALORA.items() if k != "m.lora_E"}, {"init_r": 3}, "no lora_E"),
    "DoRA": (ADALORA, {"init_r": 3, "use_dora": True}, "use_dora"),
    "a mask of numbers": (ADALORA, {"init_r": 3, "rank_pattern": {"m.lora_E": 3}}, "rank_pattern"),
    "empty": ({k: t[:0] for k, t in ADALORA.items()}, {"init_r": 3}, "ZeRO-3"),
}


@pytest.mark.parametrize(("tensors", "config", "rule"), OF_ADALORA.values(), ids=OF_ADALORA)
def test_adalora_refuses_contradictions(
    tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, object], rule: str
) -> None:
    with pytest.raises(AdapterError, match=rule):
        written(tmp_path, tensors, peft_type="ADALORA", **config)
