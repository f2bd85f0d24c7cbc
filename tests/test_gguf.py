"""Reading GGUF: equal to the gguf package, in the names and order of Hugging Face, strict with everything else."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import wanalyze
from tests.conftest import normal, save_checkpoint
from tests.gguf_files import U32, array, gguf_file, info, pair, text
from wanalyze.checkpoints import Checkpoint
from wanalyze.errors import CheckpointError

Kind = gguf.GGMLQuantizationType

PLAIN = {Kind.F32: np.float32, Kind.F16: np.float16, Kind.F64: np.float64, Kind.I8: np.int8, Kind.I32: np.int32}
QUANTISED = [kind for kind in gguf.quants._type_traits if kind is not Kind.BF16]
WRITTEN = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]  # and what else gguf can quantise
EVENLY_SPACED = [
    *(Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K),
    Kind.TQ2_0,
]
HEADS, KEY_HEADS, DIMENSION, WIDTH, HIDDEN = 6, 2, 4, 32, 64


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[np.ndarray, Kind | None]],
    *,
    arch: str = "other",
    metadata: Mapping[str, object] | None = None,
    split: int = 0,
) -> Path:
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    for key, value in (metadata or {}).items():
        adder = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array, bool: writer.add_bool}
        adder[type(value)](key, value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind: Kind, rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    """Rows of any blocks at all, with scales that are finite: the exponents of float16 are kept from their largest."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(seed).integers(0, 256, (rows * columns // weights, size), dtype=np.uint8)
    for at in SCALES.get(kind, ()):
        blocks[:, at + 1] = blocks[:, at + 1] & 0x83 | 0x20
    return blocks.reshape(rows, -1)


SCALES = {  # where float16 lie in a block
    **dict.fromkeys((Kind.Q4_0, Kind.Q5_0, Kind.Q8_0, Kind.IQ2_XXS, Kind.IQ2_XS, Kind.IQ2_S, Kind.IQ3_XXS), (0,)),
    **dict.fromkeys((Kind.IQ3_S, Kind.IQ1_S, Kind.IQ4_NL, Kind.IQ4_XS), (0,)),
    **dict.fromkeys((Kind.Q4_1, Kind.Q5_1, Kind.Q4_K, Kind.Q5_K), (0, 2)),
    **{Kind.Q2_K: (80, 82), Kind.Q3_K: (108,), Kind.Q6_K: (208,), Kind.TQ1_0: (52,), Kind.TQ2_0: (64,)},
}


def read_one(path: Path) -> Tensor:
    return wanalyze.open_checkpoint(path).read("x.weight")


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)
def test_plain_tensors_are_read_as_the_reference_reads_them(tmp_path: Path, kind: Kind) -> None:
    data = (10 * normal(3, 5)).numpy().astype(PLAIN[kind])
    path = write_gguf(tmp_path / "x.gguf", {"y.weight": (data[:2], None), "x.weight": (data, None)})
    found = read_one(path)
    expected = next(tensor.data for tensor in gguf.GGUFReader(path).tensors if tensor.name == "x.weight")
    assert found.numpy().dtype == expected.dtype
    assert found.tolist() == expected.tolist()


