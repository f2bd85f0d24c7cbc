"""The folder of a run: written whole or not at all, read back without torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from wanalyze.errors import ResultError, UsageError
from wanalyze.result.records import Result
from wanalyze.result.table import modules_csv

if TYPE_CHECKING:
    import numpy as np

RESULT, MODULES, ARRAYS, REPORT = "result.json", "modules.csv", "arrays.safetensors", "report.html"


def check_output(folder: Path) -> None:
    """Refuse early what could not be written at the end: UsageError."""
    try:
        why = _why_unwritable(folder)
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
    if why:
        raise UsageError(f"{folder}: {why}; choose another folder with -o")


def _why_unwritable(folder: Path) -> str:
    if folder.exists() and not folder.is_dir():
        return "is a file, a folder is needed for the run"
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RESULT).is_file():
        return "holds files but no run of wanalyze"
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return f"cannot be written ({parent} is not a writable folder)"
    return ""


def write_run(folder: Path, result: Result, page: str) -> None:
    """Write the four files of a run.

    They are written under another name and moved in place, `result.json` last: a folder that has one is
    whole, wherever the process was killed.
    """
    check_output(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            _write_files(partial, result, page)
            _move_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another folder with -o") from error


def _write_files(partial: Path, result: Result, page: str) -> None:
    (partial / MODULES).write_text(modules_csv(result.modules), encoding="utf-8", newline="")
    (partial / ARRAYS).write_bytes(_arrays_bytes(result.arrays))
    (partial / REPORT).write_text(page, encoding="utf-8", newline="")
    (partial / RESULT).write_text(result.to_json(), encoding="utf-8", newline="")


def _arrays_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    data: bytes = save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})
    return data


def _move_in_place(partial: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    for name in (MODULES, ARRAYS, REPORT, RESULT):
        (partial / name).replace(folder / name)


def read_run(path: Path) -> Result:
    """The result of a finished run, given its folder or its `result.json`; ResultError if it is none."""
    file = path / RESULT if path.is_dir() else path
    if not file.is_file():
        raise ResultError(f"{path}: no run of wanalyze ({RESULT} is missing); `wanalyze compare` makes one")
    try:
        result = Result.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ResultError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ResultError(
            f"{file}: no result this version can read ({where}: {first['msg']}); run `wanalyze compare` again"
        ) from None
    arrays = file.with_name(ARRAYS)
    result._arrays_path = str(arrays) if arrays.is_file() else None
    return result
