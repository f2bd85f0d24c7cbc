"""Pickles and zips that are damaged or forged: refused in one sentence, in no time, and nothing in them is run."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests import torch_files as files
from tests.limits import within_limits
from tests.torch_files import Trap, archive, mapping, number, numbers, pickled, several, storage, tensor, text
from wanalyze.checkpoints import open_checkpoint
from wanalyze.errors import CheckpointError


def read_all(path: Path) -> None:
    for entry in open_checkpoint(path).entries.values():
        entry.read()


def refused(path: Path, why: str) -> None:
    """One line that begins with the file, says why, and is no longer than a line may be."""
    with within_limits(), pytest.raises(CheckpointError, match=why) as caught:
        read_all(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert len(said) < 500 + len(str(path))
    assert said.isprintable()


@pytest.mark.parametrize("value", files.TRAPS.values(), ids=files.TRAPS)
def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, value: bytes) -> None:
    Trap.sprung.clear()
    armed = pickle.Unpickler(io.BytesIO(pickled(value, 4)))
    armed.persistent_load = lambda _: None
    with suppress(AttributeError):  # of a tensor without a storage
        armed.load()
    assert Trap.sprung
    Trap.sprung.clear()
    refused(archive(tmp_path / "x.bin", pickled(value, 4)), "which no state dict takes|'tests.torch_files.Trap', which")
    assert not Trap.sprung


def nested(depth: int) -> bytes:
    return pickle.MARK * depth + pickle.TUPLE * depth


def length(opcode: bytes, layout: str, count: int) -> bytes:
    """An instruction that says it carries so much."""
    return opcode + struct.pack(layout, count)


DICT = pickle.EMPTY_DICT
ONE = number(1)
PICKLES = {
    # names
    "a command": (pickled(files.called("posix.system", text("echo"))), "'posix.system', which is not part.*Nothing"),
    "a builtin": (pickled(files.called("builtins.eval", text("1"))), "'builtins.eval'"),
    "a bytearray of a GB": (pickled(files.called("builtins.bytearray", number(10**9))), "'builtins.bytearray'"),
    "what torch itself has": (pickled(files.called("torch.load", text("x"))), "'torch.load'"),
    "a dtype that torch does not have": (pickled(files.named("torch.f4")), r"'torch\.f4'"),
    "a name with escapes": (pickled(files.named("os.\x1b[31m")), r"'os\.\\x1b\[31m'"),
    "a name that is a number": (pickled(ONE + ONE + pickle.STACK_GLOBAL), "a name that is no text"),
    "a name without end": (pickled(pickle.GLOBAL + b"a" * 10**6), "name of more than 200 bytes"),
    "a name that is not UTF-8": (pickled(pickle.GLOBAL + b"\xff\n\xff\n"), "not UTF-8"),
    # calls
    "a dict that is called": (pickled(DICT + several() + pickle.REDUCE), "calls a dict"),
    "a dtype that is called": (pickled(files.called("torch.float32")), "calls a DType"),
    "a class that is called": (pickled(files.called("torch.FloatStorage", ONE)), "calls a StorageType"),
    "arguments that are no tuple": (pickled(files.named("torch.Size") + ONE + pickle.REDUCE), "calls torch.Size"),
    "an object of a function": (pickled(files.record("torch.device", {})), "makes an object of torch.device"),
    "an OrderedDict of pairs": (pickled(files.called("collections.OrderedDict", several())), "OrderedDict in a way"),
    "a size of a number": (pickled(files.called("torch.Size", ONE)), "a size that is none"),
    "attributes of a list": (pickled(pickle.EMPTY_LIST + DICT + pickle.BUILD), "sets attributes of a list"),
    "attributes of a name": (pickled(files.named("torch.Size") + DICT + pickle.BUILD), "sets attributes of torch.Size"),
    "a parameter of a number": (pickled(files.called("torch._utils._rebuild_parameter", ONE)), "that is no tensor"),
    "a tensor of a number": (pickled(tensor(of=ONE)), "something that is no storage"),
    # what a stack does not hold
    "nothing": (b"", "cut short"),
    "no end": (pickled(mapping({}))[:-1], "cut short"),
    "an argument cut short": (b"\x80\x02J\x01", "cut short"),
    "more after its end": (pickled(mapping({})) + b"x", "1 bytes follow its pickle"),
    "an empty stack": (pickled(b""), "takes what it never put down"),
    "a tuple of nothing": (pickled(pickle.TUPLE3), "takes what it never put down"),
    "a mark that is not there": (pickled(pickle.TUPLE), "takes what it never put down"),
    "a value that is not there": (pickled(pickle.BINGET + b"\7"), "takes what it never put down"),
    "an append to a dict": (pickled(DICT + ONE + pickle.APPEND), "appends to what is no list"),
    "an item of a list": (pickled(pickle.EMPTY_LIST + ONE + ONE + pickle.SETITEM), "items of what is no dict"),
    "half an item": (pickled(DICT + pickle.MARK + ONE + pickle.SETITEMS), "items of what is no dict"),
    "a key that is a tuple": (pickled(DICT + several() + ONE + pickle.SETITEM), "a key that is no text"),
    "a key that is a dict": (pickled(DICT + DICT + ONE + pickle.SETITEM), "a key that is no text"),
    "keys that collide": (pickled(DICT + number(2**61 - 1) + ONE + pickle.SETITEM), "a key that is no text"),
    # what asks for much
    "a memo of 10^8": (pickled(ONE + length(pickle.LONG_BINPUT, "<I", 10**8)), "numbers a value 100000000"),
    "nesting without end": (pickled(nested(100_000)), "nests more than 500 containers"),
    "tuples in tuples": (pickled(pickle.EMPTY_TUPLE + pickle.TUPLE1 * 10**5), "holds a tuple, a state dict is needed"),
    "two million values": (pickled(pickle.NONE * 2_000_000), "more than 2000000 instructions"),
    "a number of 255 bytes": (pickled(length(pickle.LONG1, "<B", 255) + bytes(255)), "a value of 255 bytes, 32 are"),
    "a number of 2 GB": (pickled(length(pickle.LONG4, "<i", 2**31 - 1)), "instruction 0x8b"),
    "a text of 4 GB": (pickled(length(pickle.BINUNICODE, "<I", 2**32 - 1)), "a value of 4294967295 bytes"),
    "a text of 2^62": (pickled(length(pickle.BINUNICODE8, "<Q", 2**62)), "instruction 0x8d"),
    "bytes of 4 GB": (pickled(length(pickle.BINBYTES, "<I", 2**32 - 1)), "a value of 4294967295 bytes"),
    "bytes of 2^62": (pickled(length(pickle.BINBYTES8, "<Q", 2**62)), "instruction 0x8e"),
    "a bytearray of 2^62": (pickled(length(pickle.BYTEARRAY8, "<Q", 2**62)), "instruction 0x96"),
    "a text that is not UTF-8": (pickled(b"X\3\0\0\0\xed\xa0\x80"), "text that is not UTF-8"),
    # storages
    "a reference that is no tuple": (pickled(ONE + pickle.BINPERSID), "a storage in a way that torch does not"),
    "a reference to something else": (pickled(several(text("module")) + pickle.BINPERSID), "in a way that torch does"),
    "a storage of a tensor's class": (pickled(storage(kind="torch.float32")), "in a way that torch does not"),
    "a storage of less than nothing": (pickled(storage(count=-1)), "in a way that torch does not"),
    "a storage with a long name": (pickled(storage("0" * 60_000)), "in a way that torch does not"),
    "a storage that is not there": (pickled(mapping({"a": tensor(of=storage("../1"))})), r"'\.\./1', which is not in"),
    "a storage said to be larger": (pickled(mapping({"a": tensor(of=storage(count=5))})), "of 20 bytes, there are 16"),
    "a storage said to be smaller": (pickled(mapping({"a": tensor(of=storage(count=3))})), "of 12 bytes, there are 16"),
    "a storage of 2^200": (pickled(mapping({"a": tensor(of=storage(count=2**200))})), "there are 16"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "why"), PICKLES.values(), ids=PICKLES)
def test_a_forged_pickle_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    refused(archive(tmp_path / "x.bin", content), why)


@pytest.mark.parametrize(
    "opcode", [*"SVTUILFP012diolg", "\x82", "\x83", "\x84", "\x91", "\x92", "\x97", "\x98", "\xff"]
)
def test_instructions_that_no_state_dict_takes_are_refused(tmp_path: Path, opcode: str) -> None:
    refused(archive(tmp_path / "x.bin", pickled(opcode.encode("latin-1") + b"1\n1\n")), "no state dict takes")


VIEWS = {
    "an expanded view": (tensor([10**9], [0]), "1000000000 elements in 1 places"),
    "elements that share a place": (tensor([3, 2], [1, 1]), "6 elements in 4 places"),
    "too many elements": (tensor([5]), "reaches beyond its storage of 16 bytes"),
    "a stride too long": (tensor([2, 2], [3, 1]), "reaches beyond"),
    "a place beyond": (tensor([1], offset=4), "reaches beyond"),
    "nothing beyond": (tensor([0], offset=5), "reaches beyond"),
    "a place before": (tensor([1], offset=-1), "negative or impossibly large"),
    "a negative stride": (tensor([2], [-1], offset=3), "negative or impossibly large"),
    "a negative size": (tensor([-2]), "negative or impossibly large"),
    "a size of 2^62": (tensor([0, 2**62], [1, 1]), "negative or impossibly large"),
    "a stride of 2^62": (tensor([1], [2**62]), "negative or impossibly large"),
    "a place of 2^200": (tensor([1], offset=2**200), "negative or impossibly large"),
    "too few strides": (tensor([2, 2]), "has 2 sizes and 1 strides"),
    "nine dimensions": (tensor([1] * 9, [1] * 9), "not at most 8 whole numbers"),
    "a million dimensions": (tensor([1] * 300_000, [1]), "not at most 8 whole numbers"),
    "a fraction": (
        files.called(
            *("torch._utils._rebuild_tensor_v2", storage(), number(0), several(pickle.BINFLOAT + bytes(8))),
            *(numbers([1]), pickle.NEWFALSE, DICT),
        ),
        "whole numbers",
    ),
    "a truth": (
        files.called(
            *("torch._utils._rebuild_tensor_v2", storage(), number(0), several(pickle.NEWTRUE), numbers([1])),
            *(pickle.NEWFALSE, DICT),
        ),
        "whole numbers",
    ),
    "elements that lie across": (
        tensor(
            *([2], [1]), by="torch._utils._rebuild_tensor_v3",
            of=storage(count=16, kind="torch.storage.UntypedStorage"), more=[files.named("torch.complex128")],
        ),
        "reaches beyond",
    ),
    "bytes without a dtype": (tensor(of=storage(kind="torch.storage.UntypedStorage")), "something that is no storage"),
}  # fmt: skip


@pytest.mark.parametrize(("view", "why"), VIEWS.values(), ids=VIEWS)
def test_a_view_that_torch_could_not_have_saved_is_refused(tmp_path: Path, view: bytes, why: str) -> None:
    refused(archive(tmp_path / "x.bin", pickled(mapping({"a": tensor(), "b": view}))), why)


# One value that stands in many places: cheap to write, dear to look at in each of them.

MANY = 100_000


IT = pickle.BINGET + b"\0"
KEYS = (
    *("state_dict", "model_state_dict", "model", "module", "app", "net", "network", "weights", "params"),
    *("params_ema", "ema", "ema_state_dict", "state_dict_ema", "model_ema"),
)


def test_a_value_in_many_places_is_looked_at_once(tmp_path: Path) -> None:
    doubled = pickle.EMPTY_TUPLE + pickle.BINPUT + b"\0" + (IT + pickle.TUPLE2 + pickle.BINPUT + b"\0") * 60
    found = open_checkpoint(archive(tmp_path / "x.bin", pickled(mapping({"a": tensor(), "b": doubled}))))
    assert found.read("a").tolist() == [1, 2, 3, 4]
    assert found.notes == ("'b' is no tensor and was left out",)


def test_a_dict_that_holds_itself_is_looked_at_once(tmp_path: Path) -> None:
    around = b"".join(text(key) + IT for key in (*KEYS, *map(str, range(MANY))))
    itself = DICT + pickle.BINPUT + b"\0" + pickle.MARK + around + pickle.SETITEMS
    refused(archive(tmp_path / "x.bin", pickled(itself)), "no tensors itself, but dicts 'state_dict'")


def test_the_shape_of_many_tensors_is_counted_before_it_is_looked_at(tmp_path: Path) -> None:
    rebuild = files.named("torch._utils._rebuild_tensor_v2") + IT + pickle.REDUCE
    shape = numbers([1] * MANY)
    arguments = several(storage(), number(0), shape, shape, pickle.NEWFALSE, DICT) + pickle.BINPUT + b"\0"
    refused(archive(tmp_path / "x.bin", pickled(arguments + rebuild * 3000)), "not at most 8 whole numbers")


def test_a_key_without_end_is_told_in_part(tmp_path: Path) -> None:
    around = mapping({"x" * 2**20: mapping({"a": tensor()}), "y" * 2**20: mapping({})})
    (note,) = open_checkpoint(archive(tmp_path / "x.bin", pickled(around))).notes
    assert note.startswith("weights taken from 'xxx")
    assert len(note) < 300


# The zip around.


def rewritten(change: Callable[[bytearray], None]) -> Callable[[Path], None]:
    """A whole archive with some bytes changed."""

    def make(path: Path) -> None:
        content = bytearray(archive(path, WHOLE).read_bytes())
        change(content)
        path.write_bytes(content)

    return make


WHOLE = pickled(mapping({"a": tensor()}))
LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def patched(magic: bytes, at: int, new: bytes, *, number: int = 0) -> Callable[[Path], None]:
    """Bytes of the nth record of a kind replaced: the entries are the pickle, the byte order and a storage."""

    def change(content: bytearray) -> None:
        start = -1
        for _ in range(number + 1):
            start = content.index(magic, start + 1)
        content[start + at : start + at + len(new)] = new

    return rewritten(change)


def both(at: int, new: bytes) -> Callable[[Path], None]:
    """The storage's record in the directory and its local header, which agree on it."""

    def change(content: bytearray) -> None:
        for magic, shift in ((LOCAL, 0), (CENTRAL, 2)):
            start = content.rindex(magic) + shift
            content[start + at : start + at + len(new)] = new

    return rewritten(change)


