"""Quantised weights: read as independent readers read them, and as far from the original as their cells say."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.mxfp6.helpers import kE2M3ToFloat
from compressed_tensors.entrypoints.convert import AutoAWQConverter, FP8BlockDequantizer, ModelOptNvfp4Converter
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
from transformers.integrations.mxfp4 import _convert_moe_packed_tensors

import wanalyze
from tests import quantised_files as files
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint
from tests.quantised_files import Made
from wanalyze.checkpoints import open_checkpoint
from wanalyze.checkpoints.content import item
from wanalyze.checkpoints.quantised import Dequantised, codes, restore
from wanalyze.checkpoints.quantised.bits import unpack
from wanalyze.errors import CheckpointError


def read(made: Made, folder: Path, name: str = "m.weight") -> Tensor:
    found = open_checkpoint(made.save(folder)).read(name)
    assert found.dtype == torch.float32
    return found


HAND_MADE = {
    **{
        f"{kind} {shape} {'nested' if nested else ''} {storage}": files.four_bits(
            kind, shape, nested=nested, storage=storage
        )
        for kind in ("nf4", "fp4")
        for shape, nested, storage in (
            ((12, 64), False, "uint8"),
            ((40, 48), True, "uint8"),
            ((7, 9), False, "uint8"),
            ((6, 34), True, "bfloat16"),
            ((5, 8, 16), False, "float32"),
        )
    },
    **{f"gptq {bits}": files.gptq(bits) for bits in (2, 3, 4, 8)},
    "gptq v2": files.gptq(4, version="gptq_v2"),
    "gptq in another order": files.gptq(4, order=True),
    "gptq of 3 bits, in another order, v2": files.gptq(3, order=True, version="gptq_v2"),
    "gptq with a ragged group": files.gptq(4, size=64),
    "awq": files.awq(),
}


@pytest.mark.parametrize("made", HAND_MADE.values(), ids=HAND_MADE)
def test_hand_made_weights_are_what_the_formula_says(made: Made, tmp_path: Path) -> None:
    assert made.weight is not None
    torch.testing.assert_close(read(made, tmp_path).double(), made.weight, rtol=1e-6, atol=1e-7)


def test_int8_of_bitsandbytes_is_what_the_formula_says(tmp_path: Path) -> None:
    stored, scale = files.randoms(6, 10, below=256).to(torch.int8), normal(6).abs()
    tensors = {"m.weight": stored, "m.SCB": scale, "m.weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected = [[int(stored[o, i]) * scale[o].item() / 127 for i in range(10)] for o in range(6)]
    found = read(Made(tensors, {"quant_method": "bitsandbytes", "load_in_8bit": True}), tmp_path)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_gptq_of_three_bits_is_packed_as_its_writer_packs(tmp_path: Path) -> None:
    """AutoGPTQ's three words: ten fields, one split 2 + 1, ten, one split 1 + 2, ten."""
    q = files.randoms(32, below=8, seed=7).tolist()
    first = sum(q[j] << 3 * j for j in range(10)) | (q[10] & 3) << 30
    second = q[10] >> 2 | sum(q[j] << 3 * (j - 11) + 1 for j in range(11, 21)) | (q[21] & 1) << 31
    third = q[21] >> 1 | sum(q[j] << 3 * (j - 22) + 2 for j in range(22, 32))
    assert [word % 2**32 for word in files.stream(q, 3)] == [first, second, third]


@given(
    st.integers(1, 8).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), min_size=1)))
)
def test_unpacking_undoes_packing(case: tuple[int, list[int]]) -> None:
    bits, integers = case
    words = torch.tensor(files.stream(integers, bits), dtype=torch.int32)
    assert unpack(words.view(torch.uint8)[None], bits, len(integers)).tolist() == [integers]


def arguments(**fields: object) -> QuantizationArgs:
    return QuantizationArgs.model_validate(fields)


GROUPS = {"strategy": "group", "group_size": 32}
PACKED = [
    (bits, is_symmetric, strategy)
    for bits in range(2, 9)
    for is_symmetric, strategy in ((True, GROUPS), (False, GROUPS), (False, {"strategy": "channel"}))
]


