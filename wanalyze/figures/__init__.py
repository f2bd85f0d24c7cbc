"""Figures for papers, from finished runs: each is a function of results that returns a matplotlib Figure.

They read results and nothing else, and import neither torch nor, until one is drawn, matplotlib.

    figures.depth(result, venue="icml")
    figures.epsilon(one, figures.Series("lora", (figures.Member(two, "lora"), figures.Member(three, "lora"))))
"""

from wanalyze.figures.catalogue import FIGURES
from wanalyze.figures.depth import depth
from wanalyze.figures.dora import dora
from wanalyze.figures.effective_rank import effective_rank
from wanalyze.figures.epsilon import epsilon
from wanalyze.figures.evaluation import Evaluation, read_evaluation
from wanalyze.figures.figure import Wanted
from wanalyze.figures.forgetting import forgetting
from wanalyze.figures.formats import FORMATS
from wanalyze.figures.map import map_ as map
from wanalyze.figures.overlap import overlap
from wanalyze.figures.pareto import pareto
from wanalyze.figures.series import Member, Series
from wanalyze.figures.spectrum import spectrum
from wanalyze.figures.table import table
from wanalyze.figures.topk import topk
from wanalyze.figures.venues import VENUES
from wanalyze.figures.write import Written, write_figures

__all__ = [
    "FIGURES",
    "FORMATS",
    "VENUES",
    "Evaluation",
    "Member",
    "Series",
    "Wanted",
    "Written",
    "depth",
    "dora",
    "effective_rank",
    "epsilon",
    "forgetting",
    "map",
    "overlap",
    "pareto",
    "read_evaluation",
    "spectrum",
    "table",
    "topk",
    "write_figures",
]