def cut(size: int) -> Callable[[Path], None]:
    return rewritten(lambda content: content.__delitem__(slice(size, None)))


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as made:
            warnings.simplefilter("ignore")  # a name twice
            for name, content in entries:
                made.writestr(name, content)

    return make


def huge_directory(path: Path) -> None:
    size = 2**24 + 1
    path.write_bytes(LOCAL + bytes(size - 4) + END + struct.pack("<4H2IH", 0, 0, 1, 1, size, 0, 0))


PKL, STORAGE = ("x/data.pkl", WHOLE), ("x/data/0", files.FOUR)
ZIPS = {
    "a bomb": (zipped(PKL, ("x/data/0", bytes(10**7)), method=zipfile.ZIP_DEFLATED), "is compressed"),
    "a compressed pickle alone": (zipped(PKL, method=zipfile.ZIP_BZIP2), "is compressed"),
    "an unknown compression": (both(8, struct.pack("<H", 99)), "is compressed"),
    "a name twice": (zipped(PKL, STORAGE, STORAGE), "two entries of one name"),
    "two pickles": (zipped(PKL, ("y/data.pkl", WHOLE)), r"holds 2 files data\.pkl"),
    "two pickles in one folder": (zipped(PKL, ("x/data/data.pkl", WHOLE)), r"holds 2 files data\.pkl"),
    "a storage in another folder": (zipped(PKL, STORAGE, ("data/0", bytes(16))), "'data/0' lies outside 'x/'"),
    "no pickle": (zipped(STORAGE), r"without data\.pkl"),
    "no storage": (zipped(PKL), "'0', which is not in the archive"),
    "a name that leads out": (zipped(PKL, ("x/../../etc/passwd", b"")), "would lie outside the archive"),
    "an absolute name": (zipped(("/data.pkl", WHOLE)), "would lie outside the archive"),
    "a name of another system": (zipped(PKL, ("x/..\\y", b"")), "would lie outside the archive"),
    "a name with an end": (patched(CENTRAL, 46 + 8, b"data\0", number=1), "would lie outside the archive"),
    "a name that is no text": (patched(CENTRAL, 46 + 8, b"\xff\xfe", number=1), "overlaps what follows it"),
    "encrypted": (both(6, struct.pack("<H", 1)), "is encrypted"),
    "a pickle of 65 MB": (zipped(("x/data.pkl", bytes(65 * 2**20))), r"data\.pkl has 68157440 bytes"),
    "a directory of 16 MB": (huge_directory, "a directory of 16777217 bytes, 16777216 are allowed"),
    "a big-endian machine's": (zipped(PKL, STORAGE, ("x/byteorder", b"big")), "big-endian"),
    "a byte order of a MB": (zipped(PKL, STORAGE, ("x/byteorder", bytes(2**20))), "big-endian"),
    "an entry over another": (patched(CENTRAL, 42, struct.pack("<I", 3), number=2), "overlaps what follows it"),
    "an entry beyond": (patched(CENTRAL, 42, struct.pack("<I", 2**31), number=2), "overlaps|not a whole zip"),
    "sizes beyond": (patched(CENTRAL, 20, struct.pack("<2I", 2**31, 2**31), number=2), "overlaps what follows it"),
    "sizes of 64 bits that are not there": (patched(CENTRAL, 20, b"\xff" * 8, number=2), "overlaps|not a whole zip"),
    "another local name": (patched(LOCAL, 30, b"y", number=2), "does not agree with the archive's directory"),
    "another local size": (patched(LOCAL, 22, struct.pack("<I", 8), number=2), "does not agree"),
    "another local method": (patched(LOCAL, 8, struct.pack("<H", 8), number=2), "does not agree"),
    "encrypted by the local header": (patched(LOCAL, 6, b"\1", number=2), "does not agree"),
    "a local field without end": (patched(LOCAL, 28, b"\xff\xff", number=2), "does not agree"),
    "no local header": (patched(LOCAL, 0, b"PK\3\3", number=2), "does not agree"),
    "a directory elsewhere": (patched(END, 16, struct.pack("<I", 2**31)), "overlaps|not a whole zip"),
    "the first half": (cut(150), "not a whole zip archive"),
    "all but its last byte": (cut(-1), "not a whole zip archive"),
    "four bytes": (cut(4), "not a whole zip archive"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "why"), ZIPS.values(), ids=ZIPS)
def test_a_forged_zip_is_refused(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    make(tmp_path / "x.bin")
    refused(tmp_path / "x.bin", why)
