"""Files that torch.save wrote, read without torch and without a pickle being run: `.bin`, `.pt`, `.pth`, `.ckpt`."""

from __future__ import annotations

from collections.abc import Sequence

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.content import Content
from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.impostors import refuse_impostor
from wanalyze.checkpoints.pickles.archive import PICKLE, Archive, open_archive
from wanalyze.checkpoints.pickles.names import STATE_DICT, storage
from wanalyze.checkpoints.pickles.opcodes import FORGED, Refused
from wanalyze.checkpoints.pickles.state_dict import find
from wanalyze.checkpoints.pickles.tensors import Strided
from wanalyze.checkpoints.pickles.unpickler import load
from wanalyze.errors import CheckpointError

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_TAR, _TAR_AT = b"ustar", 257
_OLD_PICKLE = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the number that torch before 1.6 begins its files with
_PICKLE_LIMIT = 2**24  # bytes of a bare pickle that are looked through


def read_state_dict(file: WeightFile) -> tuple[Sequence[TensorEntry], tuple[str, ...]]:
    """The tensors of a file that torch.save wrote, and notes on what was chosen; reads no tensor.

    CheckpointError for anything but a zip archive with a state dict in it.
    """
    archive = _archive(file)
    value = _value(archive)
    try:
        found, notes = find(value, Strided)
    except Refused as refusal:
        raise CheckpointError(f"{file.where}: {refusal}") from None
    entries = [TensorEntry(name, _content(archive, item, f"tensor {name[:80]!r}")) for name, item in found.items()]
    return entries, notes


def read_tensor(file: WeightFile) -> Content:
    """The one tensor of a file that torch.save wrote of it."""
    archive = _archive(file)
    tensor = _value(archive)
    if not isinstance(tensor, Strided):
        raise CheckpointError(f"{file.where}: holds no tensor; {FORGED}")
    return _content(archive, tensor, "its tensor")


def _value(archive: Archive) -> object:
    try:
        return load(archive.read_entry(PICKLE), STATE_DICT, storage)
    except Refused as refusal:
        raise CheckpointError(f"{archive.where}: {refusal}") from None


def _archive(file: WeightFile) -> Archive:
    start = bytes(file.read(0, min(_TAR_AT + len(_TAR), file.size)))
    if start.startswith(_ZIP):
        return open_archive(file)
    if _OLD_PICKLE in start[:32]:
        raise CheckpointError(
            f"{file.where}: written by torch before 1.6, or in its way; save it again with a newer one: "
            "`torch.save(torch.load(path, weights_only=True), path)`"
        )
    if start.startswith(_PICKLE):
        _refuse_bare(file)
    if start.endswith(_TAR):
        raise CheckpointError(
            f"{file.where}: a tar archive, as torch before 0.2 wrote; where you trust it, load it with a torch of that "
            "age and save its state dict"
        )
    refuse_impostor(file, start)
    raise CheckpointError(f"{file.where}: not a file that torch.save wrote; download it again")


def _refuse_bare(file: WeightFile) -> None:
    try:
        load(bytes(file.read(0, min(file.size, _PICKLE_LIMIT))), STATE_DICT)
    except Refused as refusal:
        raise CheckpointError(f"{file.where}: a bare pickle, and {refusal}") from None
    raise CheckpointError(f"{file.where}: a bare pickle, not a file that torch.save wrote; save it with safetensors")


def _content(archive: Archive, tensor: Strided, called: str) -> Content:
    entry = archive.entries.get(f"data/{tensor.storage.key}")
    try:
        if entry is None:
            raise Refused(f"lies in storage {tensor.storage.key[:80]!r}, which is not in the archive; {FORGED}")
        if entry.size != tensor.storage.size:
            raise Refused(f"needs a storage of {tensor.storage.size} bytes, there are {entry.size}; {FORGED}")
        tensor.check()
    except Refused as refusal:
        raise CheckpointError(f"{archive.where}: {called} {refusal}") from None
    return tensor.content(archive, entry.address)