def test_bfloat16_is_read_as_the_reference_reads_it(tmp_path: Path) -> None:
    data = gguf.quantize(normal(3, 5).numpy(), Kind.BF16)
    found = read_one(write_gguf(tmp_path / "x.gguf", {"x.weight": (data, Kind.BF16)}))
    assert found.dtype == torch.bfloat16
    assert found.float().tolist() == gguf.dequantize(data, Kind.BF16).tolist()


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_quantised_type_is_read_as_the_reference_reads_it(tmp_path: Path, kind: Kind) -> None:
    data = random_blocks(kind, 3, 512)
    path = write_gguf(tmp_path / "x.gguf", {"y.weight": (data[:1], kind), "x.weight": (data, kind)})
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "x.weight")
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(tensor.data, kind)
    entry = wanalyze.open_checkpoint(path).entries["x.weight"]
    assert (entry.shape, entry.size) == ((3, 512), tensor.n_bytes)
    assert entry.dtype.name.lower() == kind.name.lower()
    assert np.array_equal(entry.read().numpy(), expected, equal_nan=True)


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
def test_what_gguf_quantises_comes_back_within_its_cell(tmp_path: Path, kind: Kind) -> None:
    weights = normal(7, 96)
    path = write_gguf(tmp_path / "x.gguf", {"x.weight": (gguf.quantize(weights.numpy(), kind), kind)})
    entry = wanalyze.open_checkpoint(path).entries["x.weight"]
    error, steps = (entry.read() - weights).abs(), entry.content.steps()
    assert steps is not None
    assert (error <= steps * 1.02).all()  # half a cell, but for the largest of a block, which is cut off
    assert (error <= steps * 0.52).double().mean() > 0.96
    # What `noise_edge` takes it for: a uniform error of the width of the cell.
    assert error.square().mean().sqrt().item() == pytest.approx((steps.square().mean() / 12).sqrt().item(), rel=0.15)


@pytest.mark.parametrize("kind", EVENLY_SPACED, ids=lambda kind: kind.name)
def test_weights_of_a_block_lie_whole_steps_apart(tmp_path: Path, kind: Kind) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"x.weight": (random_blocks(kind, 4, 1024), kind)})
    entry = wanalyze.open_checkpoint(path).entries["x.weight"]
    weights, steps = entry.read().double().reshape(-1, 16), entry.content.steps()
    assert steps is not None
    steps = steps.double().reshape(-1, 16)
    assert (steps == steps[:, :1]).all()
    apart = (weights - weights[:, :1])[steps[:, 0] > 0] / steps[steps[:, 0] > 0]
    assert apart.numel() > 3000
    assert (apart - apart.round()).abs().max() < 1e-3
    assert apart.abs().min(1).values.max() == 0
    assert (apart.abs() == 1).any()


@pytest.mark.parametrize("kind", [kind for kind in QUANTISED if kind not in EVENLY_SPACED], ids=lambda kind: kind.name)
def test_steps_of_uneven_types_are_a_share_of_the_range_around(tmp_path: Path, kind: Kind) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"x.weight": (random_blocks(kind, 4, 512), kind)})
    entry = wanalyze.open_checkpoint(path).entries["x.weight"]
    weights, steps = entry.read().reshape(-1, 32), entry.content.steps()
    assert steps is not None
    ratio = (weights.amax(1) - weights.amin(1)) / steps.reshape(-1, 32)[:, 0]
    expected = {"TQ1_0": 2, "IQ1_S": 2, "IQ1_M": 2}.get(kind.name, 2**entry.dtype.bits - 1)
    assert ratio[ratio.isfinite()].tolist() == pytest.approx([expected] * int(ratio.isfinite().sum()), rel=1e-5)


def test_a_quantised_tensor_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_file(infos=[info("x.weight", [256, 0], Kind.Q4_K)]))
    assert read_one(path).shape == (0, 256)


