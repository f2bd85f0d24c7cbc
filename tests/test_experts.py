"""Stacks of experts: one module per expert, rows as outputs, whoever stacks and whoever does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import wanalyze
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint
from wanalyze.checkpoints.content import Raw
from wanalyze.naming import places
from wanalyze.pairing import Selection, pair_checkpoint
from wanalyze.result import Result, Status

E, D, F = 3, 8, 5  # experts, width, width of an expert
PATH = "model.layers.0.mlp.experts"


def gates(seed: int = 0) -> dict[str, Tensor]:
    """The matrices of every expert as linear layers have them, (out, in)."""
    shapes = {"gate_proj": (F, D), "up_proj": (F, D), "down_proj": (D, F)}
    return {
        f"{PATH}.{e}.{part}.weight": normal(*shape, seed=seed + 10 * e + i)
        for e in range(E)
        for i, (part, shape) in enumerate(shapes.items())
    }


def stacked(split: dict[str, Tensor], *, in_first: bool = False, interleaved: bool = False) -> dict[str, Tensor]:
    """The same in two tensors, put together expert by expert and row by row."""
    ups, downs = [], []
    for e in range(E):
        gate, up, down = (split[f"{PATH}.{e}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        rows = [row for both in zip(gate, up, strict=True) for row in both] if interleaved else [*gate, *up]
        ups.append(torch.stack(rows))
        downs.append(down)
    tensors = {f"{PATH}.gate_up_proj": torch.stack(ups), f"{PATH}.down_proj": torch.stack(downs)}
    return {name: tensor.mT.contiguous() if in_first else tensor for name, tensor in tensors.items()}


def saved(folder: Path, tensors: dict[str, Tensor], model_type: str | None = "mixtral") -> Path:
    save_checkpoint(folder, tensors)
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def changed(result: Result) -> list[str]:
    return [module.name for module in result.modules if module.status is not Status.unchanged]


LAYOUTS = {
    "mixtral": {},
    "llama4": {"in_first": True},
    "gpt_oss": {"in_first": True, "interleaved": True},
}


@pytest.mark.parametrize("model_type", LAYOUTS)
@pytest.mark.parametrize("base_is_stacked", [True, False])
def test_a_stack_is_its_experts(tmp_path: Path, model_type: str, base_is_stacked: bool) -> None:
    split = gates()
    other = {name: tensor.clone() for name, tensor in split.items()}
    other[f"{PATH}.2.up_proj.weight"][1, 3] += 1
    before, after = (split, other) if base_is_stacked else (other, split)
    stack, apart = stacked(before, **LAYOUTS[model_type]), after
    base, tuned = (stack, apart) if base_is_stacked else (apart, stack)
    result = wanalyze.compare(saved(tmp_path / "b", base, model_type), saved(tmp_path / "t", tuned, model_type))
    name = f"{PATH}.gate_up_proj[2][up]" if base_is_stacked else f"{PATH}.2.up_proj"
    assert not result.skipped
    assert changed(result) == [name]
    module = result[name][0]
    assert module.shape == [F, D]
    assert module.metric("delta_norm") == pytest.approx(1, rel=1e-6)
    rows = (before[f"{PATH}.2.up_proj.weight"].norm(dim=1) - after[f"{PATH}.2.up_proj.weight"].norm(dim=1)).abs()
    assert module.metric("magnitude_change") == pytest.approx(rows.mean().item(), rel=1e-5)
    assert len(result.modules) == 3 * E


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_two_stacks_are_compared_expert_by_expert(tmp_path: Path, model_type: str) -> None:
    base, tuned = (stacked(gates(), **LAYOUTS[model_type]) for _ in range(2))
    tuned[f"{PATH}.down_proj"][1, 2, 0] += 1
    result = wanalyze.compare(saved(tmp_path / "b", base, None), saved(tmp_path / "t", tuned, None))
    assert changed(result) == [f"{PATH}.down_proj[1]"]
    assert [module.shape for module in result.modules] == [[D, F]] * E + [[2 * F, D]] * E
    assert {module.kind for module in result.modules} == {"down_proj", "gate_up_proj"}
    assert {module.layer for module in result.modules} == {0}


def test_a_stack_stored_the_other_way_round_is_turned(tmp_path: Path) -> None:
    base, tuned = stacked(gates()), stacked(gates(), in_first=True)
    for first, second in ((base, tuned), (tuned, base)):
        result = wanalyze.compare(saved(tmp_path / "b", first, None), saved(tmp_path / "t", second, None))
        assert changed(result) == []
        assert result[f"{PATH}.gate_up_proj[0]"][0].shape == [2 * F, D]


@pytest.mark.parametrize(("model_type", "turned"), [("mixtral", False), ("gpt_oss", True)])
def test_of_square_experts_the_model_type_tells(tmp_path: Path, model_type: str, turned: bool) -> None:
    name = f"{PATH}.up_proj"
    base, tuned = {name: normal(E, D, D)}, {name: normal(E, D, D)}
    tuned[name][0, 1:] *= 2  # rows 1 to the end as they are stored
    result = wanalyze.compare(saved(tmp_path / "b", base, model_type), saved(tmp_path / "t", tuned, model_type))
    one = base[name][0].T if turned else base[name][0]
    two = tuned[name][0].T if turned else tuned[name][0]
    expected = (two.norm(dim=1) - one.norm(dim=1)).abs().mean().item()
    assert result[f"{name}[0]"][0].metric("magnitude_change") == pytest.approx(expected, rel=1e-5)


def test_an_orientation_that_nothing_tells_is_not_guessed(tmp_path: Path) -> None:
    tensors = {f"{PATH}.up_proj": normal(E, F, D), "x.weight": normal(4, 3)}
    result = wanalyze.compare(saved(tmp_path / "b", tensors, "strange"), saved(tmp_path / "t", tensors, None))
    (item,) = result.skipped
    assert item.name == f"{PATH}.up_proj"
    assert "it is not known whether it stores (out, in) or (in, out)" in item.reason
    assert "model_type 'strange'" in item.reason


def test_halves_of_an_unknown_model_are_not_guessed(tmp_path: Path) -> None:
    base = stacked(gates()) | {"x.weight": normal(4, 3)}
    tuned = gates() | {"x.weight": normal(4, 3)}
    result = wanalyze.compare(saved(tmp_path / "b", base, "strange"), saved(tmp_path / "t", tuned, None))
    reasons = {item.reason for item in result.skipped}
    assert [module.name for module in result.modules] == [*(f"{PATH}.down_proj[{e}]" for e in range(E)), "x"]
    assert any("model_type 'strange'" in reason for reason in reasons)
    assert {item.name for item in result.skipped} >= {f"{PATH}.gate_up_proj", f"{PATH}.0.up_proj"}


def test_experts_that_one_side_lacks_have_their_reason(tmp_path: Path) -> None:
    apart = {name: tensor for name, tensor in gates().items() if ".1." not in name}
    apart[f"{PATH}.9.up_proj.weight"] = normal(F, D)
    result = wanalyze.compare(saved(tmp_path / "b", stacked(gates())), saved(tmp_path / "t", apart))
    reasons = {item.name: item.reason for item in result.skipped}
    lost = {f"{PATH}.gate_up_proj[1][gate]", f"{PATH}.gate_up_proj[1][up]", f"{PATH}.down_proj[1]"}
    assert reasons == dict.fromkeys(lost, "missing in tuned") | {f"{PATH}.9.up_proj": "missing in base"}


def test_biases_of_a_stack_are_vectors_of_its_experts(tmp_path: Path) -> None:
    layout = LAYOUTS["gpt_oss"]
    biases = {
        f"{PATH}.{e}.{part}_proj.bias": normal(F, seed=7 * e + len(part)) for e in range(E) for part in ("gate", "up")
    }
    fused = torch.stack(
        [
            torch.stack([biases[f"{PATH}.{e}.{part}_proj.bias"] for part in ("gate", "up")], dim=1).flatten()
            for e in range(E)
        ]
    )
    base = stacked(gates(), **layout) | {f"{PATH}.gate_up_proj_bias": fused}
    result = wanalyze.compare(
        saved(tmp_path / "b", base, "gpt_oss"), saved(tmp_path / "t", gates() | biases, "gpt_oss")
    )
    assert not result.skipped
    assert {vector.status for vector in result.vectors} == {Status.unchanged}
    assert f"{PATH}.gate_up_proj_bias[2][up]" in {vector.name for vector in result.vectors}


def test_an_mlx_stack_is_the_experts_of_the_original(tmp_path: Path) -> None:
    split = gates()
    mlx = {
        f"model.layers.0.mlp.switch_mlp.{part}.weight": torch.stack(
            [split[f"{PATH}.{e}.{part}.weight"] for e in range(E)]
        )
        for part in ("gate_proj", "up_proj", "down_proj")
    }
    for other in (split, stacked(split)):
        result = wanalyze.compare(saved(tmp_path / "b", other), saved(tmp_path / "t", mlx))
        assert not result.skipped
        assert changed(result) == []
        assert len(result.modules) == 3 * E


def test_of_a_stack_only_the_bytes_of_one_expert_are_read(tmp_path: Path) -> None:
    folder = saved(tmp_path / "b", stacked(gates()))
    checkpoint = wanalyze.open_checkpoint(folder)
    pairs = pair_checkpoint(checkpoint, checkpoint, Selection()).matrices
    content = next(pair.base.content for pair in pairs if pair.name == f"{PATH}.down_proj[1]")
    assert isinstance(content, Raw)
    assert content.size == 4 * D * F
    assert torch.equal(content.read(), gates()[f"{PATH}.1.down_proj.weight"])


@pytest.mark.parametrize("shape", [(5000, 1, 1), (0, 4, 4), (3, 0, 4)])
def test_a_stack_of_too_many_or_of_nothing_is_not_taken_apart(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = {f"{PATH}.up_proj": torch.zeros(shape), "x.weight": normal(4, 3)}
    result = wanalyze.compare(saved(tmp_path / "b", tensors), saved(tmp_path / "t", tensors))
    assert [item.name for item in result.skipped] == [f"{PATH}.up_proj"]
    apart = {f"{PATH}.0.up_proj.weight": torch.zeros(1, 1), "x.weight": normal(4, 3)}
    assert len(wanalyze.compare(tmp_path / "b", saved(tmp_path / "a", apart)).skipped) == 2


def test_a_tensor_named_like_a_part_keeps_its_name_to_itself(tmp_path: Path) -> None:
    tensors = stacked(gates()) | {f"{PATH}.down_proj[1]": normal(2, 3), f"{PATH}.down_proj[0].weight": normal(2, 3)}
    result = wanalyze.compare(saved(tmp_path / "b", tensors), saved(tmp_path / "t", tensors))
    shapes = {module.name: module.shape for module in result.modules if "down" in module.name}
    assert shapes == {f"{PATH}.down_proj[{e}]": shape for e, shape in enumerate(([2, 3], [2, 3], [D, F]))}
    assert len(result.skipped) == 2


def test_what_an_adapter_leaves_alone_is_a_module_for_every_expert(tmp_path: Path) -> None:
    base = saved(tmp_path / "b", stacked(gates()) | {"model.layers.0.q_proj.weight": normal(6, 4)})
    result = wanalyze.compare(base, save_adapter(tmp_path / "a", lora_factors("model.layers.0.q_proj", 6, 4)))
    assert len(result.modules) == 2 * E + 1
    assert changed(result) == ["model.layers.0.q_proj"]


def test_kernels_are_a_row_for_every_output(tmp_path: Path) -> None:
    base = {"conv1.weight": normal(6, 4, 3, 2), "conv2.weight": normal(5, 2, 3), "conv3.weight": normal(4, 2, 1, 2, 3)}
    tuned = {name: tensor + 0.1 * normal(*tensor.shape, seed=3) for name, tensor in base.items()}
    result = wanalyze.compare(save_checkpoint(tmp_path / "b", base), save_checkpoint(tmp_path / "t", tuned))
    assert {module.name: module.shape for module in result.modules} == {
        "conv1": [6, 24],
        "conv2": [5, 6],
        "conv3": [4, 12],
    }
    for module in result.modules:
        update = (tuned[f"{module.name}.weight"].double() - base[f"{module.name}.weight"].double()).flatten(1)
        values = torch.linalg.svdvals(update)
        assert module.metric("delta_spectral_norm") == pytest.approx(values[0].item(), rel=1e-9)


def test_experts_fold_into_one_kind_and_parts_do_not() -> None:
    names = [f"l.{i}.mlp.experts.{part}" for i in range(2) for part in ("up[0]", "up[7]", "down[0][a]", "down[1][b]")]
    assert {place.kind for place in places(names).values()} == {"up", "down[a]", "down[b]"}
