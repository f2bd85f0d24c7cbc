"""LoRA on stacks of experts and on replicated layers: every expert, and every run of a layer, its own update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import wanalyze
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint
from tests.peft_oracle import make
from wanalyze.adapters import Adapter, Update, parse_adapter
from wanalyze.checkpoints import AdapterFiles, open_source
from wanalyze.errors import AdapterError, PairingError
from wanalyze.pairing import Selection, pair_adapter

PREFIX = "base_model.model."
E, HIDDEN, INNER, RANK = 3, 10, 7, 2
UP, DOWN = "m.experts.gate_up_proj", "m.experts.down_proj"
OUT_FIRST = {UP: (E, 2 * INNER, HIDDEN), DOWN: (E, HIDDEN, INNER)}
IN_FIRST = {name: (e, b, a) for name, (e, a, b) in OUT_FIRST.items()}


class Experts(nn.Module):
    def __init__(self, shapes: dict[str, tuple[int, ...]], is_transposed: bool) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        for name, shape in shapes.items():
            setattr(self, name.rpartition(".")[2], nn.Parameter(normal(*shape, seed=len(name))))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Model(nn.Module):
    def __init__(self, shapes: dict[str, tuple[int, ...]], is_transposed: bool) -> None:
        super().__init__()
        self.config = {"model_type": "toy", "tie_word_embeddings": False}
        self.m = nn.Module()
        self.m.experts = Experts(shapes, is_transposed)
        self.m.gate = nn.Linear(HIDDEN, E, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x


def parsed(folder: Path, base: Path | None = None) -> Adapter:
    source = open_source(folder)
    assert isinstance(source, AdapterFiles)
    return parse_adapter(source, None if base is None else wanalyze.open_checkpoint(base))


def by_target(adapter: Adapter, *, turned: bool) -> dict[str, Tensor]:
    """Stacks in the layout of the base, put together from the updates of their experts."""
    found: dict[str, list[Tensor]] = {}
    for update in adapter.updates:
        delta = update.read().map(lambda tensor: tensor.double()).dense()
        assert update.shape == tuple(delta.shape)
        assert update.index == len(found.setdefault(update.target, []))
        found[update.target].append(delta.mT if turned else delta)
    return {name: torch.stack(deltas) for name, deltas in found.items()}


@pytest.mark.parametrize("targets", [[UP, DOWN], [DOWN, UP], ["experts.down_proj"], ["gate_up_proj"]])
@pytest.mark.parametrize("in_first", [False, True], ids=["out first", "in first"])
@pytest.mark.parametrize("has_base", [False, True], ids=["alone", "with its base"])
def test_every_expert_is_what_peft_merges(tmp_path: Path, targets: list[str], in_first: bool, has_base: bool) -> None:
    config = LoraConfig(
        target_modules=[],
        target_parameters=targets,
        r=RANK,
        lora_alpha=3,
        rank_pattern={"gate_up_proj": 4},
        alpha_pattern={DOWN: 5},
    )
    made = make(tmp_path, config, model=lambda: Model(IN_FIRST if in_first else OUT_FIRST, in_first))
    found = by_target(made.adapter() if has_base else parsed(made.folder), turned=in_first)
    assert found.keys() == made.deltas.keys()
    for name, delta in made.deltas.items():
        assert (found[name] - delta).norm() < 1e-6 * delta.norm(), name


def of_layout(
    shapes: dict[str, tuple[int, ...]], sides: tuple[int, int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of an adapter whose A is for side sides[0] of the stacks, and what peft merges into them."""
    tensors, deltas = {}, {}
    for seed, (name, module) in enumerate(((UP, "m.experts.base_layer"), (DOWN, "m.experts"))):
        if name not in shapes:
            continue
        module = module if len(shapes) == 2 else "m.experts"
        a = normal(RANK * E, shapes[name][sides[0]], seed=seed)
        b = normal(shapes[name][sides[1]], RANK * E, seed=seed + 5)
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
        parts = b.double().reshape(-1, RANK, E), a.double().reshape(E, RANK, -1)
        deltas[name] = 1.5 * torch.einsum(
            "o r e, e r i -> e i o" if sides == (1, 2) else "o r e, e r i -> e o i", *parts
        )
    return tensors, deltas


