"""Figures of runs on disk, written with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

from wanalyze.errors import FigureError, UsageError
from wanalyze.figures.catalogue import FIGURES
from wanalyze.figures.evaluation import read_evaluation
from wanalyze.figures.figure import LatexTable, PaperFigure, Wanted
from wanalyze.figures.formats import FORMATS
from wanalyze.figures.groups import read_series
from wanalyze.figures.venues import venue_of


@dataclass(frozen=True)
class Written:
    """The files, and (name, reason) of each figure that the runs have no numbers for."""

    files: list[Path]
    left_out: list[tuple[str, str]]


def write_figures(
    *runs: str | PathLike[str],
    output: str | PathLike[str],
    venue: str = "neurips",
    file_format: str = "pdf",
    only: Sequence[str] = (),
    groups: Sequence[str] = (),
    evaluation: str | PathLike[str] | None = None,
    metric: str = "relative_norm",
    module: str | None = None,
) -> Written:
    """Write `fig_NAME.FORMAT` and `fig_NAME.csv` for every figure of FIGURES, or for those of `only`, into `output`.

    `groups` are LABEL=GLOB, drawn as mean and band. A figure that the runs have no numbers for is left out; one
    named in `only` is a FigureError then. Nothing is written before everything is drawn.
    """
    size = venue_of(venue)
    if file_format not in FORMATS:
        raise UsageError(f"no format {file_format!r}; known: {', '.join(FORMATS)}")
    names = [_known(name) for name in only] or list(FIGURES)
    _check(Path(output))
    series = read_series([Path(run) for run in runs], groups)
    wanted = Wanted(metric, module, read_evaluation(Path(evaluation)) if evaluation is not None else None)
    contents: dict[str, bytes] = {}
    left_out = []
    for name in names:
        figure: PaperFigure[Any] | LatexTable[Any] = FIGURES[name]
        try:
            rows = figure.numbers(series, wanted)
        except FigureError as error:
            if name in only:
                raise FigureError(f"{name}: {error}") from error
            left_out.append((name, str(error)))
            continue
        ending, content = figure.file(rows, series, size, file_format)
        contents[f"fig_{name}.{ending}"] = content
        contents[f"fig_{name}.csv"] = _csv(rows)
    return Written(_write(Path(output), contents), left_out)


def _known(name: str) -> str:
    if name not in FIGURES:
        near = get_close_matches(name, FIGURES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no figure is called {name!r}; {hint}Known: {', '.join(FIGURES)}")
    return name


def _csv(rows: Sequence[Any]) -> bytes:
    from wanalyze.result import csv_text

    return csv_text(rows[0]._fields, rows).encode()


def _check(folder: Path) -> None:
    """Refuse early what could not be written at the end."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: cannot be written (it is a file, a folder is needed); choose another with -o")


def _write(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another folder with -o") from error
    return [folder / name for name in contents]