def compressed(form: str, args: QuantizationArgs, weight: Tensor, **scales: Tensor) -> tuple[Made, Tensor]:
    """A weight written by compressed-tensors, and as compressed-tensors reads it."""
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress({"weight": weight, **scales}, scheme)
    back = compressor.decompress(dict(stored), scheme)["weight"]
    config = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"0": scheme.model_dump(mode="json")},
    }
    return Made({f"m.{key}": tensor.detach() for key, tensor in stored.items()}, config), back


def uniform(weight: Tensor, bits: int, size: int, *, is_symmetric: bool) -> dict[str, Tensor]:
    """Scales and zero points of groups, as a rounding to nearest would choose them."""
    parts = weight.reshape(len(weight), -1, size)
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    if is_symmetric:
        return {"weight_scale": torch.maximum(-low, high) * 2 / (2**bits - 1)}
    scale = (high - low) / (2**bits - 1)
    zero = (-(2 ** (bits - 1)) - low / scale).round()
    return {"weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}


@pytest.mark.parametrize(("bits", "is_symmetric", "strategy"), PACKED, ids=str)
def test_packed_integers_are_read_as_compressed_tensors_reads_them(
    bits: int, is_symmetric: bool, strategy: dict[str, object], tmp_path: Path
) -> None:
    weight = normal(40, 96)
    args = arguments(num_bits=bits, symmetric=is_symmetric, **strategy)
    scales = uniform(weight, bits, 32 if strategy is GROUPS else 96, is_symmetric=is_symmetric)
    made, back = compressed("pack-quantized", args, weight, **scales)
    assert torch.equal(read(made, tmp_path), back)


def test_groups_in_another_order_take_the_scale_of_their_group(tmp_path: Path) -> None:
    weight, scale = normal(8, 64), normal(8, 2).abs() + 0.1
    made, _ = compressed("pack-quantized", arguments(num_bits=4, **GROUPS), weight, weight_scale=scale)
    plain = read(made, tmp_path / "plain") / scale.repeat_interleave(32, 1)
    index = torch.arange(64) % 2
    made.tensors["m.weight_g_idx"] = index.int()
    torch.testing.assert_close(read(made, tmp_path / "ordered"), plain * scale[:, index])
    made.tensors["m.weight_g_idx"] = torch.full((64,), -1, dtype=torch.int32)  # what "in their order" is filled with
    torch.testing.assert_close(read(made, tmp_path / "unset"), plain * scale.repeat_interleave(32, 1))


NAIVE = {
    "int8 channel": ("int-quantized", {"num_bits": 8, "strategy": "channel"}, (40, 1)),
    "int8 tensor": ("int-quantized", {"num_bits": 8, "strategy": "tensor"}, (1,)),
    "int4 group": ("naive-quantized", {"num_bits": 4, **GROUPS}, (40, 3)),
    "fp8 channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, (40, 1)),
    "fp8 tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, (1,)),
    "fp8 block": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 40]},
        (3, 3),
    ),
}


@pytest.mark.parametrize(("form", "args", "scale"), NAIVE.values(), ids=NAIVE)
def test_eight_bits_are_read_as_compressed_tensors_reads_them(
    form: str, args: dict[str, object], scale: tuple[int, ...], tmp_path: Path
) -> None:
    scales = normal(*scale, seed=3).abs() / 8 + 0.01
    made, back = compressed(form, arguments(**args), normal(40, 96), weight_scale=scales)
    assert torch.equal(read(made, tmp_path), back)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_microscaling_is_read_as_compressed_tensors_reads_it(bits: int, tmp_path: Path) -> None:
    form = "mxfp8-quantized" if bits == 8 else f"mxfp{bits}-pack-quantized"
    args = arguments(num_bits=bits, type="float", scale_dtype=torch.uint8, **GROUPS)
    scales = 2.0 ** files.randoms(40, 3, below=9).float().sub(8)
    made, back = compressed(form, args, normal(40, 96), weight_scale=scales)
    assert torch.equal(read(made, tmp_path), back.float())


