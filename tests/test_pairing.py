"""What belongs to what, and that nothing is left over without a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import wanalyze
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from wanalyze.errors import PairingError
from wanalyze.result import Result, Status


def compared(
    tmp_path: Path, base: dict[str, torch.Tensor], tuned: dict[str, torch.Tensor], **options: object
) -> Result:
    return wanalyze.compare(
        save_checkpoint(tmp_path / "base", base), save_checkpoint(tmp_path / "tuned", tuned), **options
    )


def moved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor + 0.01 * normal(*tensor.shape, seed=99) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("layers.", "layers._fsdp_wrapped_module."),
        lambda name: f"base_model.model.{name}",
        lambda name: name.removeprefix("model."),
        lambda name: f"language_model.{name}",
    ],
)
def test_names_are_matched_through_their_wrappers(tmp_path: Path, rename) -> None:  # type: ignore[no-untyped-def]
    base = tiny_base()
    result = compared(tmp_path, base, {rename(name): tensor for name, tensor in moved(base).items()})
    assert not result.skipped
    assert {module.name for module in result.modules} == {
        n.removesuffix(".weight") for n, t in base.items() if t.ndim == 2
    }
    assert all(module.status is Status.measured for module in result.modules)


def test_every_leftover_has_its_reason(tmp_path: Path) -> None:
    base = tiny_base() | {
        "only_in_base.weight": normal(4, 4),
        "ids": torch.arange(3),
        "scalar": torch.tensor(1.0),
        "class_token": normal(1, 3, 4),
        "resized.weight": normal(6, 4),
        "empty.weight": torch.zeros(0, 4),
    }
    tuned = {name: tensor for name, tensor in base.items() if name != "only_in_base.weight"} | {
        "resized.weight": normal(8, 4),
        "score.weight": normal(2, 16),
        "extra.weight": normal(2, 16),
    }
    result = compared(tmp_path, base, tuned)
    reasons = {item.name: item.reason for item in result.skipped}
    assert reasons == {
        "only_in_base": "missing in tuned",
        "ids": "integer (int64) in the base",
        "scalar": "not a matrix: shape []",
        "class_token": "not a matrix: shape [1, 3, 4]",
        "resized": "other shape: [6, 4] in the base, [8, 4] in the tuned",
        "empty": "not a matrix: shape [0, 4]",
        "score": "new head, not in the base",
        "extra": "missing in base",
    }


def test_every_tensor_is_accounted_for(trained: Result) -> None:
    for model in trained.models:
        s = model.summary
        assert s.measured + s.unchanged + s.skipped == 44 + s.vectors - 13
        assert s.vectors == 13
        assert s.weights == 2_017_728


def test_a_grown_vocabulary_is_compared_in_its_common_rows(tmp_path: Path) -> None:
    base = tiny_base()
    name = "model.embed_tokens.weight"
    tuned = base | {name: torch.cat([base[name] + 0.1, normal(4, 16)])}
    module = compared(tmp_path, base, tuned)["model.embed_tokens"][0]
    assert module.shape == [30, 16]
    assert module.reason == "first 30 rows compared: the base has 30, the tuned 34"
    assert module.metric("delta_norm") == pytest.approx(0.1 * 480**0.5, rel=1e-5)
    back = wanalyze.compare(tmp_path / "tuned", f"shrunk={tmp_path / 'base'}")["model.embed_tokens"][0]
    assert back.shape == [30, 16]


def test_shape_alone_never_pairs(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="none of its 1 tensors"):
        compared(tmp_path, {"a.weight": normal(4, 4)}, {"b.weight": normal(4, 4)})


def test_a_module_without_a_base_weight_is_an_error_unless_allowed(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    factors = lora_factors("model.layers.0.mlp.up_proj", 20, 16) | lora_factors("model.layers.9.mlp.up_proj", 20, 16)
    adapter = save_adapter(tmp_path / "adapter", factors)
    with pytest.raises(PairingError, match=r"1 of 2 modules.*layers\.9.*--allow-unmatched"):
        wanalyze.compare(base, adapter)
    result = wanalyze.compare(base, adapter, allow_unmatched=True)
    assert [(item.name, item.reason) for item in result.skipped] == [("model.layers.9.mlp.up_proj", "missing in base")]
    lost = save_adapter(tmp_path / "lost", lora_factors("model.layers.9.mlp.up_proj", 20, 16))
    with pytest.raises(PairingError, match="is this its base"):
        wanalyze.compare(base, lost, allow_unmatched=True)


def test_an_adapter_of_another_shape_is_an_error(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    adapter = save_adapter(tmp_path / "adapter", lora_factors("model.layers.0.mlp.up_proj", 24, 16))
    with pytest.raises(PairingError, match=r"other shape: \(20, 16\) in the base, \(24, 16\) in the update"):
        wanalyze.compare(base, adapter)


def test_conv1d_is_turned_so_that_rows_are_outputs(tmp_path: Path) -> None:
    base = {
        "h.0.attn.c_attn.weight": normal(8, 24),
        "h.0.attn.c_proj.weight": normal(8, 8),
        "wte.weight": normal(30, 8),
    }
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    tuned["h.0.attn.c_proj.weight"][:, 0] += 1.0  # one output of a square weight stored (in, out)
    tuned["h.0.attn.c_attn.weight"][0, 0] += 1.0
    result = compared(tmp_path, base, tuned)
    assert result["h.0.attn.c_attn"][0].shape == [24, 8]
    square = result["h.0.attn.c_proj"][0]
    rows = (
        tuned["h.0.attn.c_proj.weight"].double().norm(dim=0) - base["h.0.attn.c_proj.weight"].double().norm(dim=0)
    ).abs()
    assert square.metric("magnitude_change") == pytest.approx(rows.mean().item(), rel=1e-6)


def test_only_and_skip_choose_modules(tmp_path: Path) -> None:
    base = tiny_base()
    result = compared(tmp_path, base, moved(base), only=["*.mlp.*"], skip=["*down_proj"])
    assert {module.kind for module in result.modules} == {"up_proj"}
    assert {item.reason for item in result.skipped} == {"left out by --only or --skip"}


def test_a_bad_entry_is_located_and_the_rest_measured(tmp_path: Path) -> None:
    base = tiny_base()
    tuned = moved(base)
    tuned["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    tuned["model.layers.0.norm.weight"][2] = float("inf")
    result = compared(tmp_path, base, tuned)
    module = result["model.layers.1.mlp.up_proj"][0]
    assert module.status is Status.failed
    assert module.reason == "tuned holds nan at [3, 5]; not a number to measure"
    assert set(module.metrics.values()) == {None}
    vector = next(vector for vector in result.vectors if vector.name == "model.layers.0.norm")
    assert vector.reason == "tuned holds inf at [2]; not a number to measure"
    assert result.models[0].summary.failed == 2
    assert result.models[0].summary.measured == 6


def test_a_bad_base_fails_for_every_model(tmp_path: Path) -> None:
    base = tiny_base()
    good = save_checkpoint(tmp_path / "good", moved(base))
    base["model.layers.0.mlp.up_proj.weight"][0, 0] = float("inf")
    result = wanalyze.compare(save_checkpoint(tmp_path / "base", base), good, f"again={good}")
    assert [m.reason for m in result["model.layers.0.mlp.up_proj"]] == [
        "base holds inf at [0, 0]; not a number to measure"
    ] * 2


def test_an_exact_name_wins_over_a_wrapped_one_in_any_order(tmp_path: Path) -> None:
    base = {"q.weight": normal(4, 4)}
    for order in (("module.q.weight", "q.weight"), ("q.weight", "module.q.weight")):
        tuned = {name: base["q.weight"] + (name != "q.weight") for name in order}
        result = compared(tmp_path, base, tuned)
        assert result["q"][0].status is Status.unchanged
        assert [item.reason for item in result.skipped] == ["another tensor already stands for q.weight"]


def test_two_tensors_of_one_name_do_not_mix(tmp_path: Path) -> None:
    base = {"x": normal(4, 4, seed=1), "x.weight": normal(4, 4, seed=2)}
    result = compared(tmp_path, base, base)
    assert [module.status for module in result["x"]] == [Status.unchanged]
    assert [item.reason for item in result.skipped] == ["another tensor is the weight of this name"]


def test_two_modules_of_an_adapter_may_not_mean_one_weight(tmp_path: Path) -> None:
    factors = lora_factors("model.layers.0.mlp.up_proj", 20, 16) | lora_factors("layers.0.mlp.up_proj", 20, 16)
    adapter = save_adapter(tmp_path / "adapter", factors)
    with pytest.raises(PairingError, match="two of its modules"):
        wanalyze.compare(save_checkpoint(tmp_path / "base", tiny_base()), adapter)


def test_a_reversed_adapter_needs_a_reason(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", tiny_base())
    factors = lora_factors("model.layers.0.mlp.up_proj", 16, 20)
    with pytest.raises(PairingError, match="other shape"):
        wanalyze.compare(base, save_adapter(tmp_path / "adapter", factors))
    result = wanalyze.compare(base, save_adapter(tmp_path / "adapter", factors, fan_in_fan_out=True))
    assert result["model.layers.0.mlp.up_proj"][0].shape == [16, 20]


def test_fan_in_fan_out_over_linear_layers_is_overridden_as_by_peft(tmp_path: Path) -> None:
    """Only values show the orientation of the square weight; the other one shows what the base stores."""
    base = {"l.0.q_proj.weight": normal(12, 12), "l.0.up_proj.weight": normal(20, 12)}
    factors = lora_factors("l.0.q_proj", 12, 12) | lora_factors("l.0.up_proj", 20, 12)
    adapter = save_adapter(tmp_path / "adapter", factors, fan_in_fan_out=True)
    result = wanalyze.compare(save_checkpoint(tmp_path / "base", base), adapter)
    a, b = (tensor.double() for tensor in list(factors.values())[:2])
    before = base["l.0.q_proj.weight"].double()
    change = ((before + 2 * b @ a).norm(dim=1) - before.norm(dim=1)).abs().mean().item()
    assert result["l.0.q_proj"][0].metric("magnitude_change") == pytest.approx(change, rel=1e-6)


TIED = {"model.embed_tokens.weight": normal(30, 12, seed=1), "model.layers.0.up_proj.weight": normal(20, 12, seed=2)}


def test_an_update_of_a_head_that_is_tied_is_held_against_the_embedding(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", TIED)
    embedding = "base_model.model.model.embed_tokens.lora_embedding_"
    factors = lora_factors("lm_head", 30, 12)
    factors |= {f"{embedding}A": normal(2, 30, seed=5), f"{embedding}B": normal(12, 2, seed=6)}
    result = wanalyze.compare(base, save_adapter(tmp_path / "adapter", factors))
    head, table = result["lm_head"][0], result["model.embed_tokens"][0]
    a, b = (tensor.double() for tensor in list(factors.values())[:2])
    assert head.metric("delta_norm") == pytest.approx((2 * b @ a).norm().item(), rel=1e-6)
    assert head.metric("base_norm") == table.metric("base_norm")
    assert head.metric("delta_norm") != table.metric("delta_norm")
    assert head.reason == "tied to model.embed_tokens in the base"
    assert not result.skipped


def test_a_head_that_is_neither_stored_nor_tied_is_missing(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", TIED)
    (base / "config.json").write_text('{"tie_word_embeddings": false}')
    with pytest.raises(PairingError, match="lm_head: missing in base"):
        wanalyze.compare(base, save_adapter(tmp_path / "adapter", lora_factors("lm_head", 30, 12)))


def test_a_linear_layer_beside_conv1d_keeps_its_orientation(tmp_path: Path) -> None:
    base = {"h.0.attn.c_attn.weight": normal(4, 12), "h.0.mlp.c_fc.weight": normal(16, 4)}
    adapter = save_adapter(tmp_path / "adapter", lora_factors("h.0.mlp.c_fc", 16, 4))
    result = wanalyze.compare(save_checkpoint(tmp_path / "base", base), adapter)
    assert result["h.0.mlp.c_fc"][0].shape == [16, 4]


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1.7e308])
def test_what_float64_cannot_square_is_a_failure_not_a_number(tmp_path: Path, scale: float) -> None:
    base = {"a.weight": normal(4, 4, dtype=torch.float64), "b.weight": normal(4, 4, dtype=torch.float64)}
    large = {"a.weight": base["a.weight"] + 1, "b.weight": base["b.weight"].sign() * scale}
    result = compared(tmp_path, base, large)
    assert result["b"][0].status is Status.failed
    assert "outside 1e-140 to 1e+140" in (result["b"][0].reason or "")


def test_an_overflowing_alpha_is_a_failure(tmp_path: Path) -> None:
    factors = lora_factors("model.layers.0.mlp.up_proj", 20, 16)
    adapter = save_adapter(tmp_path / "adapter", factors, lora_alpha=1e308)
    result = wanalyze.compare(save_checkpoint(tmp_path / "base", tiny_base()), adapter)
    assert result["model.layers.0.mlp.up_proj"][0].status is Status.failed


def test_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    base = {f"l.{number}.w.weight": normal(2, 2) for number in ("10", "2", "9" * 5000)}
    names = [module.name for module in compared(tmp_path, base, moved(base)).modules]
    assert [len(name) for name in names] == [len("l.2.w"), len("l.10.w"), 5000 + len("l..w")]