# What peft up to 0.18, 0.19.0 and since 0.19.1 take A for: d1 of the stack, always the outputs, always the inputs.
LAYOUTS = {
    ("0.18.1", False): (1, 2),
    ("0.18.1", True): (1, 2),
    (None, False): (1, 2),
    ("0.19.0", False): (1, 2),
    ("0.19.0", True): (2, 1),
    ("0.19.1", False): (2, 1),
    ("0.20.0", True): (1, 2),
}


@pytest.mark.parametrize(("version", "in_first"), LAYOUTS, ids=str)
@pytest.mark.parametrize("square", [False, True], ids=["", "square"])
def test_the_layouts_of_all_versions_are_understood(
    tmp_path: Path, version: str | None, in_first: bool, square: bool
) -> None:
    """Of gpt-oss down_proj is square: there what the other stack shows, or the version, counts."""
    inner = HIDDEN if square else INNER
    shapes = {UP: (E, 2 * inner, HIDDEN), DOWN: (E, HIDDEN, inner)}
    shapes = {name: (e, b, a) for name, (e, a, b) in shapes.items()} if in_first else shapes
    config = {"target_parameters": [DOWN, UP], "lora_alpha": 3, "peft_version": version}
    tensors, deltas = of_layout(shapes, LAYOUTS[version, in_first])
    save_adapter(tmp_path / "a", tensors, **config)
    save_checkpoint(tmp_path / "base", {name: normal(*shape) for name, shape in shapes.items()})
    for base in (tmp_path / "base", None):
        found = by_target(parsed(tmp_path / "a", base), turned=in_first)
        assert all(torch.allclose(found[name], deltas[name], atol=1e-6) for name in shapes)
    if not square:
        return
    one, of_one = of_layout({DOWN: shapes[DOWN]}, LAYOUTS[version, in_first])
    save_adapter(tmp_path / "one", one, **(config | {"target_parameters": [DOWN]}))
    found = by_target(parsed(tmp_path / "one", tmp_path / "base"), turned=in_first)
    assert torch.allclose(found[DOWN], of_one[DOWN], atol=1e-6)


def test_what_peft_saw_counts_where_the_disk_has_it_the_other_way_round(tmp_path: Path) -> None:
    """The down_proj of gpt-oss is square, and in 4-bit blocks on disk it is (experts, out, in)."""
    shapes = {UP: (E, 2 * HIDDEN, HIDDEN), DOWN: (E, HIDDEN, HIDDEN)}
    tensors, deltas = of_layout({DOWN: shapes[DOWN]}, (1, 2))  # of the stack in memory, (experts, in, out)
    save_adapter(tmp_path / "a", tensors, target_parameters=[DOWN], lora_alpha=3, peft_version="0.18.0")
    save_checkpoint(tmp_path / "base", {name: normal(*shape) for name, shape in shapes.items()})
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt_oss"}')
    found = by_target(parsed(tmp_path / "a", tmp_path / "base"), turned=True)
    assert torch.allclose(found[DOWN], deltas[DOWN], atol=1e-6)


def test_what_neither_shapes_nor_version_tell_waits_for_the_base(tmp_path: Path) -> None:
    tensors, _ = of_layout({DOWN: OUT_FIRST[DOWN]}, (1, 2))
    save_adapter(tmp_path, tensors, target_parameters=["experts.down_proj"])
    update = parsed(tmp_path).updates[1]
    assert (update.shape, update.needs_base, update.index, update.target) == (None, True, 1, DOWN)
    with pytest.raises(AdapterError, match=r"config\.json"):
        update.read(normal(HIDDEN, INNER))


def test_the_name_in_the_base_may_be_that_of_a_model_with_a_head(tmp_path: Path) -> None:
    tensors, deltas = of_layout(OUT_FIRST, (1, 2))
    save_adapter(tmp_path / "a", tensors, target_parameters=[UP, DOWN], lora_alpha=3)
    save_checkpoint(tmp_path / "base", {f"language_model.{name}": normal(*shape) for name, shape in OUT_FIRST.items()})
    found = by_target(parsed(tmp_path / "a", tmp_path / "base"), turned=False)
    assert all(torch.allclose(found[name], deltas[name], atol=1e-6) for name in OUT_FIRST)