def nvfp4(weight: Tensor) -> tuple[Made, Tensor]:
    args = arguments(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    whole = torch.tensor([448 * 6 / weight.abs().max()])
    scale = (weight.reshape(len(weight), -1, 16).abs().amax(-1) * whole / 6).to(torch.float8_e4m3fn).float()
    return compressed("nvfp4-pack-quantized", args, weight, weight_scale=scale, weight_global_scale=whole)


def test_nvfp4_is_read_as_compressed_tensors_reads_it(tmp_path: Path) -> None:
    made, back = nvfp4(normal(40, 96))
    assert torch.equal(read(made, tmp_path).to(back.dtype), back)


def test_modelopts_nvfp4_is_what_compressed_tensors_converts_it_to(tmp_path: Path) -> None:
    made, _ = nvfp4(normal(40, 96))
    tensors = {
        "m.weight": made.tensors["m.weight_packed"],
        "m.weight_scale": made.tensors["m.weight_scale"],
        "m.weight_scale_2": 1 / made.tensors["m.weight_global_scale"].reshape(()),
        "m.input_scale": torch.tensor(0.5),
    }
    converted = Made(ModelOptNvfp4Converter(targets=["re:.*"]).process(dict(tensors)), made.config)
    modelopt = Made(tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"})
    torch.testing.assert_close(read(modelopt, tmp_path / "a"), read(converted, tmp_path / "b"), rtol=1e-6, atol=0)
    assert open_checkpoint(tmp_path / "a").entries.keys() == {"m.weight"}


def test_awq_is_what_compressed_tensors_converts_it_to(tmp_path: Path) -> None:
    made = files.awq()
    converted = AutoAWQConverter(group_size=32, targets=["re:.*"]).process(dict(made.tensors))
    args = arguments(num_bits=4, symmetric=False, **GROUPS)
    config = {"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": args.model_dump(mode="json")}}}
    assert torch.equal(read(made, tmp_path / "a"), read(Made(converted, config), tmp_path / "b"))


FP8 = {
    "ragged blocks": (files.fp8(), [128, 128]),
    "blocks of a stack": (files.fp8((3, 300, 140), scale=(3, 3, 2)), [128, 128]),
    "blocks of another size": (files.fp8(scale=(300, 3), weight_block_size=[1, 64]), [1, 64]),
    "one scale": (files.fp8(scale=(), weight_block_size=None), None),
    "one scale, as vLLM writes it": (files.fp8(suffix="weight_scale", scale=(1,), weight_block_size=None), None),
    "one scale a row, of fbgemm": (
        files.fp8(suffix="weight_scale", scale=(300, 1), quant_method="fbgemm_fp8", weight_block_size=None),
        [1, 140],
    ),
    "one scale, of ModelOpt": (
        files.fp8(suffix="weight_scale", scale=(), quant_method="modelopt", weight_block_size=None),
        None,
    ),
}


@pytest.mark.parametrize(("made", "block"), FP8.values(), ids=FP8)
def test_fp8_is_read_as_transformers_reads_it(made: Made, block: list[int] | None, tmp_path: Path) -> None:
    stored, scale = made.tensors.values()
    made.tensors["m.activation_scale"] = torch.ones(1)
    assert torch.equal(read(made, tmp_path), _dequantize_fp8_weight(stored, scale, block, torch.float32))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e8m0fnu], ids=str)
def test_scales_that_are_powers_of_two_are_read_from_their_exponents(dtype: torch.dtype, tmp_path: Path) -> None:
    made = files.fp8()
    exponents = files.randoms(3, 2, below=20).to(torch.uint8) + 120
    made.tensors["m.weight_scale_inv"] = exponents.view(dtype)
    scale = 2.0 ** (exponents.float() - 127)
    expected = _dequantize_fp8_weight(made.tensors["m.weight"], scale, [128, 128], torch.float32)
    assert torch.equal(read(made, tmp_path), expected)


def test_fp8_blocks_are_read_as_compressed_tensors_converts_them(tmp_path: Path) -> None:
    made = files.fp8()
    converter = FP8BlockDequantizer(targets=["re:.*"], dtype=torch.float32)
    assert torch.equal(read(made, tmp_path), converter.process(dict(made.tensors))["m.weight"])


