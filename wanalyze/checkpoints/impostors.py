"""What is found under the name of a file of weights instead of one, told by its first bytes."""

from __future__ import annotations

from wanalyze.checkpoints.files import WeightFile
from wanalyze.errors import CheckpointError

_IMPOSTORS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights; run `git lfs pull`"),
    (b"PK\x03\x04", "is a zip archive, as torch.save writes it; let its name end in .bin"),
    (b"\x80", "is a pickle; save it with safetensors"),
    (b"GGUF", "is a GGUF file; let its name end in .gguf"),
    (b"<", "is a web page, not the weights; download the file again"),
)


def refuse_impostor(file: WeightFile, start: bytes) -> None:
    """CheckpointError, with what it is, for a file whose first bytes give it away; also for an empty one."""
    if file.size == 0:
        raise CheckpointError(f"{file.where}: is empty, too short for a file of weights; download it again")
    for magic, what in _IMPOSTORS:
        if start.startswith(magic):
            raise CheckpointError(f"{file.where}: {what}")
