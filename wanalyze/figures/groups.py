"""Runs on disk as series: what is drawn together."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from wanalyze.errors import UsageError
from wanalyze.figures.series import Member, Series, grouped

if TYPE_CHECKING:
    from wanalyze.result import Result

RESULT = "result.json"


def read_series(runs: Sequence[Path], groups: Sequence[str]) -> list[Series]:
    """The groups, and then every other model of the runs; models of one label are runs of one method.

    A group is LABEL=GLOB. GLOB names run folders, all of whose models belong to it, or RUN/MODEL for models of a run.
    """
    reader = _Reader()
    named = [(label, member) for text in groups for label, member in reader.group(text)]
    rest = [(member.label, member) for run in runs for member in reader.members(run, "*")]
    return grouped([*named, *rest])


class _Reader:
    """Reads every run once and gives every model once."""

    def __init__(self) -> None:
        self._results: dict[Path, Result] = {}
        self._given: set[tuple[Path, str]] = set()

    def group(self, text: str) -> list[tuple[str, Member]]:
        label, mark, pattern = text.partition("=")
        if not (label and mark and pattern):
            raise UsageError(f"--group {text!r} is not LABEL=GLOB, as in 'lora=runs/lora-*'")
        found = [member for run, models in _matches(pattern) for member in self.members(run, models)]
        if not found:
            raise UsageError(f"--group {text!r}: no run and no model of a run is called that, or another group has it")
        return [(label, member) for member in found]

    def members(self, run: Path, models: str) -> list[Member]:
        """The models of a run that match and were not given before."""
        file = (run / RESULT if run.is_dir() else run).resolve()
        result = self._result(run, file)
        labels = [model.label for model in result.models if fnmatchcase(model.label, models)]
        fresh = [label for label in labels if (file, label) not in self._given]
        self._given.update((file, label) for label in fresh)
        return [Member(result, label, str(run)) for label in fresh]

    def _result(self, run: Path, file: Path) -> Result:
        from wanalyze.result import read_run

        if file not in self._results:
            self._results[file] = read_run(run)
        return self._results[file]


def _matches(pattern: str) -> list[tuple[Path, str]]:
    """(run, glob over its models) of a pattern."""
    folders = [found for found in _glob(pattern) if (found / RESULT).is_file()]
    if folders:
        return [(folder, "*") for folder in folders]
    parents, _, models = pattern.rpartition("/")
    return [(parent, models) for parent in _glob(parents) if (parent / RESULT).is_file()]


def _glob(pattern: str) -> list[Path]:
    return sorted(Path(found) for found in glob.glob(pattern))  # noqa: PTH207 - Path.glob refuses absolute patterns
