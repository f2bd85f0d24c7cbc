"""The hyperparameters.yaml that litgpt leaves beside an adapter: only its lines on LoRA, one number or truth each."""

from __future__ import annotations

import re

from wanalyze.checkpoints.files import WeightFile
from wanalyze.errors import CheckpointError

_MOST_BYTES = 2**20
_LINE = re.compile(r"(?P<key>lora_[a-z_]{1,40}):[ \t]+(?P<value>[^\s#]{1,40})[ \t]*(?:#.*)?", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None}


def read_hyperparameters(file: WeightFile) -> dict[str, object]:
    """The settings that begin with `lora_`; YAML as a whole is not read, and needs not be."""
    if file.size > _MOST_BYTES:
        raise CheckpointError(f"{file.where}: {file.size} bytes, more than the {_MOST_BYTES} of any settings")
    try:
        text = bytes(file.read(0, file.size)).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{file.where}: not valid UTF-8 text; download the file again") from None
    found: dict[str, object] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            if match["key"] in found:
                raise CheckpointError(f"{file.where}: {match['key']} appears twice; readers disagree on which counts")
            found[match["key"]] = _value(match["value"])
    return found


def _value(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else float(text)
    except ValueError:
        return text
