"""Files of weights with bytes changed, wherever they are: read, or refused as a file, and nothing else."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import normal
from tests.distributed_files import Sharded, grid, made
from tests.torch_files import archive
from wanalyze.checkpoints import open_checkpoint
from wanalyze.errors import WanalyzeError

Mutation = Callable[[bytes], bytes]

ALL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Instructions of pickles and the numbers that limits lie at, more often than chance would have them.
_TELLING = st.sampled_from([*pickle.EMPTY_DICT, *b"\0\1\x7f\x80\xff(tbRQ.]hqcCXBJ\x81\x85\x86\x87\x88\x8a\x93\x94\x95"])
_BYTES = st.binary(max_size=8) | st.lists(_TELLING, max_size=8).map(bytes)


def spliced(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """At each place, given as a share of the length, some bytes taken out and others put in."""
    for place, length, new in edits:
        at = int(place * len(data))
        data = data[:at] + new + data[at + length :]
    return data


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), _BYTES), min_size=1, max_size=3)
# Of the same length: a file stays readable up to what was changed.
FLIPS = EDITS.map(lambda edits: [(place, len(new), new) for place, _, new in edits])


def read_or_refused(path: Path) -> None:
    try:
        for entry in open_checkpoint(path).entries.values():
            entry.read()
    except WanalyzeError as error:
        assert str(error).isprintable()  # noqa: PT017


STATE = {
    "state_dict": {"a.weight": normal(3, 4), "b": normal(4, 3).T, "c": torch.nn.Parameter(normal(2)[:1])},
    "epoch": 3,
    "lr": 0.1,
    "seed": 2**62,
    "names": ["x", ("y", None, True)],
    "eight": normal(4).to(torch.float8_e4m3fn),
}


def zipped(protocol: int = 2) -> bytes:
    stream = BytesIO()
    torch.save(STATE, stream, pickle_protocol=protocol)
    return stream.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
@given(edits=EDITS | FLIPS)
@ALL
def test_a_pickle_within_a_whole_zip(tmp_path: Path, edits: list[tuple[float, int, bytes]], protocol: int) -> None:
    with zipfile.ZipFile(BytesIO(zipped(protocol))) as found:
        entries = {info.filename.removeprefix("archive/"): found.read(info) for info in found.infolist()}
    value = spliced(entries.pop("data.pkl"), edits)
    del entries["byteorder"]
    read_or_refused(archive(tmp_path / "x.bin", value, entries))


WHOLE = zipped()


@given(edits=EDITS | FLIPS)
@ALL
def test_a_zip(tmp_path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    (tmp_path / "x.bin").write_bytes(spliced(WHOLE, edits))
    read_or_refused(tmp_path / "x.bin")


DIRECTORY = WHOLE.index(b"PK\1\2")  # from where on a zip says what is in it


@given(edits=EDITS | FLIPS)
@ALL
def test_the_directory_of_a_zip(tmp_path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    (tmp_path / "x.bin").write_bytes(WHOLE[:DIRECTORY] + spliced(WHOLE[DIRECTORY:], edits))
    read_or_refused(tmp_path / "x.bin")


CHECKPOINT = made({"w": Sharded(normal(6, 4), grid((0, 2, 6), (0, 4))), "b": Sharded(normal(3), grid((0, 3)))})
METADATA = pickle.dumps(CHECKPOINT.metadata)


@given(edits=EDITS | FLIPS, of=st.sampled_from([".metadata", ".metadata", "__0_0.distcp"]))
@ALL
def test_a_distributed_checkpoint(tmp_path: Path, edits: list[tuple[float, int, bytes]], of: str) -> None:
    contents = {**CHECKPOINT.files, ".metadata": METADATA}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(spliced(content, edits) if name == of else content)
    read_or_refused(tmp_path)


@given(edits=EDITS)
@ALL
def test_an_index_of_pickles(tmp_path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    shards = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for name, shard in zip("ab", shards, strict=True):
        if not (tmp_path / shard).exists():
            torch.save({name: normal(2)}, tmp_path / shard)
    index = json.dumps({"metadata": {"total_size": 16}, "weight_map": dict(zip("ab", shards, strict=True))})
    (tmp_path / "pytorch_model.bin.index.json").write_bytes(spliced(index.encode(), edits))
    read_or_refused(tmp_path)