def test_a_plain_parameter_is_a_plain_update(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=[], target_parameters=["gate.weight"], r=RANK, lora_alpha=3)
    made = make(tmp_path, config, model=lambda: Model(OUT_FIRST, False))
    (update,) = made.adapter().updates
    assert (update.target, update.index, update.shape) == ("m.gate.weight", None, (E, HIDDEN))
    delta = update.read().dense().double()
    assert (delta - made.deltas["m.gate.weight"]).norm() < 1e-6 * delta.norm()


def test_old_adapters_of_single_experts_are_plain_updates(tmp_path: Path) -> None:
    names = [f"layers.0.block_sparse_moe.experts.{e}.{w}" for e in range(2) for w in ("w1", "w2")]
    tensors = {key: t for name in names for key, t in lora_factors(name, 6, 5).items()}
    adapter = parsed(save_adapter(tmp_path, tensors))
    assert {(update.module, update.index, update.parameter) for update in adapter.updates} == {
        (name, None, "weight") for name in names
    }


def test_a_comparison_measures_every_expert_of_a_stack(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base", {UP: normal(*OUT_FIRST[UP]), DOWN: normal(*OUT_FIRST[DOWN])})
    tensors = {
        f"{PREFIX}m.experts.lora_A.weight": normal(E * RANK, HIDDEN, seed=1),
        f"{PREFIX}m.experts.lora_B.weight": normal(2 * INNER, E * RANK, seed=2),
    }
    said = {"target_parameters": ["experts.gate_up_proj"], "peft_version": "0.21.2"}
    result = wanalyze.compare(tmp_path / "base", save_adapter(tmp_path / "a", tensors, **said))
    a, b = tensors.values()
    products = [2 * b[:, e::E] @ a[e * RANK : (e + 1) * RANK] for e in range(E)]
    assert {m.name: m.metric("delta_norm") for m in result.modules if m.status.value == "measured"} == {
        f"{UP}[{e}]": pytest.approx(product.norm().item(), rel=1e-6) for e, product in enumerate(products)
    }
    assert [m.name for m in result.modules if m.status.value == "unchanged"] == [f"{DOWN}[{e}]" for e in range(E)]


@pytest.mark.parametrize("names", ["old", "new"])
def test_a_base_that_lists_its_experts_has_the_update_of_each(tmp_path: Path, names: str) -> None:
    """As files are written: transformers 5 stacks experts in memory alone, where peft finds them."""
    at, gate, up, down = {
        "old": ("block_sparse_moe", "w1", "w3", "w2"),
        "new": ("mlp", "gate_proj", "up_proj", "down_proj"),
    }[names]
    shapes = {gate: (INNER, HIDDEN), up: (INNER, HIDDEN), down: (HIDDEN, INNER)}
    base = {f"m.{at}.experts.{e}.{part}.weight": normal(*shape) for e in range(E) for part, shape in shapes.items()}
    save_checkpoint(tmp_path / "base", base)
    (tmp_path / "base" / "config.json").write_text('{"model_type": "mixtral"}')
    tensors = {
        f"{PREFIX}m.mlp.experts.base_layer.lora_A.weight": normal(E * RANK, HIDDEN, seed=1),
        f"{PREFIX}m.mlp.experts.base_layer.lora_B.weight": normal(2 * INNER, E * RANK, seed=2),
        f"{PREFIX}m.mlp.experts.lora_A.weight": normal(E * RANK, INNER, seed=3),
        f"{PREFIX}m.mlp.experts.lora_B.weight": normal(HIDDEN, E * RANK, seed=4),
    }
    said = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "peft_version": "0.21.2"}
    opened = wanalyze.open_checkpoint(tmp_path / "base")
    adapter = parsed(save_adapter(tmp_path / "a", tensors, **said), tmp_path / "base")
    pairing = pair_adapter(opened, adapter, Selection(), allow_unmatched=False)
    found = {pair.name: pair.tuned.read().dense() for pair in pairing.matrices if isinstance(pair.tuned, Update)}
    a_up, b_up, a_down, b_down = tensors.values()
    expected = {}
    for e in range(E):
        rows = slice(e * RANK, (e + 1) * RANK)
        both, last = 2 * b_up[:, e::E] @ a_up[rows], 2 * b_down[:, e::E] @ a_down[rows]
        expected |= {f"m.{at}.experts.{e}.{gate}": both[:INNER], f"m.{at}.experts.{e}.{up}": both[INNER:]}
        expected[f"m.{at}.experts.{e}.{down}"] = last
    torch.testing.assert_close(found, expected)
    assert not pairing.skipped
    assert {module.status.value for module in wanalyze.compare(tmp_path / "base", tmp_path / "a").modules} == {
        "measured"
    }


