"""Files as hostile or broken as they come, each with what must be said of it; numbered as in the research notes.

A row makes its file or folder and names it; the numbers are those of the list.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests import torch_files as files
from tests.conftest import lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from tests.distributed_files import Sharded, grid, made
from tests.gguf_files import array, gguf_file, info, pair
from tests.quantised_files import Made, four_bits, state_tensor
from tests.torch_files import archive, mapping, pickled

MODULE = "model.layers.0.mlp.up_proj"
_GIB = 2**30


@dataclass(frozen=True)
class Bad:
    """`make` writes into a folder and returns what is passed as tuned; the command must end with `code` and say `says`.

    A `code` of 0 is for what is odd and harmless: it must come out whole.
    """

    make: Callable[[Path], Path]
    says: str = ""
    code: int = 2


# --- one safetensors file ---


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def header(text: bytes | dict[str, object], data: bytes = b"", *, length: int | None = None) -> Callable[[Path], Path]:
    raw = text if isinstance(text, bytes) else json.dumps(text).encode()
    content = struct.pack("<Q", len(raw) if length is None else length) + raw + data
    return lambda folder: write(folder / "bad.safetensors", content)


def content(raw: bytes, name: str = "bad.safetensors") -> Callable[[Path], Path]:
    return lambda folder: write(folder / name, raw)


def tensor(begin: object = 0, end: object = 8, shape: object = (2,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def sparse(size: int, shape: list[int], dtype: str = "F32") -> Callable[[Path], Path]:
    """A file of `size` bytes of data that takes no room."""

    def make(folder: Path) -> Path:
        path = header({f"{MODULE}.weight": tensor(0, size, shape, dtype)})(folder)
        with path.open("rb+") as stream:
            stream.truncate(path.stat().st_size + size)
        return path

    return make


def large_header(folder: Path) -> Path:
    path = folder / "bad.safetensors"
    entries = ",".join(f'"{i:070}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(180_000))
    text = f"{{{entries}}}".encode()
    return write(path, struct.pack("<Q", len(text)) + text)


_TWICE = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"%s":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
SAFETENSORS = {
    "1 an empty file": Bad(content(b""), "too short"),
    "2 seven bytes": Bad(content(b"1234567"), "too short"),
    "3 a header of no bytes": Bad(content(bytes(8)), "does not begin"),
    "4 a header longer than the file": Bad(header({}, length=100), "100 bytes long"),
    "5 a header of 2^64 - 1 bytes": Bad(header({}, length=2**64 - 1), "bytes long"),
    "6 a header above the limit": Bad(header({}, length=2**30), "are allowed"),
    "7 a header that is not UTF-8": Bad(header(b'{"\xff": 1}'), "UTF-8"),
    "8 a header that is a list": Bad(header(b"[]"), "does not begin"),
    "8 a header that is null": Bad(header(b"null"), "does not begin"),
    "9 a byte-order mark": Bad(header(b"\xef\xbb\xbf{}"), "does not begin"),
    "9 a leading space": Bad(header(b" {}"), "does not begin"),
    "10 trailing bytes": Bad(header({"a": tensor()}, bytes(9)), "1 bytes follow"),
    "11 too little data": Bad(header({"a": tensor()}, bytes(3)), "5 bytes shorter"),
    "12 a hole": Bad(header({"a": tensor(4, 12)}, bytes(12)), "hole"),
    "13 an overlap": Bad(header({"a": tensor(), "b": tensor(4, 12)}, bytes(12)), "overlaps"),
    "14 a negative offset": Bad(header({"a": tensor(-8, 0)}, bytes(8)), "data_offsets"),
    "14 a fractional size": Bad(header({"a": tensor(shape=[2.0])}, bytes(8)), "shape"),
    "14 a size as text": Bad(header({"a": tensor(shape=["2"])}, bytes(8)), "shape"),
    "15 a range of another length": Bad(header({"a": tensor(shape=[3])}, bytes(8)), "12 bytes"),
    "16 a product beyond 64 bits": Bad(header({"a": tensor(shape=[2**40, 2**40])}, bytes(8)), "takes"),
    "17 2^63 times nothing": Bad(header({"a": tensor(0, 0, [2**63, 0])}), "shape"),
    "17 ten thousand dimensions": Bad(header({"a": tensor(shape=[1] * 10_000)}, bytes(8)), "shape"),
    "18 an unknown dtype": Bad(header({"a": tensor(dtype="F31")}, bytes(8)), "F31"),
    "18 a dtype nobody computes with": Bad(
        header({f"{MODULE}.weight": tensor(0, 240, [20, 16], "F6_E2M3")}, bytes(240)), "unsupported dtype"
    ),
    "19 a name twice": Bad(header(_TWICE % b"a", bytes(8)), "appears twice"),
    "20 a name twice by an escape": Bad(header(_TWICE % b"\\u0061", bytes(8)), "appears twice"),
    "20 a name of a megabyte twice": Bad(header(b'{"%s":1,"%s":2}' % (b"a" * 2**20, b"a" * 2**20)), "appears twice"),
    "21 a name of the metadata twice": Bad(header(b'{"__metadata__":{"a":"1","a":"2"}}'), "appears twice"),
    "22 a lone surrogate": Bad(header(b'{"\\ud800": {}}'), "UTF-8"),
    "24 a legal header of 20 MB": Bad(large_header, "are allowed"),
    "25 200 GB of nothing": Bad(sparse(200 * _GIB, [_GIB, 50]), "other shape"),
    "33 a Git LFS pointer": Bad(content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00"), "git lfs pull"),
    "34 a web page": Bad(content(b"<!doctype html><title>404</title>"), "web page"),
    "34 an error as JSON": Bad(content(b'{"error":"Entry not found"}'), "bytes long"),
    "35 a zip file": Bad(content(b"PK\x03\x04" + bytes(60)), "zip"),
    "35 a pickle": Bad(content(b"\x80\x04\x95" + bytes(60)), "pickle"),
}


# --- what is no file, or not where it seems ---


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bad.safetensors")
    return folder / "bad.safetensors"


def listening(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
    return folder / "s"


def link(to: str, name: str = "bad.safetensors") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(to)
        return folder / name

    return make


def linked_out(folder: Path) -> Path:
    inside = folder / "model"
    inside.mkdir()
    save_file({"a": normal(2)}, folder / "elsewhere.safetensors")
    (inside / "model.safetensors").symlink_to("../elsewhere.safetensors")
    return inside


def crowded(folder: Path) -> Path:
    for i in range(20_001):
        (folder / f"{i}").touch()
    return folder


def folder_as_file(folder: Path) -> Path:
    (folder / "model" / "model.safetensors").mkdir(parents=True)
    return folder / "model"


PLACES = {
    "28 a pipe": Bad(pipe, "regular file"),
    "28 a device": Bad(lambda folder: Path("/dev/zero"), "regular file"),
    "28 a socket": Bad(listening, "regular file"),
    "28 a folder called .safetensors": Bad(folder_as_file, "no weights"),
    "29 a link to nothing": Bad(link("nowhere"), "No such file"),
    "30 a link out of the folder": Bad(linked_out, "link out of the folder"),
    "31 a link to itself": Bad(link("bad.safetensors"), "cannot be read"),
    "31 a hundred thousand files": Bad(crowded, "more than"),
    "73 no weights": Bad(lambda folder: folder, "no weights"),
    "73 only a README": Bad(lambda folder: write(folder / "README.md", b"# model").parent, "no weights"),
}


# --- shards ---


def sharded(
    weight_map: object = None, *, drop: tuple[str, ...] = (), text: str | None = None
) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_file({"a": normal(2)}, folder / "one.safetensors")
        save_file({"b": normal(2)}, folder / "two.safetensors")
        for name in drop:
            (folder / name).unlink()
        usual = {"a": "one.safetensors", "b": "two.safetensors"}
        index = text or json.dumps({"weight_map": usual if weight_map is None else weight_map})
        (folder / "model.safetensors.index.json").write_text(index)
        return folder

    return make


def shard_of_b(name: object) -> Callable[[Path], Path]:
    return sharded({"a": "one.safetensors", "b": name})


def in_two_shards(folder: Path) -> Path:
    save_file({"a": normal(2)}, folder / "one.safetensors")
    save_file({"a": normal(2), "b": normal(2)}, folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def incomplete_family(folder: Path) -> Path:
    save_file({"a": normal(2)}, folder / "model-00001-of-00003.safetensors")
    return folder


def both_formats(folder: Path) -> Path:
    save_checkpoint(folder, moved())
    torch.save(moved(seed=5), folder / "pytorch_model.bin")
    return folder


SHARDS = {
    "37 a shard above the folder": Bad(shard_of_b("../two.safetensors"), "outside"),
    "37 an absolute shard": Bad(shard_of_b("/etc/passwd.safetensors"), "outside"),
    "37 a drive": Bad(shard_of_b("C:\\two.safetensors"), "outside"),
    "37 a share": Bad(shard_of_b("\\\\host\\two.safetensors"), "outside"),
    "37 a million folders": Bad(shard_of_b("x/" * 1_000_000 + "two.safetensors"), "1024 are allowed"),
    "37 a URL": Bad(shard_of_b("https://host/two.safetensors"), "outside"),
    "37 a NUL": Bad(shard_of_b("two\0.safetensors"), "outside"),
    "37 a pickle as shard": Bad(shard_of_b("two.bin"), "no .safetensors"),
    "38 a missing shard": Bad(sharded(drop=("two.safetensors",)), "'two.safetensors', which is missing"),
    "39 a tensor the shard lacks": Bad(
        sharded({"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}), "does not hold it"
    ),
    "39 a tensor the index lacks": Bad(sharded({"a": "one.safetensors", "x": "two.safetensors"}), "does not list it"),
    "39 a tensor in two shards": Bad(in_two_shards, "lists it in 'one.safetensors'"),
    "40 an endless index": Bad(sharded(text=" " * (17 * 2**20)), "more than"),
    "40 a weight_map that is a list": Bad(sharded(["a"]), "weight_map"),
    "40 shards that are numbers": Bad(sharded({"a": 1}), "no text"),
    "40 an index that is no JSON": Bad(sharded(text="{"), "JSON"),
    "40 a wrong total": Bad(
        sharded(text='{"metadata":{"total_size":7},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}'),
        "are they of one model",
    ),
    "41 a family without its other shards": Bad(incomplete_family, "00002-of-00003.safetensors is missing"),
    "42 two formats": Bad(both_formats, "pytorch_model.bin beside it was not", code=0),
}


# --- adapters ---


def adapter(tensors: dict[str, torch.Tensor] | None = None, **config: object) -> Callable[[Path], Path]:
    return lambda folder: save_adapter(folder / "adapter", tensors or lora_factors(MODULE, 20, 16), **config)


def config_text(text: str | bytes | None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = save_adapter(folder / "adapter", lora_factors(MODULE, 20, 16)) / "adapter_config.json"
        path.unlink()
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path.parent

    return make


def factors(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The two factors of a module, some changed or left out."""
    usual = {name.rpartition("lora_")[2][0]: name for name in lora_factors(MODULE, 20, 16)}
    found = {key: lora_factors(MODULE, 20, 16)[name] for key, name in usual.items()} | changes
    return {usual[key]: tensor for key, tensor in found.items() if tensor is not None}