def test_rows_of_a_quantised_tensor_are_read_alone(tmp_path: Path) -> None:
    from wanalyze.checkpoints.content import item, rows

    blocks = random_blocks(Kind.Q6_K, 12, 256).reshape(3, 4, -1)
    path = write_gguf(tmp_path / "x.gguf", {"x.weight": (blocks, Kind.Q6_K)})
    content = wanalyze.open_checkpoint(path).entries["x.weight"].content
    whole, steps = content.read(), content.steps()
    one = item(content, 2)
    assert steps is not None
    assert (one.shape, one.pieces[0][1][1]) == ((4, 256), content.pieces[0][1][1] // 3)
    assert torch.equal(one.read(), whole[2])
    assert torch.equal(one.steps(), steps[2])  # type: ignore[arg-type]
    assert torch.equal(rows(content, 1, 3).read(), whole[1:3])


# Names and order of Hugging Face.


def permute(weights: np.ndarray, n_head: int, n_head_kv: int | None) -> np.ndarray:
    """As llama.cpp's conversion/llama.py writes it."""
    if n_head_kv is not None and n_head != n_head_kv:
        n_head = n_head_kv
    return (
        weights.reshape(n_head, 2, weights.shape[0] // n_head // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def hugging_face_layer(layer: int, *, seed: int = 0) -> dict[str, Tensor]:
    shapes = {
        "self_attn.q_proj.weight": (HEADS * DIMENSION, WIDTH),
        "self_attn.q_proj.bias": (HEADS * DIMENSION,),
        "self_attn.k_proj.weight": (KEY_HEADS * DIMENSION, WIDTH),
        "self_attn.v_proj.weight": (KEY_HEADS * DIMENSION, WIDTH),
        "self_attn.o_proj.weight": (WIDTH, HEADS * DIMENSION),
        "mlp.gate_proj.weight": (HIDDEN, WIDTH),
        "mlp.up_proj.weight": (HIDDEN, WIDTH),
        "mlp.down_proj.weight": (WIDTH, HIDDEN),
        "input_layernorm.weight": (WIDTH,),
        "post_attention_layernorm.weight": (WIDTH,),
    }
    return {
        f"model.layers.{layer}.{name}": normal(*shape, seed=seed + 100 * layer + i)
        for i, (name, shape) in enumerate(shapes.items())
    }


def hugging_face(layers: int = 2, *, seed: int = 0) -> dict[str, Tensor]:
    found = {
        "model.embed_tokens.weight": normal(40, WIDTH, seed=seed + 7000),
        "model.norm.weight": normal(WIDTH, seed=seed + 7001),
        "lm_head.weight": normal(40, WIDTH, seed=seed + 7002),
    }
    for layer in range(layers):
        found |= hugging_face_layer(layer, seed=seed)
    return found


def converted(tensors: Mapping[str, Tensor], arch: str) -> dict[str, tuple[np.ndarray, Kind | None]]:
    """What llama.cpp's converter makes of a model: names by gguf's own map, rows of llama's q and k permuted."""
    names = gguf.get_tensor_name_map(next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), 8)
    found: dict[str, tuple[np.ndarray, Kind | None]] = {}
    for name, tensor in tensors.items():
        data = tensor.numpy()
        if arch in ("llama", "mistral3") and name.endswith(("q_proj.weight", "q_proj.bias")):
            data = permute(data, HEADS, HEADS)
        if arch in ("llama", "mistral3") and name.endswith(("k_proj.weight", "k_proj.bias")):
            data = permute(data, HEADS, KEY_HEADS)
        found[names.get_name(name, (".weight", ".bias")) or name] = (data, None)
    return found


def head_counts(arch: str) -> dict[str, object]:
    return {f"{arch}.attention.head_count": HEADS, f"{arch}.attention.head_count_kv": KEY_HEADS}


def write_model(path: Path, tensors: Mapping[str, Tensor], arch: str = "llama", **more: object) -> Path:
    metadata = {**head_counts(arch), f"{arch}.embedding_length": WIDTH, f"{arch}.attention.key_length": DIMENSION}
    return write_gguf(path, converted(tensors, arch), arch=arch, metadata=metadata, **more)  # type: ignore[arg-type]


def assert_same(found: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    assert found.entries.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found.read(name), tensor), name


@pytest.mark.parametrize("arch", ["llama", "mistral3", "qwen2", "qwen3"])
def test_a_converted_model_reads_as_it_was(tmp_path: Path, arch: str) -> None:
    model = hugging_face()
    if arch == "qwen3":
        model["model.layers.0.self_attn.q_norm.weight"] = normal(DIMENSION, seed=1)
        model["model.layers.0.self_attn.k_norm.weight"] = normal(DIMENSION, seed=2)
    found = wanalyze.open_checkpoint(write_model(tmp_path / "x.gguf", model, arch))
    assert_same(found, model)
    assert found.config["model_type"] == {"mistral3": "ministral3"}.get(arch, arch)
    assert (found.config["num_attention_heads"], found.config["num_key_value_heads"]) == (HEADS, KEY_HEADS)
    assert (found.config["hidden_size"], found.config["head_dim"]) == (WIDTH, DIMENSION)
    assert found.notes == (f"names mapped from llama.cpp's ({arch})",)


def test_head_counts_may_differ_between_layers(tmp_path: Path) -> None:
    keys = normal(8, WIDTH)
    tensors = {
        f"blk.{layer}.attn_k.weight": (permute(keys.numpy(), 4, count), None) for layer, count in ((0, 4), (1, 2))
    }
    metadata = {"llama.attention.head_count": 4, "llama.attention.head_count_kv": [4, 2]}
    found = wanalyze.open_checkpoint(write_gguf(tmp_path / "x.gguf", tensors, arch="llama", metadata=metadata))
    for layer in (0, 1):
        assert torch.equal(found.read(f"model.layers.{layer}.self_attn.k_proj.weight"), keys)


@pytest.mark.parametrize("part", ["attn_q", "attn_k"])
def test_rows_are_put_in_order_as_transformers_does_it(tmp_path: Path, part: str) -> None:
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    name, weights = f"blk.0.{part}.weight", normal(HEADS * DIMENSION, WIDTH).numpy()
    processor = LlamaTensorProcessor({"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS})
    path = write_gguf(tmp_path / "x.gguf", {name: (weights, None)}, arch="llama", metadata=head_counts("llama"))
    found = wanalyze.open_checkpoint(path)
    assert found.read(*found.entries).tolist() == processor.process(weights, name).weights.tolist()


def test_cells_of_queries_are_put_in_order_with_them(tmp_path: Path) -> None:
    weights = normal(HEADS * DIMENSION, WIDTH).numpy()
    kinds = {
        "attn_q": (gguf.quantize(permute(weights, HEADS, HEADS), Kind.Q4_0), Kind.Q4_0),
        "attn_v": (gguf.quantize(weights, Kind.Q4_0), Kind.Q4_0),
    }
    tensors = {f"blk.0.{part}.weight": stored for part, stored in kinds.items()}
    path = write_gguf(tmp_path / "x.gguf", tensors, arch="llama", metadata=head_counts("llama"))
    found = wanalyze.open_checkpoint(path)
    q, v = (found.entries[f"model.layers.0.self_attn.{name}_proj.weight"].content for name in "qv")
    assert torch.equal(q.read(), v.read())
    assert torch.equal(q.steps(), v.steps())  # type: ignore[arg-type]
    assert found.notes[0] == "GGUF: 2 tensors dequantised from q4_0"


@pytest.mark.parametrize(
    ("arch", "model_type", "module", "names"),
    [
        ("llama", "mixtral", "block_sparse_moe", {"gate": "w1", "down": "w2", "up": "w3"}),
        ("qwen3moe", "qwen3_moe", "mlp", {"gate": "gate_proj", "down": "down_proj", "up": "up_proj"}),
    ],
)
def test_stacked_experts_are_tensors_of_their_own(
    tmp_path: Path, arch: str, model_type: str, module: str, names: dict[str, str]
) -> None:
    shapes = {"gate": (3, HIDDEN, WIDTH), "up": (3, HIDDEN, WIDTH), "down": (3, WIDTH, HIDDEN)}
    stacks = {part: gguf.quantize(normal(*shape).numpy(), Kind.Q8_0) for part, shape in shapes.items()}
    tensors = {f"blk.4.ffn_{part}_exps.weight": (stack, Kind.Q8_0) for part, stack in stacks.items()}
    router = normal(3, WIDTH)
    path = write_gguf(tmp_path / "x.gguf", {**tensors, "blk.4.ffn_gate_inp.weight": (router.numpy(), None)}, arch=arch)
    found = wanalyze.open_checkpoint(path)
    expected = {f"model.layers.4.{module}.gate.weight": router}
    for part, stack in stacks.items():
        for expert, weights in enumerate(gguf.dequantize(stack, Kind.Q8_0)):
            expected[f"model.layers.4.{module}.experts.{expert}.{names[part]}.weight"] = torch.from_numpy(weights)
    assert_same(found, expected)
    assert found.config["model_type"] == model_type


def test_other_architectures_keep_their_names_and_say_so(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"blk.0.attn_q.weight": (normal(4, 6).numpy(), None)}, arch="gemma3")
    found = wanalyze.open_checkpoint(path)
    assert [*found.entries] == ["blk.0.attn_q.weight"]
    assert found.config == {}
    assert "gemma3" in found.notes[0]


def test_names_agree_with_those_of_the_gguf_package() -> None:
    """Its map goes from Hugging Face to ggml."""
    from wanalyze.checkpoints.gguf.names import DIALECTS, meaning_of

    for arch, dialect in DIALECTS.items():
        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
        names, checked = gguf.get_tensor_name_map(kind, 4), 0
        for tensor in gguf.MODEL_TENSORS[kind]:
            name = f"{gguf.TENSOR_NAMES[tensor].format(bid=3)}.weight"
            meaning = meaning_of(name, dialect)
            if meaning is not None and not meaning.is_stack:
                assert names.get_name(meaning.name, (".weight",)) == name
                checked += 1
        assert checked >= 12


# Whole models.


def test_a_fine_tune_in_safetensors_is_compared_with_a_gguf_base(tmp_path: Path) -> None:
    base = hugging_face(1)
    change = normal(HEADS * DIMENSION, 2, seed=50) @ normal(2, WIDTH, seed=51)
    name = "model.layers.0.self_attn.q_proj"
    tuned = {**base, f"{name}.weight": base[f"{name}.weight"] + change}
    path = write_model(tmp_path / "base.gguf", base)
    found = wanalyze.compare(path, save_checkpoint(tmp_path / "tuned", tuned), cache=False)
    by_name = {record.name: record for record in found.modules}
    assert by_name[name].metrics["delta_norm"] == pytest.approx(change.norm().item(), rel=1e-5)
    assert by_name[name].metrics["energy_rank_99"] <= 2
    moved = {record.name for record in found.modules if record.metrics.get("delta_norm")}
    assert moved == {name}
    assert not found.skipped


def test_rounding_to_four_bits_alone_is_below_the_noise_edge(tmp_path: Path) -> None:
    base = {f"model.layers.0.mlp.{name}_proj.weight": normal(96, 128, seed=i) for i, name in enumerate(("up", "gate"))}
    stored = {name: (gguf.quantize(data, Kind.Q4_0), Kind.Q4_0) for name, (data, _) in converted(base, "llama").items()}
    path = write_gguf(tmp_path / "base.gguf", stored, arch="llama", metadata=head_counts("llama"))
    found = wanalyze.compare(path, save_checkpoint(tmp_path / "tuned", base), cache=False)
    assert len(found.modules) == 2
    for record in found.modules:
        assert record.dtype == "q4_0, float32"
        assert record.metrics["signal_rank"] == 0


def test_split_files_are_one_model(tmp_path: Path) -> None:
    model = hugging_face()
    write_model(tmp_path / "m.gguf", model, split=5)
    parts = sorted(path.name for path in tmp_path.glob("*.gguf"))
    assert parts[0] == f"m-00001-of-{len(parts):05}.gguf"
    assert len(parts) == 5
    for reference in (tmp_path, tmp_path / parts[0], tmp_path / parts[3]):
        found = wanalyze.open_checkpoint(reference)
        assert_same(found, model)
        assert [file.name for file in found.files] == parts


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def number_key(key: str, kind: str, value: int) -> bytes:
    return key.encode() + struct.pack("<I", {"H": 2, "i": 5}[kind]) + struct.pack(f"<{kind}", value)


def drop(folder: Path, parts: list[str]) -> None:
    (folder / parts[2]).unlink()


def swap(folder: Path, parts: list[str]) -> None:
    (folder / parts[1]).rename(folder / "x")
    (folder / parts[2]).rename(folder / parts[1])
    (folder / "x").rename(folder / parts[2])


def recount(folder: Path, parts: list[str]) -> None:
    replace_in(
        folder / parts[0], number_key("split.tensors.count", "i", 23), number_key("split.tensors.count", "i", 24)
    )


def other_count(folder: Path, parts: list[str]) -> None:
    replace_in(folder / parts[1], number_key("split.count", "H", 5), number_key("split.count", "H", 6))


def no_count(folder: Path, parts: list[str]) -> None:
    replace_in(folder / parts[1], b"split.count", b"split.cOunt")


def repeat(folder: Path, parts: list[str]) -> None:
    replace_in(folder / parts[2], b"blk.1.attn_q.weight", b"blk.0.attn_q.weight")


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (drop, "00003-of-00005.gguf is missing"),
        (swap, "its name says 2 of 5"),
        (recount, "hold 24 tensors, they hold 23"),
        (other_count, "part 2 of 6"),
        (no_count, "part 2 of None"),
        (repeat, "twice"),
    ],
)
def test_split_files_that_disagree_are_refused(
    tmp_path: Path, break_it: Callable[[Path, list[str]], None], why: str
) -> None:
    write_model(tmp_path / "m.gguf", hugging_face(), split=5)
    break_it(tmp_path, sorted(path.name for path in tmp_path.glob("*.gguf")))
    with pytest.raises(CheckpointError, match=why):
        wanalyze.open_checkpoint(tmp_path)


def test_a_part_without_its_numbered_name_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", hugging_face(), split=5)
    (tmp_path / "m-00002-of-00005.gguf").rename(tmp_path / "part.gguf")
    with pytest.raises(CheckpointError, match="is part 2 of 5"):
        wanalyze.open_checkpoint(tmp_path / "part.gguf")


def test_of_several_gguf_files_in_a_folder_one_must_be_named(tmp_path: Path) -> None:
    model = hugging_face(1)
    write_model(tmp_path / "m-Q8_0.gguf", model)
    assert_same(wanalyze.open_checkpoint(tmp_path), model)
    write_model(tmp_path / "m-F16.gguf", model)
    with pytest.raises(CheckpointError, match=r"m-F16\.gguf, m-Q8_0\.gguf: pass one of them"):
        wanalyze.open_checkpoint(tmp_path)
    assert_same(wanalyze.open_checkpoint(tmp_path / "m-Q8_0.gguf"), model)


# Hostile files.


HOSTILE = {
    "empty": (b"", "does not begin with GGUF"),
    "seven bytes": (b"GGUF\3\0\0", "goes on to byte"),
    "a web page": (b"<!doctype html>" + bytes(99), "does not begin with GGUF"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "version 1": (gguf_file(version=1), "version 1"),
    "version 4": (gguf_file(version=4), "version 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "2**62 keys": (gguf_file(counts=(0, 2**62)), "4611686018427387904 keys"),
    "2**64 - 1 tensors": (gguf_file(counts=(2**64 - 1, 0)), "18446744073709551615 tensors"),
    "an array of 2**40": (gguf_file([pair("a", 9, array(4, 2**40))]), "array of 1099511627776"),
    "an array of 2**40 strings": (gguf_file([pair("a", 9, array(8, 2**40))]), "array of 1099511627776"),
    "an array of long strings": (gguf_file([pair("a", 9, array(8, 3, struct.pack("<Q", 2**62)))]), "goes on to byte"),
    "nested arrays": (gguf_file([pair("a", 9, array(9, 1, array(9, 1) * 5000))]), "array of arrays"),
    "an array of no type": (gguf_file([pair("a", 9, array(13, 1))]), "array of type 13"),
    "a value of no type": (gguf_file([pair("a", 77, b"")]), "value of type 77"),
    "a truth of 2": (gguf_file([pair("a", 7, b"\2")]), "truth value 2"),
    "a key twice": (gguf_file([pair("a", 0, b"\1"), pair("a", 0, b"\2")]), "key 'a' appears twice"),
    "a key that is no text": (gguf_file([pair(b"\xff", 0, b"\1")]), "UTF-8"),
    "a value that is no text": (gguf_file([pair("a", 8, text(b"\xff"))]), "UTF-8"),
    "a key of a megabyte": (gguf_file([pair("a" * 2**20, 0, b"\1")]), "a key of 1048576 bytes"),
    "alignment 0": (gguf_file([pair("general.alignment", 4, U32.pack(0))]), "alignment is 0"),
    "alignment 24": (gguf_file([pair("general.alignment", 4, U32.pack(24))]), "alignment is 24"),
    "alignment in words": (gguf_file([pair("general.alignment", 8, text("32"))]), "alignment is 32, a power"),
    "alignment true": (gguf_file([pair("general.alignment", 7, b"\1")]), "alignment is True"),
    "a huge alignment": (gguf_file([pair("general.alignment", 4, U32.pack(2**31))]), "the file has"),
    "a name twice": (gguf_file(infos=[info(), info(offset=32)]), "tensor 'a' appears twice"),
    "a name that is no text": (gguf_file(infos=[info(b"\xc3")]), "UTF-8"),
    "five dimensions": (gguf_file(infos=[info(shape=[1] * 5)]), "5 dimensions"),
    "2**32 - 1 dimensions": (gguf_file(infos=[text("a") + U32.pack(2**32 - 1)]), "4294967295 dimensions"),
    "a size beyond all memory": (gguf_file(infos=[info(shape=[2**63, 0])]), "larger than any"),
    "more data than there is": (gguf_file(infos=[info(shape=[2**40, 2**40])]), "the file has"),
    "cut short": (gguf_file(data=31), "ends at byte"),
    "an unknown type": (gguf_file(infos=[info(kind=99)]), "ggml type 99"),
    "a removed type": (gguf_file(infos=[info(kind=31)]), "q4_0_4_4, which ggml no longer has"),
    "a row that is no block": (gguf_file(infos=[info(shape=[33], kind=2)]), "multiple of 32"),
    "a scalar in blocks": (gguf_file(infos=[info(shape=[], kind=12)]), "multiple of 256"),
    "an overlap": (gguf_file(infos=[info(shape=[9]), info("b", offset=32)]), "'b' overlaps"),
    "the same place": (gguf_file(infos=[info(), info("b")]), "overlaps"),
    "an odd place": (gguf_file(infos=[info(offset=4)]), "no multiple of 32"),
    "a place beyond": (gguf_file(infos=[info(offset=2**64 - 32)]), "the file has"),
    "a header without end": (
        gguf_file([pair("a", 8, struct.pack("<Q", 2**27))]) + bytes(2**27),
        "which no model needs",
    ),
    "an adapter": (gguf_file([pair("general.type", 8, text("adapter"))]), "is an adapter, a checkpoint"),
    "no head count": (
        gguf_file([pair("general.architecture", 8, text("llama"))], [info("blk.0.attn_q.weight")]),
        "head_count is None",
    ),
    "a head count that does not divide": (
        gguf_file(
            [
                pair("general.architecture", 8, text("llama")),
                pair("llama.attention.head_count", 10, struct.pack("<Q", 2**63)),
            ],
            [info("blk.0.attn_q.weight")],
        ),
        "does not split",
    ),
    "experts without end": (
        gguf_file(
            [pair("general.architecture", 8, text("llama"))],
            [info(f"blk.{layer}.ffn_up_exps.weight", [0, 1, 4096]) for layer in range(1000)],
        ),
        "more than 131072 tensors and experts",
    ),
    "a name mapped onto another": (
        gguf_file(
            [pair("general.architecture", 8, text("qwen2"))],
            [info("token_embd.weight"), info("model.embed_tokens.weight", offset=32)],
        ),
        "twice",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_their_rule_and_soon(tmp_path: Path, case: str) -> None:
    data, why = HOSTILE[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=why) as found:
        wanalyze.open_checkpoint(path)
    assert time.monotonic() - start < 5
    assert len(str(found.value)) < 400 + len(str(path))


def test_the_largest_vocabulary_that_fits_is_stepped_over_in_seconds(tmp_path: Path) -> None:
    count = 2**21
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_file([pair("tokenizer.ggml.tokens", 9, array(8, count, text("ab") * count))]))
    start = time.monotonic()
    assert [*wanalyze.open_checkpoint(path).entries] == ["a"]
    assert time.monotonic() - start < 5


def test_stacks_of_too_many_experts_stay_one_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    name = "blk.0.ffn_up_exps.weight"
    path.write_bytes(gguf_file([pair("general.architecture", 8, text("llama"))], [info(name, [0, 1, 2**48])]))
    assert [*wanalyze.open_checkpoint(path).entries] == [name]


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    from wanalyze.checkpoints.files import LocalFile
    from wanalyze.checkpoints.gguf.header import read_header

    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "other")
    values = {"uint8": 255, "int8": -128, "uint16": 65535, "int16": -2, "uint32": 2**32 - 1, "int32": -5}
    values |= {"uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 0.1, "bool": True, "string": "é"}
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_array("numbers", [3, 1, 2])
    writer.add_array("many", [1.5] * 5000)
    writer.add_array("words", ["a", "bc"])
    writer.add_string("long", "x" * 5000)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = dict(read_header(LocalFile.open(path, name="x.gguf")).metadata)
    assert found.pop("general.architecture") == "other"
    assert found == {**values, "numbers": (3, 1, 2), "many": None, "words": None, "long": None}


@pytest.mark.parametrize(("kind", "name"), [(Kind.Q8_1, "q8_1"), (Kind.Q8_K, "q8_K"), (Kind.Q1_0, "q1_0")])
def test_types_that_nothing_dequantises_are_left_out_by_name(tmp_path: Path, kind: Kind, name: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_file(infos=[info(shape=[256], kind=kind)], data=512))
    entry = wanalyze.open_checkpoint(path).entries["a"]
    assert entry.dtype.holds.value == "unsupported dtype"
    with pytest.raises(CheckpointError, match=name):
        entry.read()


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    from wanalyze.checkpoints.gguf.storage import STORAGES

    found = {number: (storage.weights, storage.size) for number, storage in STORAGES.items()}
    assert found == {kind.value: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"x.weight": (random_blocks(Kind.Q4_K, 1, 256), Kind.Q4_K)})
    monkeypatch.setitem(sys.modules, "gguf", None)
    entry = wanalyze.open_checkpoint(path).entries["x.weight"]
    with pytest.raises(CheckpointError, match=r"q4_K.*pip install 'wanalyze\[gguf\]'"):
        entry.read()


def test_listing_needs_neither_torch_nor_numpy_nor_gguf(tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", hugging_face(1))
    program = f"""
import sys
from wanalyze.cli import main
try:
    main(["inspect", {str(path)!r}, "--format", "json"])
except SystemExit as left:
    sys.stderr.write(f"{{left.code}} {{sorted({{'torch', 'numpy', 'gguf'}} & set(sys.modules))}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("0 []")
    assert "model.layers.0.self_attn.q_proj.weight" in json.dumps(json.loads(done.stdout))


SEED = gguf_file(
    [
        pair("general.architecture", 8, text("llama")),
        pair("llama.attention.head_count", 4, U32.pack(2)),
        pair("llama.attention.head_count_kv", 9, array(4, 2, U32.pack(2) * 2)),
        pair("general.alignment", 4, U32.pack(32)),
        pair("tokenizer.ggml.tokens", 9, array(8, 3, text("a") * 3)),
        pair("x", 7, b"\1"),
    ],
    [
        info("blk.0.attn_q.weight", [8, 4]),
        info("blk.1.attn_k.weight", [32, 4], 2, 128),
        info("blk.0.ffn_up_exps.weight", [32, 2, 3], 8, 224),
    ],
    data=448,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(SEED)))
@example([], len(SEED))
def test_whatever_the_header_says_it_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(SEED)
    for at, value in changes:
        data[at] = value
    path = tmp_path / "x.gguf"
    path.write_bytes(data if length % 3 else data[:length])
    try:
        found = wanalyze.open_checkpoint(path)
        for entry in found.entries.values():
            entry.content.steps()
            assert entry.read().shape == entry.shape
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert changes or found.config["model_type"] == "mixtral"