def gpt_oss() -> Made:
    blocks = files.randoms(4, 10, 3, 16, below=256).to(torch.uint8)
    scales = files.randoms(4, 10, 3, below=20).to(torch.uint8) + 115
    tensors = {"m.gate_up_proj_blocks": blocks, "m.gate_up_proj_scales": scales, "m.gate_up_proj_bias": normal(4, 10)}
    return Made(tensors, {"quant_method": "mxfp4"})


def test_gpt_oss_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    made = gpt_oss()
    blocks, scales, _ = made.tensors.values()
    found = read(made, tmp_path, "m.gate_up_proj")
    assert found.shape == (4, 96, 10)
    assert torch.equal(found, _convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))


@pytest.mark.parametrize(
    ("made", "name"), [(gpt_oss(), "m.gate_up_proj"), (FP8["blocks of a stack"][0], "m.weight")], ids=["mxfp4", "fp8"]
)
def test_one_matrix_of_a_stack_is_read_without_the_others(made: Made, name: str, tmp_path: Path) -> None:
    entry = open_checkpoint(made.save(tmp_path)).entries[name]
    one = item(entry.content, 2)
    assert sum(size for _, (_, size) in one.pieces) == entry.size / entry.shape[0]
    assert torch.equal(one.read(), entry.read()[2])
    steps, whole = one.steps(), entry.content.steps()
    assert steps is not None
    assert whole is not None
    assert torch.equal(steps, whole[2])


@pytest.mark.parametrize(
    ("alphabet", "dtype"),
    [
        (codes.E4M3, torch.float8_e4m3fn),
        (codes.E5M2, torch.float8_e5m2),
        (codes.E4M3FNUZ, torch.float8_e4m3fnuz),
        (codes.E5M2FNUZ, torch.float8_e5m2fnuz),
        (codes.E8M0, torch.float8_e8m0fnu),
    ],
    ids=str,
)
def test_eight_bit_floats_are_torchs(alphabet: codes.Alphabet, dtype: torch.dtype) -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    torch.testing.assert_close(
        torch.tensor(alphabet.values, dtype=torch.float64), expected, equal_nan=True, rtol=0, atol=0
    )


def test_short_alphabets_are_those_of_their_libraries() -> None:
    assert codes.E2M1.values == (0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6)
    assert list(codes.E2M3.values[:32]) == kE2M3ToFloat.tolist()
    assert [-value for value in codes.E2M3.values[32:]] == kE2M3ToFloat.tolist()
    assert codes.NF4.values == files.NF4
    assert list(codes.FP4.values) == files.FP4


@pytest.mark.parametrize("alphabet", [codes.NF4, codes.FP4, codes.E2M1, codes.E2M3, codes.E4M3], ids=range(5))
def test_a_width_is_that_of_an_error_of_the_same_size(alphabet: codes.Alphabet) -> None:
    """Numbers spread evenly over each code's cell are off by width / √12, as a uniform error of that width is."""
    values = sorted({value for value in alphabet.values if math.isfinite(value)})
    for low, value, high in zip(values, values[1:], values[2:], strict=False):
        cell = torch.linspace((low + value) / 2, (value + high) / 2, 2001, dtype=torch.float64)
        error = (cell - value).square().mean().sqrt().item()
        assert alphabet.widths[alphabet.values.index(value)] == pytest.approx(error * math.sqrt(12), rel=2e-3)
    assert alphabet.widths[alphabet.values.index(values[-1])] == pytest.approx(values[-1] - values[-2])


def quantisers() -> dict[str, Made]:
    """The same weights, rounded to nearest in several ways."""
    weight = normal(64, 256)
    rounded = {"nvfp4": nvfp4(weight)[0]}
    for bits in (3, 4, 8):
        args = arguments(num_bits=bits, symmetric=False, **GROUPS)
        made, _ = compressed("pack-quantized", args, weight, **uniform(weight, bits, 32, is_symmetric=False))
        rounded[f"int{bits}"] = made
    scales = {"weight_scale": torch.full((64, 1), 2.0**-6)}
    channel = arguments(num_bits=8, type="float", strategy="channel")
    rounded["fp8"] = compressed("float-quantized", channel, weight, **scales)[0]
    return rounded