def with_value(value: float) -> dict[str, torch.Tensor]:
    b = normal(20, 2, seed=2)
    b[3, 1] = value
    return factors(B=b)


_CONFIG = '{"peft_type": "LORA", "r": 2, "lora_alpha": 4'
ADAPTERS = {
    "52 no config": Bad(config_text(None), "adapter_model.safetensors"),
    "52 a config that is no JSON": Bad(config_text("{oops"), "JSON"),
    "52 a config that is a list": Bad(config_text("[]"), "object is needed"),
    "52 a config of 100 MB": Bad(config_text(b" " * (100 * 2**20)), "more than"),
    "52 NaN in the config": Bad(config_text(_CONFIG + ', "x": NaN}'), "NaN"),
    "52 infinity in the config": Bad(config_text(_CONFIG + ', "x": 1e999}'), "beyond all floats"),
    "52 a number of 5000 digits": Bad(config_text(_CONFIG + ', "x": ' + "9" * 5000 + "}"), "JSON"),
    "52 a key twice": Bad(config_text(_CONFIG + ', "r": 4}'), "appears twice"),
    "52 a config without end": Bad(config_text('{"a":' * 100_000), "nested"),
    "53 r of 0": Bad(adapter(r=0), "r is '0'"),
    "53 r of -1": Bad(adapter(r=-1), "r is '-1'"),
    "53 r as text": Bad(adapter(r="2"), "r is '2'"),
    "53 r of a billion": Bad(adapter(r=10**9), "rank 1000000000"),
    "53 r that is true": Bad(adapter(r=True), "r is 'True'"),
    "54 alpha of 0": Bad(adapter(lora_alpha=0), "", code=0),
    "54 alpha as text": Bad(adapter(lora_alpha="NaN"), "lora_alpha"),
    "54 a huge alpha": Bad(adapter(lora_alpha=1e308), "outside", code=3),
    "54 a negative alpha": Bad(adapter(lora_alpha=-4), "", code=0),
    "55 a pattern without end": Bad(adapter(rank_pattern={"(a+)+$": 2}), "without end"),
    "55 a pattern without end for alpha": Bad(adapter(alpha_pattern={"(.*)*x": 2}), "without end"),
    "55 targets without end": Bad(adapter(target_modules="(a+)+$"), "", code=0),
    "57 A without B": Bad(adapter(factors(B=None)), "no lora_B"),
    "57 B without A": Bad(adapter(factors(A=None)), "no lora_A"),
    "57 swapped": Bad(adapter(factors(A=normal(20, 2), B=normal(2, 16))), "rank 2"),
    "57 transposed": Bad(adapter(factors(A=normal(16, 2), B=normal(2, 20))), "rank 2"),
    "57 integers": Bad(adapter(factors(A=torch.ones(2, 16, dtype=torch.int32))), "int32"),
    "57 nothing in it": Bad(adapter(factors(A=torch.zeros(2, 0))), "empty"),
    "58 a B of zeros": Bad(adapter(factors(B=torch.zeros(20, 2))), "no matrix was changed", code=0),
    "59 NaN": Bad(adapter(with_value(float("nan"))), "holds nan at [3, 1]", code=3),
    "59 Inf": Bad(adapter(with_value(float("-inf"))), "holds -inf at [3, 1]", code=3),
    "59 a spike": Bad(adapter(with_value(1e6)), "", code=0),
    "60 a whole head": Bad(adapter(factors() | {"base_model.model.lm_head.weight": normal(30, 16)}), "", code=0),
    "61 a layer the base lacks": Bad(adapter(lora_factors("model.layers.9.mlp.up_proj", 20, 16)), "is this its base"),
    "61 another shape": Bad(adapter(lora_factors(MODULE, 24, 16)), "other shape"),
    "62 another base": Bad(adapter(base_model_name_or_path="https://evil.example/x"), "", code=0),
    "64 code to import": Bad(
        adapter(auto_mapping={"base_model_class": "X", "parent_library": "os"}, megatron_core="antigravity",
                auto_map={"AutoModel": "evil.py"}), "", code=0),
}  # fmt: skip


