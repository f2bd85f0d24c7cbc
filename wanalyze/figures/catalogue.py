"""Every figure, by the name it is asked for."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from wanalyze.figures.depth import depth
from wanalyze.figures.dora import dora
from wanalyze.figures.effective_rank import effective_rank
from wanalyze.figures.epsilon import epsilon
from wanalyze.figures.figure import LatexTable, PaperFigure
from wanalyze.figures.forgetting import forgetting
from wanalyze.figures.map import map_
from wanalyze.figures.overlap import overlap
from wanalyze.figures.pareto import pareto
from wanalyze.figures.spectrum import spectrum
from wanalyze.figures.table import table
from wanalyze.figures.topk import topk

_TABLE: tuple[PaperFigure[Any] | LatexTable[Any], ...] = (
    *(map_, depth, spectrum, overlap, epsilon, topk, effective_rank, dora, pareto, table, forgetting),
)
FIGURES: MappingProxyType[str, PaperFigure[Any] | LatexTable[Any]] = MappingProxyType(
    {figure.name: figure for figure in _TABLE}
)