def test_an_adapter_of_single_experts_is_held_against_their_part_of_a_stack(tmp_path: Path) -> None:
    base = {
        "m.mlp.experts.gate_up_proj": normal(E, 2 * INNER, HIDDEN),
        "m.mlp.experts.down_proj": normal(E, HIDDEN, INNER),
    }
    save_checkpoint(tmp_path / "base", base)
    (tmp_path / "base" / "config.json").write_text('{"model_type": "mixtral"}')
    tensors = lora_factors("m.block_sparse_moe.experts.1.w3", INNER, HIDDEN)
    result = wanalyze.compare(tmp_path / "base", save_adapter(tmp_path / "a", tensors))
    changed = {m.name: m.metric("delta_norm") for m in result.modules if m.status.value == "measured"}
    a, b = tensors.values()
    assert changed == {"m.mlp.experts.gate_up_proj[1][up]": pytest.approx((2 * b @ a).norm().item(), rel=1e-6)}
    assert len(result.modules) == 3 * E


def test_a_list_of_experts_of_an_unknown_model_is_not_guessed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base", {"m.mlp.experts.0.gate_proj.weight": normal(INNER, HIDDEN)})
    tensors = {
        f"{PREFIX}m.mlp.experts.lora_A.weight": normal(E * RANK, HIDDEN),
        f"{PREFIX}m.mlp.experts.lora_B.weight": normal(2 * INNER, E * RANK),
    }
    said = {"target_parameters": ["experts.gate_up_proj"], "peft_version": "0.21.2"}
    with pytest.raises(PairingError, match="layout is not known"):
        wanalyze.compare(tmp_path / "base", save_adapter(tmp_path / "a", tensors, **said))


def test_an_expert_reads_its_own_rows_alone(tmp_path: Path) -> None:
    tensors, _ = of_layout(OUT_FIRST, (2, 1))
    update = parsed(save_adapter(tmp_path, tensors, target_parameters=[UP, DOWN])).updates[0]
    assert update.parts["lora_A"].size == 4 * RANK * update.parts["lora_A"].shape[1]


STACKED = of_layout(OUT_FIRST, (2, 1))[0]
TARGETS = {"target_parameters": [UP, DOWN]}
INNER_A = f"{PREFIX}m.experts.base_layer.lora_A.weight"
CONTRADICTIONS = {
    "the rank": (STACKED, TARGETS | {"r": 4}, "not rank 4"),
    "three wrapped, two named": (
        STACKED | {key.replace("experts.base", "experts.base_layer.base"): t.clone() for key, t in STACKED.items()},
        TARGETS,
        "fits none of its parameters",
    ),
    "one named, two wrapped": (STACKED, {"target_parameters": [UP]}, "fits none of its parameters"),
    "nothing named": (STACKED, {}, "gives it rank 2"),
    "sides that are none": (STACKED | {INNER_A: normal(RANK * E, 9)}, TARGETS, "fits none of its parameters"),
    "A and B of different ranks": (STACKED | {INNER_A: normal(RANK * E + 1, HIDDEN)}, TARGETS, "experts · r"),
    "a bias": (STACKED | {f"{PREFIX}m.experts.lora_B.bias": normal(HIDDEN)}, TARGETS, "and nothing else"),
    "alike": (
        {key: normal(*((6, 8) if "_A" in key else (8, 6))) for key in STACKED},
        {"target_parameters": ["experts.a", "experts.b"], "peft_version": "0.20.0"},
        "not in the file",
    ),
}


