"""LoRA as peft merges it, and every contradiction refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

import wanalyze
from tests.conftest import FIXTURES, lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from wanalyze.adapters.patterns import first_match
from wanalyze.errors import AdapterError
from wanalyze.result import Module, Status

MODULE = "model.layers.0.self_attn.q_proj"


class Toy(nn.Module):
    """Unequal sides, so that a transposition shows; a square Conv1D, where only the values do."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 20)
        self.down = nn.Linear(20, 12)
        self.square = Conv1D(12, 12)
        self.wide = Conv1D(36, 12)
        self.score = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.square(self.down(self.up(x)))
        return self.score(y) + self.wide(y).sum()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 6},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {"r": 4, "lora_alpha": 6, "rank_pattern": {"up": 2}, "alpha_pattern": {"down": 9, "^up": 1}},
        {"r": 4, "lora_alpha": 6, "target_modules": ["square", "wide"], "fan_in_fan_out": True},
        {"r": 3, "lora_alpha": 6, "modules_to_save": ["score"]},
        {"r": 3, "lora_alpha": 6, "bias": "all"},
    ],
    ids=["alpha/r", "rslora", "patterns", "conv1d", "modules_to_save", "bias"],
)
def test_the_update_is_what_peft_merges(tmp_path: Path, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = Toy().double()
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    tuned = get_peft_model(model, LoraConfig(**{"target_modules": ["up", "down"], **options}))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    tuned.save_pretrained(tmp_path / "adapter")
    after = tuned.merge_and_unload(safe_merge=True).state_dict()
    save_checkpoint(tmp_path / "base", before)

    result = wanalyze.compare(tmp_path / "base", tmp_path / "adapter")
    changed = {m.name: m for m in result.modules if m.status is Status.measured}
    drifted = {v.name: v for v in result.vectors if v.status is Status.measured}
    for name, start in before.items():
        delta = after[name].double() - start
        module = name.removesuffix(".weight")
        found = changed.get(module) or drifted.get(module)
        if not delta.any():
            assert found is None, name
            continue
        assert found is not None, name
        assert found.metrics["delta_norm"] == pytest.approx(delta.norm().item(), rel=1e-6)
        if isinstance(found, Module):
            oriented = (
                (after[name].double().mT, start.mT)
                if name.startswith(("square", "wide"))
                else (after[name].double(), start)
            )
            assert found.shape == list(oriented[0].shape)
            rows = [matrix.norm(dim=1) for matrix in oriented]
            assert found.metric("magnitude_change") == pytest.approx((rows[0] - rows[1]).abs().mean().item(), rel=1e-6)


def adapted(tmp_path: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    save_checkpoint(tmp_path / "base", tiny_base())
    return save_adapter(tmp_path / "adapter", tensors, **config)


def delta_norm(tmp_path: Path, tensors: dict[str, torch.Tensor], **config: object) -> float:
    adapted(tmp_path, tensors, **config)
    result = wanalyze.compare(tmp_path / "base", tmp_path / "adapter")
    return float(next(m for m in result.modules if m.name == MODULE).metrics["delta_norm"] or 0)


def test_each_field_of_the_scale_counts(tmp_path: Path) -> None:
    factors = lora_factors(MODULE, 12, 16)
    product = factors[f"base_model.model.{MODULE}.lora_B.weight"] @ factors[f"base_model.model.{MODULE}.lora_A.weight"]
    unit = product.double().norm().item()
    assert delta_norm(tmp_path, factors) == pytest.approx(2 * unit, rel=1e-6)
    assert delta_norm(tmp_path, factors, lora_alpha=16.0) == pytest.approx(8 * unit, rel=1e-6)
    assert delta_norm(tmp_path, factors, use_rslora=True) == pytest.approx(4 / 2**0.5 * unit, rel=1e-6)
    assert delta_norm(tmp_path, factors, alpha_pattern={"q_proj": 1}) == pytest.approx(unit / 2, rel=1e-6)
    first = {r"layers\.0\.self_attn\.q_proj": 6, "q_proj": 1}
    assert delta_norm(tmp_path, factors, alpha_pattern=first) == pytest.approx(3 * unit, rel=1e-6)
    assert delta_norm(tmp_path, factors, r=7, rank_pattern={"q_proj": 2}) == pytest.approx(2 * unit, rel=1e-6)


A, B = f"base_model.model.{MODULE}.lora_A.weight", f"base_model.model.{MODULE}.lora_B.weight"
GOOD = lora_factors(MODULE, 12, 16)
CONTRADICTIONS = {
    "no r": (GOOD, {"r": None}, "r: field required"),
    "r zero": (GOOD, {"r": 0}, "r is '0'"),
    "r as text": (GOOD, {"r": "2"}, "r is '2'"),
    "r true": (GOOD, {"r": True}, "r is 'True'"),
    "no alpha": (GOOD, {"lora_alpha": None}, "lora_alpha"),
    "alpha as text": (GOOD, {"lora_alpha": "lots"}, "lora_alpha is 'lots'"),
    "r against the tensors": (GOOD, {"r": 3}, "gives it rank 3"),
    "B without A": ({B: GOOD[B]}, {}, "lora_B but no lora_A"),
    "A without B": ({A: GOOD[A]}, {}, "lora_A but no lora_B"),
    "A and B swapped": ({A: GOOD[B], B: GOOD[A]}, {}, "gives it rank 2"),
    "nothing": ({"x": normal(2)}, {}, "changes nothing"),
    "empty factors": ({A: torch.zeros(0), B: torch.zeros(0)}, {}, "ZeRO-3"),
    "a kernel and a matrix": ({A: normal(2, 16, 3, 3), B: normal(12, 2)}, {}, "gives it rank 2"),
    "an unknown part": (GOOD | {"base_model.model.x.lora_C": normal(2)}, {}, "no part of LoRA"),
    "DoRA": (GOOD, {"use_dora": True}, "no lora_magnitude_vector"),
    "DoRA by its tensor": (GOOD | {f"base_model.model.{MODULE}.lora_magnitude_vector": normal(12)}, {}, "use_dora"),
    "an embedding": (GOOD | {"base_model.model.e.lora_embedding_A": normal(2, 30)}, {}, "embedding"),
    "fast PiSSA": (GOOD, {"init_lora_weights": "pissa_niter_16"}, "changes the base"),
    "LoftQ": (GOOD, {"init_lora_weights": "loftq", "loftq_config": {"bits": 4}}, "changes the base"),
    "replicated layers": (GOOD, {"layer_replication": [[0, 0]]}, "layer_replication"),
    "another kind": (GOOD, {"peft_type": "NEXT"}, "peft_type NEXT is not supported yet"),
    "no update at all": (GOOD, {"peft_type": "PROMPT_TUNING"}, "no update of a weight"),
    "no kind": (GOOD, {"peft_type": None}, "no peft_type"),
    "a runaway pattern": (GOOD, {"alpha_pattern": {"(a+)+$": 1}}, "without end"),
    "a slow pattern": (GOOD, {"rank_pattern": {".*.*.*x": 2}}, "without end"),
    "a broken pattern": (GOOD, {"rank_pattern": {"[": 1}}, "pattern"),
    "r beyond any tensor": (GOOD, {"r": 10**400}, "r is '1000"),
    "a rank beyond any tensor": (GOOD, {"rank_pattern": {"q_proj": 10**400}}, "q_proj is '1000"),
    "alpha beyond any number": (GOOD, {"lora_alpha": 10**400}, "lora_alpha is '1000"),
    "a pattern of nothing": (GOOD, {"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
}


@pytest.mark.parametrize(("tensors", "config", "rule"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict[str, object], rule: str
) -> None:
    with pytest.raises(AdapterError, match=rule.replace("(", r"\(")):
        wanalyze.open_adapter(save_adapter(tmp_path / "adapter", tensors, **config))


def test_a_pattern_for_every_module_takes_no_time() -> None:
    """As initialisations by data write them; compiled anew each time, this would take minutes."""
    names = [f"model.layers.{layer}.{kind}_proj" for layer in range(300) for kind in "qkvo"]
    table = {name: rank for rank, name in enumerate(names, 1)}
    start = time.monotonic()
    assert [first_match(table, name, 0, field="rank_pattern") for name in names] == list(table.values())
    assert time.monotonic() - start < 10


def test_patterns_that_together_would_take_minutes_are_refused() -> None:
    name = ".".join("a" * 120)
    for table in ({f".*.*{i}": 1 for i in range(60_000)}, {f"[a.]*[a.]*{i}": 1 for i in range(60_000)}):
        with pytest.raises(AdapterError, match="would take minutes"):
            first_match(table, name, 0, field="alpha_pattern")
    usual = {rf".*\.layers\.{i}\..*_proj": i for i in range(300)}
    assert first_match(usual, "model.layers.299.self_attn.q_proj", 0, field="alpha_pattern") == 299


def test_a_dot_of_a_pattern_is_any_character() -> None:
    assert first_match({"q.proj": 1, "q_proj": 2}, "model.q_proj", 0, field="rank_pattern") == 1
    assert first_match({"^q_proj": 1, "odel.q_proj": 2}, "model.q_proj", 0, field="rank_pattern") == 0


def test_peft_defaults_written_as_null_are_accepted(tmp_path: Path) -> None:
    fields = json.loads((FIXTURES / "lora-r8" / "adapter_config.json").read_text())
    adapter = wanalyze.open_adapter(save_adapter(tmp_path / "a", GOOD, **{**fields, "r": 2, "rank_pattern": None}))
    assert adapter.method == "LoRA r=2"


def test_wrapped_names_are_unwrapped(tmp_path: Path) -> None:
    prefix = "base_model.model."
    tensors = {name.replace(".weight", ".default.weight"): tensor for name, tensor in GOOD.items()}
    tensors |= {
        f"{prefix}model.embed_tokens.modules_to_save.default.weight": normal(30, 16, seed=9),
        f"{prefix}model.embed_tokens.original_module.weight": normal(30, 16, seed=8),
    }
    adapted(tmp_path, tensors)
    result = wanalyze.compare(tmp_path / "base", tmp_path / "adapter")
    changed = {module.name for module in result.modules if module.status is Status.measured}
    assert changed == {MODULE, "model.embed_tokens"}