@pytest.mark.parametrize("kind", ["nvfp4", "int3", "int4", "int8", "fp8"])
def test_weights_lie_as_far_from_the_original_as_their_steps_say(kind: str, tmp_path: Path) -> None:
    entry = open_checkpoint(quantisers()[kind].save(tmp_path)).entries["m.weight"]
    steps = entry.content.steps()
    assert steps is not None
    assert steps.shape == entry.shape
    error = (entry.read() - normal(64, 256)).double()
    assert (error.abs() <= 0.7 * steps).all()  # a lopsided cell of E2M1 reaches 0.58 of its width to one side
    assert 0.7 < error.square().mean() / (steps.double().square().mean() / 12) < 1.05


def test_what_is_not_quantised_stays_and_what_is_comes_in_its_place(tmp_path: Path) -> None:
    made = files.four_bits("nf4", (12, 16))
    made.tensors |= {"a.weight": normal(3, 5), "m.bias": normal(12), "m.k_scale": torch.ones(1)}
    found = open_checkpoint(made.save(tmp_path))
    assert found.entries.keys() == {"a.weight", "m.bias", "m.k_scale", "m.weight"}
    assert found.notes == ("1 weight dequantised from nf4 (blocks of 64)",)
    content = found.entries["m.weight"].content
    assert isinstance(content, Dequantised)
    assert (content.dtype.name, content.dtype.bits, content.shape) == ("nf4", 4, (12, 16))
    assert (
        found.entries["m.weight"].size == 96 + 12 + 64 + made.tensors["m.weight.quant_state.bitsandbytes__nf4"].numel()
    )


def test_a_checkpoint_without_quantised_weights_is_left_alone(tmp_path: Path) -> None:
    tensors = {
        "m.weight": normal(3, 5),
        "logit_scale": normal(1),
        "m.weight_scale": normal(1),
        "n.num_blocks": normal(2),
    }
    entries = open_checkpoint(save_checkpoint(tmp_path, tensors)).entries
    assert restore(entries, {}, where="here") == (dict(entries), ())
    assert restore(entries, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, where="here")[1] == ()


def test_layouts_are_told_without_a_config(tmp_path: Path) -> None:
    for kind, made in {"nf4": files.four_bits("nf4", (4, 32)), "gptq": files.gptq(4), "awq": files.awq()}.items():
        assert made.weight is not None
        found = read(Made(made.tensors), tmp_path / kind)
        torch.testing.assert_close(found.double(), made.weight, rtol=1e-6, atol=1e-7)


def test_a_g_idx_that_was_not_filled_in_is_not_believed(tmp_path: Path) -> None:
    made = files.gptq(4)
    made.tensors["m.g_idx"] = torch.zeros(96, dtype=torch.int32)
    assert made.weight is not None
    torch.testing.assert_close(read(made, tmp_path).double(), made.weight, rtol=1e-6, atol=1e-7)


def test_the_language_model_of_several_parts_may_have_the_config(tmp_path: Path) -> None:
    made = files.gptq(4)
    entries = open_checkpoint(save_checkpoint(tmp_path, made.tensors)).entries
    with pytest.raises(CheckpointError, match="AQLM"):
        restore(entries, {"text_config": {"quantization_config": {"quant_method": "aqlm"}}}, where="here")


def test_listing_quantised_weights_loads_no_torch(tmp_path: Path) -> None:
    folder = files.four_bits("nf4", (12, 16)).save(tmp_path)
    code = f"import sys, wanalyze; wanalyze.open_checkpoint({str(folder)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_adapter_is_compared_with_its_quantised_base(tmp_path: Path) -> None:
    base = files.four_bits("nf4", (12, 16))
    base.tensors = {f"model.layers.0.self_attn.q_proj{name[1:]}": tensor for name, tensor in base.tensors.items()}
    factors = lora_factors("model.layers.0.self_attn.q_proj", 12, 16)
    result = wanalyze.compare(base.save(tmp_path / "base"), save_adapter(tmp_path / "adapter", factors))
    assert result.base.notes == ["1 weight dequantised from nf4 (blocks of 64)"]
    assert [module.status.value for module in result.modules] == ["measured"]
    assert result.modules[0].dtype.startswith("nf4")