@pytest.mark.parametrize(("tensors", "config", "rule"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_stacks_that_contradict_the_config_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, object], rule: str
) -> None:
    with pytest.raises(AdapterError, match=rule):
        parsed(save_adapter(tmp_path, tensors, **config))


def replicated(folder: Path, ranges: object, *layers: int, **more: Tensor) -> Adapter:
    tensors = {key: t for i in layers for key, t in lora_factors(f"model.layers.{i}.q_proj", 6, 5, seed=10 * i).items()}
    return parsed(save_adapter(folder, tensors | more, layer_replication=ranges))


def test_replicas_of_a_layer_keep_their_updates_apart(tmp_path: Path) -> None:
    adapter = replicated(tmp_path, [[0, 4], [2, 5]], *range(7))
    assert [(u.module, u.replica) for u in adapter.updates] == [
        *((f"model.layers.{i}.q_proj", None if i < 2 else i) for i in range(4)),
        ("model.layers.2.q_proj", 4),
        ("model.layers.3.q_proj", 5),
        ("model.layers.4.q_proj", None),
    ]
    assert adapter.updates[4].note == "as layer 4 of the replicated stack"
    factors = lora_factors("x", 6, 5, seed=40)
    product = 2.0 * factors[f"{PREFIX}x.lora_B.weight"] @ factors[f"{PREFIX}x.lora_A.weight"]
    assert torch.allclose(adapter.updates[4].read().dense(), product)


def test_a_comparison_measures_every_run_of_a_layer(tmp_path: Path) -> None:
    base = {f"model.layers.{i}.q_proj.weight": normal(6, 5, seed=i) for i in range(2)}
    save_checkpoint(tmp_path / "base", base)
    runs = [lora_factors(f"model.layers.{i}.q_proj", 6, 5, seed=10 * i) for i in range(3)]
    tensors = {name: tensor for run in runs for name, tensor in run.items()}
    adapter = save_adapter(tmp_path / "a", tensors, layer_replication=[[0, 2], [0, 1]])
    result = wanalyze.compare(tmp_path / "base", adapter)
    names = ["model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.0.q_proj[2]"]
    norms = [(2 * b @ a).norm().item() for a, b in (run.values() for run in runs)]
    found = {module.name: module.metric("delta_norm") for module in result.modules}
    assert found == {name: pytest.approx(norm, rel=1e-6) for name, norm in zip(names, norms, strict=True)}
    assert result[names[2]][0].metric("base_norm") == result[names[0]][0].metric("base_norm")


REPLICATIONS = {
    "a layer too many": ([[0, 2]], (2,), {}, "makes 2 layers"),
    "a range that falls": ([[2, 1]], (0,), {}, "the range"),
    "an endless range": ([[0, 10**9]], (0,), {}, "10000 in all"),
    "numbers": ([3], (0,), {}, "layer_replication"),
    "a saved norm of two runs": ([[0, 1], [0, 1]], (0,), {"model.layers.1.norm.weight": normal(4)}, "stores once"),
}


@pytest.mark.parametrize(("ranges", "layers", "more", "rule"), REPLICATIONS.values(), ids=REPLICATIONS)
def test_replications_that_make_no_sense_are_refused(
    tmp_path: Path, ranges: object, layers: tuple[int, ...], more: dict[str, Tensor], rule: str
) -> None:
    with pytest.raises(AdapterError, match=rule):
        replicated(tmp_path, ranges, *layers, **more)


def test_a_saved_norm_of_a_layer_that_runs_once_has_its_name(tmp_path: Path) -> None:
    norm = {"model.layers.3.norm.weight": normal(4)}
    assert replicated(tmp_path, [[0, 2], [0, 1], [5, 6]], 0, 2, **norm).replaced.keys() == {
        "model.layers.5.norm.weight"
    }