# --- names ---


def moved(seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: tensor + 0.01 * normal(*tensor.shape, seed=99 + seed) for name, tensor in tiny_base().items()}


HOSTILE_NAMES = (
    *("", "a\0b", "a\nb", "\x1b[31mred", "\u202egnp", "<script>alert(1)</script>", "=cmd()|'/c calc'!A0"),
    *(
        "::error::x",
        "%0A",
        "x" * 100_000,
        "../../etc/passwd",
        "a." * 20_000,
        "Case.Weight",
        "case.weight",
        "e\u0301",
        "\u00e9",
    ),
)


def hostile_names(folder: Path) -> Path:
    extra = {f"{name}.weight": normal(3, 4, seed=i) for i, name in enumerate(HOSTILE_NAMES)}
    path = folder / "bad.safetensors"
    save_file(moved() | extra, path, metadata={"<b>": "<script>" * 1000})
    return path


NAMES = {"22, 23, 67 names of every kind": Bad(hostile_names, "", code=0)}

# --- torch files and distributed checkpoints ---


def torch_file(value: bytes, files: dict[str, bytes] | None = None) -> Callable[[Path], Path]:
    """A zip as torch.save writes it, around the pickle of a value."""
    return lambda folder: archive(folder / "bad.bin", pickled(value), files)


