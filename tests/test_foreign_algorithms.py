"""The algorithms of kohya's scripts and LyCORIS: ΔW by the formula written out in float64, on unequal sides.

All were also held against LyCORIS 4.1.3 itself as it trains: they agree to 2e-7 in float32, for linear layers and
kernels of one, two and three sides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import wanalyze
from tests.conftest import normal, save_checkpoint
from tests.foreign_files import BASE, CONV, DOWN, LINEAR, SQUARE, UP, Tensors, deltas, number, of, parsed, written

Formula = Callable[[SimpleNamespace, Tensor], Tensor]

TARGETS = {LINEAR: "down.0.proj_in.weight", CONV: "conv.weight", SQUARE: "square.weight"}
UP_OF_KERNEL = normal(6, 2, 1, 1, seed=3)
DOWN_OF_POINT, DOWN_OF_KERNEL = normal(2, 4, 1, 1, seed=4), normal(2, 4, 3, 2, seed=6)
HADAMARD = {
    **{f"hada_w{i}_a": normal(6, 2, seed=10 * i) for i in (1, 2)},
    **{f"hada_w{i}_b": normal(2, 4, seed=10 * i + 1) for i in (1, 2)},
}
TUCKER = {
    **{f"hada_w{i}_a": normal(2, 6, seed=10 * i) for i in (1, 2)},
    **{f"hada_w{i}_b": normal(2, 4, seed=10 * i + 1) for i in (1, 2)},
    **{f"hada_t{i}": normal(2, 2, 3, 2, seed=10 * i + 2) for i in (1, 2)},
}
SCALED = {"up": UP, "down": DOWN, "alpha": number(3)}


def lora(p: SimpleNamespace) -> Tensor:
    return 3 / 2 * p.up @ p.down


def convolution(up: Tensor, down: Tensor) -> Tensor:
    return torch.einsum("or,rikl->oikl", up[..., 0, 0], down)


def kernel(middle: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    return torch.einsum("rskl,ro,si->oikl", middle, outputs, inputs)


def hadamard(p: SimpleNamespace) -> Tensor:
    first = kernel(p.hada_t1, p.hada_w1_a, p.hada_w1_b)
    return 3 / 2 * first * kernel(p.hada_t2, p.hada_w2_a, p.hada_w2_b)


def kron(first: Tensor, second: Tensor) -> Tensor:
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


def directed(weight: Tensor, magnitude: Tensor, dims: tuple[int, ...]) -> Tensor:
    return magnitude * weight / (weight.square().sum(dims, keepdim=True).sqrt() + 2.0**-23)


def rotation(blocks: Tensor, bound: float | None = None) -> Tensor:
    skew = blocks - blocks.mT
    skew = skew if bound is None else skew * min(1.0, bound / skew.norm().item())
    one = torch.eye(skew.shape[-1], dtype=torch.float64)
    return (one + skew) @ torch.linalg.inv(one - skew)


def turned(blocks: Tensor, weight: Tensor) -> Tensor:
    """The einsum of kohya's and of LyCORIS's code sums over the first index of R: its transpose turns the outputs."""
    return (torch.block_diag(*blocks).mT @ weight.flatten(1)).reshape(weight.shape)


ALGORITHMS: dict[str, tuple[str, Tensors, Formula]] = {
    "LoRA": (LINEAR, SCALED, lambda p, w: lora(p)),
    "LoRA without alpha": (LINEAR, {"up": UP, "down": DOWN}, lambda p, w: p.up @ p.down),
    "LoRA of a kernel": (
        CONV,
        {"up": UP_OF_KERNEL, "down": DOWN_OF_KERNEL, "alpha": number(1)},
        lambda p, w: convolution(p.up, p.down) / 2,
    ),
    "LoCon, Tucker": (
        CONV,
        {"up": UP_OF_KERNEL, "down": DOWN_OF_POINT, "mid": normal(2, 2, 3, 2, seed=5), "alpha": number(3)},
        lambda p, w: 3 / 2 * kernel(p.mid, p.up[..., 0, 0].mT, p.down[..., 0, 0]),
    ),
    "DoRA by outputs": (
        LINEAR,
        {**SCALED, "dora_scale": normal(6, 1, seed=7)},
        lambda p, w: directed(w + lora(p), p.dora_scale, (1,)) - w,
    ),
    "DoRA by inputs": (
        LINEAR,
        {**SCALED, "dora_scale": normal(1, 4, seed=7)},
        lambda p, w: directed(w + lora(p), p.dora_scale, (0,)) - w,
    ),
    "DoRA of LoHa by the inputs of a kernel": (
        CONV,
        {**TUCKER, "alpha": number(3), "dora_scale": normal(1, 4, 1, 1, seed=7)},
        lambda p, w: directed(w + hadamard(p), p.dora_scale, (0, 2, 3)) - w,
    ),
    "LoHa": (
        LINEAR,
        {**HADAMARD, "alpha": number(3)},
        lambda p, w: 3 / 2 * (p.hada_w1_a @ p.hada_w1_b) * (p.hada_w2_a @ p.hada_w2_b),
    ),
    "LoHa, Tucker": (CONV, {**TUCKER, "alpha": number(3)}, lambda p, w: hadamard(p)),
    "LoKr, both whole": (
        LINEAR,
        {"lokr_w1": normal(2, 2, seed=1), "lokr_w2": normal(3, 2, seed=2), "alpha": number(7)},
        lambda p, w: kron(p.lokr_w1, p.lokr_w2),
    ),
    "LoKr, second a product": (
        LINEAR,
        {
            "lokr_w1": normal(2, 1, seed=1),
            "lokr_w2_a": normal(3, 2, seed=2),
            "lokr_w2_b": normal(2, 4, seed=3),
            "alpha": number(7),
        },
        lambda p, w: 7 / 2 * kron(p.lokr_w1, p.lokr_w2_a @ p.lokr_w2_b),
    ),
    "LoKr, both products": (
        LINEAR,
        {
            "lokr_w1_a": normal(2, 1, seed=1),
            "lokr_w1_b": normal(1, 2, seed=4),
            "lokr_w2_a": normal(3, 1, seed=2),
            "lokr_w2_b": normal(1, 2, seed=3),
            "alpha": number(7),
        },
        lambda p, w: 7 * kron(p.lokr_w1_a @ p.lokr_w1_b, p.lokr_w2_a @ p.lokr_w2_b),
    ),
    "LoKr of a kernel": (
        CONV,
        {"lokr_w1": normal(2, 2, seed=1), "lokr_w2": normal(3, 2, 3, 2, seed=2), "alpha": number(7)},
        lambda p, w: kron(p.lokr_w1, p.lokr_w2),
    ),
    "LoKr, Tucker": (
        CONV,
        {
            "lokr_w1": normal(2, 2, seed=1),
            "lokr_t2": normal(2, 2, 3, 2, seed=5),
            "lokr_w2_a": normal(2, 3, seed=2),
            "lokr_w2_b": normal(2, 2, seed=3),
            "alpha": number(7),
        },
        lambda p, w: 7 / 2 * kron(p.lokr_w1, kernel(p.lokr_t2, p.lokr_w2_a, p.lokr_w2_b)),
    ),
    "GLoRA": (
        LINEAR,
        {"a1": normal(4, 2, seed=5), "a2": normal(2, 4, seed=6), "b1": UP, "b2": DOWN, "alpha": number(3)},
        lambda p, w: 3 / 2 * (p.b1 @ p.b2 + w @ p.a1 @ p.a2),
    ),
    "GLoRA of a kernel": (
        CONV,
        {
            "a1": normal(4, 2, 1, 1, seed=1),
            "a2": DOWN_OF_POINT,
            "b1": UP_OF_KERNEL,
            "b2": DOWN_OF_KERNEL,
            "alpha": number(3),
        },
        lambda p, w: (
            3 / 2 * convolution(p.b1, p.b2)
            + 3 / 2 * torch.einsum("oikl,ir,rj->ojkl", w, p.a1[..., 0, 0], p.a2[..., 0, 0])
        ),
    ),
    "IA3 of outputs": (
        SQUARE,
        {"weight": normal(5, seed=1), "on_input": torch.tensor(0)},
        lambda p, w: p.weight[:, None] * w,
    ),
    "IA3 of inputs": (SQUARE, {"weight": normal(5, seed=1), "on_input": torch.tensor(1)}, lambda p, w: w * p.weight),
    "IA3 of the inputs of a kernel": (
        CONV,
        {"weight": normal(1, 4, 1, 1, seed=1), "on_input": torch.tensor(1)},
        lambda p, w: w * p.weight,
    ),
    "OFT": (LINEAR, {"oft_blocks": normal(2, 3, 3, seed=1)}, lambda p, w: turned(rotation(p.oft_blocks), w) - w),
    "OFT with alpha 0, which is no bound": (
        LINEAR,
        {"oft_blocks": normal(2, 3, 3, seed=1), "alpha": number(0)},
        lambda p, w: turned(rotation(p.oft_blocks), w) - w,
    ),
    "OFT, bounded and rescaled": (
        CONV,
        {"oft_blocks": normal(2, 3, 3, seed=1), "alpha": number(0.05), "rescale": normal(6, 1, 1, 1, seed=2)},
        lambda p, w: p.rescale * turned(rotation(p.oft_blocks, 6 * p.alpha.item()), w) - w,
    ),
    "full": (CONV, {"diff": normal(6, 4, 3, 2, seed=1)}, lambda p, w: p.diff),
}


@pytest.mark.parametrize(("module", "parts", "formula"), ALGORITHMS.values(), ids=ALGORITHMS)
def test_an_algorithm_is_its_formula(tmp_path: Path, module: str, parts: Tensors, formula: Formula) -> None:
    base = save_checkpoint(tmp_path / "base", BASE)
    found = deltas(parsed(written(tmp_path / "a.safetensors", of(module, **parts)), base), BASE)
    wide = SimpleNamespace(**{name: tensor.double() for name, tensor in parts.items()})
    torch.testing.assert_close(
        found, {TARGETS[module]: formula(wide, BASE[TARGETS[module]].double())}, rtol=1e-9, atol=1e-9
    )


def butterflies(blocks: Tensor, weight: Tensor) -> Tensor:
    """As LyCORIS steps through them: factor i mixes the outputs that lie 2**i · side/2 apart."""
    found, side = weight, blocks.shape[-1]
    for level, factor in enumerate(rotation(blocks)):
        step = 2**level * side // 2
        starts = [2 * step * group + i for group in range(len(weight) // (2 * step)) for i in range(step)]
        order = torch.tensor([start + k * step for start in starts for k in (0, 1)])
        found = torch.empty_like(found).index_copy(0, order, torch.block_diag(*factor) @ found[order])
    return found


def test_the_butterflies_of_boft_are_those_of_lycoris(tmp_path: Path) -> None:
    base, blocks = {"x.weight": normal(16, 3, seed=8)}, normal(3, 4, 4, 4, seed=1)
    path = written(tmp_path / "a.safetensors", of("lycoris_x", oft_blocks=blocks))
    adapter = parsed(path, save_checkpoint(tmp_path / "base", base))
    assert adapter.method == "BOFT (LyCORIS)"
    weight = base["x.weight"].double()
    torch.testing.assert_close(deltas(adapter, base), {"x.weight": butterflies(blocks.double(), weight) - weight})


def test_vectors_are_added_to_norms_and_biases(tmp_path: Path) -> None:
    tensors = of("lora_unet_norm", w_norm=normal(6, seed=1), b_norm=normal(6, seed=2))
    adapter = parsed(written(tmp_path / "a.safetensors", tensors), save_checkpoint(tmp_path / "base", BASE))
    moved = {shift.target: shift.read(BASE[shift.target]) for shift in adapter.shifts}
    expected = {f"norm.{part}": BASE[f"norm.{part}"].double() for part in ("weight", "bias")}
    expected["norm.weight"] += normal(6, seed=1).double()
    expected["norm.bias"] += normal(6, seed=2).double()
    torch.testing.assert_close(moved, expected)
    assert adapter.method == "vectors (LyCORIS)"
    result = wanalyze.compare(tmp_path / "base", tmp_path / "a.safetensors")
    norms = {"norm": normal(6, seed=1).norm().item(), "norm.bias": normal(6, seed=2).norm().item()}
    assert {v.name: v.metrics["delta_norm"] for v in result.vectors} == pytest.approx(norms, rel=1e-6)


def test_what_of_lora_and_loha_has_low_rank_is_kept_as_factors(tmp_path: Path) -> None:
    tensors = of("lora_unet_a", up=normal(90, 2), down=normal(2, 80)) | of(
        "lora_unet_b",
        **{f"hada_w{i}_a": normal(90, 2) for i in (1, 2)},
        **{f"hada_w{i}_b": normal(2, 80) for i in (1, 2)},
    )
    a, b = parsed(written(tmp_path / "a.safetensors", tensors)).updates
    assert (a.rank, type(a.read()).__name__) == (2, "LowRank")
    assert (b.rank, type(b.read()).__name__) == (4, "LowRank")


def test_what_is_full_rank_claims_no_rank(tmp_path: Path) -> None:
    for parts in ({**SCALED, "dora_scale": normal(6, 1)}, {"oft_blocks": normal(2, 3, 3)}, {"diff": normal(6, 4)}):
        assert parsed(written(tmp_path / "a.safetensors", of(LINEAR, **parts))).updates[0].rank is None


def test_each_thing_that_scales_counts(tmp_path: Path) -> None:
    def norm(**parts: Tensor) -> float:
        tensors = of(LINEAR, **{"up": UP, "down": DOWN, **parts})
        return float(parsed(written(tmp_path / "x.safetensors", tensors)).updates[0].read().dense().double().norm())

    unit = float((UP.double() @ DOWN.double()).norm())
    assert norm() == pytest.approx(unit)
    assert norm(alpha=number(2.0)) == pytest.approx(unit)
    assert norm(alpha=number(8.0)) == pytest.approx(4 * unit)
    assert norm(alpha=torch.tensor([8])) == pytest.approx(4 * unit)
    assert norm(alpha=number(8.0).bfloat16()) == pytest.approx(4 * unit)
    wider = {"up": torch.cat([UP, UP], 1), "down": torch.cat([DOWN, 0 * DOWN])}
    assert norm(**wider, alpha=number(8.0)) == pytest.approx(2 * unit)