def view(*place: object) -> Callable[[Path], Path]:
    return torch_file(mapping({f"{MODULE}.weight": files.tensor(*place)}))  # type: ignore[arg-type]


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with warnings.catch_warnings(), zipfile.ZipFile(folder / "bad.bin", "w", method) as made:
            warnings.simplefilter("ignore")  # a name twice
            for name, inner in entries:
                made.writestr(name, inner)
        return folder / "bad.bin"

    return make


def patched(magic: bytes, at: int, new: bytes) -> Callable[[Path], Path]:
    """Bytes of the last record of a kind replaced."""

    def make(folder: Path) -> Path:
        tensor = files.tensor([20, 16], [16, 1], of=files.storage(count=320))
        whole = torch_file(mapping({f"{MODULE}.weight": tensor}), {"data/0": bytes(4 * 320)})
        raw = bytearray(whole(folder).read_bytes())
        start = raw.rindex(magic) + at
        raw[start : start + len(new)] = new
        return write(folder / "bad.bin", bytes(raw))

    return make


def saved(value: object, **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(value, folder / "bad.ckpt", **options)  # type: ignore[arg-type]
        return folder / "bad.ckpt"

    return make


def tar(folder: Path) -> Path:
    with tarfile.open(folder / "bad.pt", "w") as made:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            made.addfile(tarfile.TarInfo(name))
    return folder / "bad.pt"


def safetensors_as_pickle(folder: Path) -> Path:
    save_file(moved(), folder / "bad.bin")
    return folder / "bad.bin"


def distributed(**place: object) -> Callable[[Path], Path]:
    """A distributed checkpoint of which the first chunk lies elsewhere."""

    def make(folder: Path) -> Path:
        it = made({f"{MODULE}.weight": Sharded(normal(20, 16), grid((0, 7, 20), (0, 16)))})
        vars(next(iter(it.metadata.storage_data.values()))).update(place)
        return it.save(folder)

    return make


_COMMAND = files.called("posix.system", files.text("echo"))
_PKL, _STORAGE = ("x/data.pkl", pickled(mapping({"a": files.tensor()}))), ("x/data/0", files.FOUR)
TORCH = {
    "36 safetensors called .bin": Bad(safetensors_as_pickle, "is safetensors by its content", code=0),
    "43 a command": Bad(torch_file(_COMMAND), "'posix.system'"),
    "43 a command in a bare pickle": Bad(content(pickled(_COMMAND), "bad.bin"), "'posix.system'"),
    "44 a bomb": Bad(zipped(_PKL, ("x/data/0", bytes(10**7)), method=zipfile.ZIP_DEFLATED), "is compressed"),
    "45 an entry twice": Bad(zipped(_PKL, _STORAGE, _STORAGE), "two entries of one name"),
    "46 an entry above its folder": Bad(zipped(_PKL, ("x/../../y", b"")), "outside the archive"),
    "46 an encrypted entry": Bad(patched(b"PK\1\2", 8, b"\1"), "is encrypted"),
    "46 sizes that lie": Bad(patched(b"PK\1\2", 20, b"\0\0\0\x40" * 2), "overlaps what follows"),
    "46 a header that disagrees": Bad(patched(b"PK\3\4", 30, b"y"), "does not agree"),
    "46 two pickles": Bad(zipped(_PKL, ("y/data.pkl", b"")), "2 files data.pkl"),
    "47 a memo of 10^8": Bad(torch_file(b"Nr\0\xe1\xf5\x05"), "numbers a value 100000000"),
    "47 a bytearray of a GB": Bad(torch_file(files.called("builtins.bytearray", files.number(10**9))), "bytearray"),
    "47 a tuple doubled 60 times": Bad(torch_file(b")q\0" + b"h\0\x86q\0" * 60), "holds a tuple"),
    "47 nesting without end": Bad(torch_file(b"(" * 10**6), "nests more than"),
    "48 a stride of 0": Bad(view([10**9], [0]), "expanded or overlapping"),
    "48 a view beyond its storage": Bad(view([5]), "reaches beyond its storage"),
    "48 a negative stride": Bad(view([2], [-1], 3), "a negative or impossibly large"),
    "49 before torch 0.2": Bad(tar, "a tar archive"),
    "49 before torch 1.6": Bad(saved(moved(), _use_new_zipfile_serialization=False), "before 1.6"),
    "49 TorchScript": Bad(zipped(_PKL, ("x/code/a.py", b"")), "TorchScript"),
    "49 a whole model": Bad(saved(torch.nn.Linear(2, 2)), "save `model.state_dict()` instead"),
    "49 a script's arguments": Bad(saved({"state_dict": moved(), "args": Namespace(x=1)}), "['state_dict'], path)`"),
    "50 a command in .metadata": Bad(lambda f: write(f / ".metadata", pickled(_COMMAND)).parent, "'posix.system'"),
    "50 a chunk above the folder": Bad(distributed(relative_path="../x.distcp"), "outside the folder"),
    "50 a chunk in no file": Bad(distributed(relative_path="x.distcp"), "No such file"),
    "50 a chunk beyond its file": Bad(distributed(length=2**40), "places a chunk up to byte"),
}


# --- GGUF and quantised weights ---


def gguf(*arguments: object, **more: object) -> Callable[[Path], Path]:
    return content(gguf_file(*arguments, **more), "bad.gguf")  # type: ignore[arg-type]


def four_bits_but(name: str, tensor: torch.Tensor) -> Callable[[Path], Path]:
    """A matrix of the base as bitsandbytes stores it, with another tensor beside it than belongs there."""

    def make(folder: Path) -> Path:
        whole = four_bits("nf4", (20, 16))
        tensors = {**whole.tensors, f"m.weight.{name}": tensor}
        return Made({MODULE + each.removeprefix("m"): it for each, it in tensors.items()}, whole.config).save(folder)

    return make


def state(**fields: object) -> Callable[[Path], Path]:
    usual = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": (20, 16)}
    return four_bits_but("quant_state.bitsandbytes__nf4", state_tensor(**{**usual, **fields}))


QUANTISED = {
    "63 blocks of 0": Bad(state(blocksize=0), "blocksize 0"),
    "63 another shape": Bad(state(shape=(20, 17)), "4-bit codes of [20, 17] take 170"),
    "63 a scale of NaN": Bad(four_bits_but("absmax", torch.full((5,), torch.nan)), "a scale must be finite"),
}

GGUF = {
    "51 an array of 2^40": Bad(gguf([pair("a", 9, array(4, 2**40))]), "array of 1099511627776"),
    "51 keys of 2^62": Bad(gguf(counts=(0, 2**62)), "4611686018427387904 keys"),
    "51 arrays in arrays": Bad(gguf([pair("a", 9, array(9, 1, array(9, 1) * 5000))]), "array of arrays"),
    "51 alignment 0": Bad(gguf([pair("general.alignment", 4, bytes(4))]), "alignment is 0"),
    "51 an overlap": Bad(gguf(infos=[info(), info("b")]), "overlaps"),
    "51 a part alone": Bad(content(gguf_file(), "bad-00001-of-00003.gguf"), "00002-of-00003.gguf is missing"),
}

BAD = SAFETENSORS | PLACES | SHARDS | ADAPTERS | NAMES | TORCH | GGUF | QUANTISED
