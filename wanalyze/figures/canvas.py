"""The only file that imports matplotlib for drawing: how every figure looks, whatever the reader's settings are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from wanalyze.figures.venues import Venue
from wanalyze.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.path import Path

# Okabe and Ito, the pale yellow last. 8 colours, 9 markers: 72 looks before one comes again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
LINES = ("-", "--", ":", "-.")
ACCENT, FAINT = COLOURS[1], "0.55"
FONT = "STIXGeneral"
_DEPTHS = 32  # steps of a colour map: few enough that a colour bar stays a vector drawing

_SYMBOLS = {
    "relative_norm": r"$\Vert\Delta W\Vert_F\,/\,\Vert W_0\Vert_F$",
    "delta_norm": r"$\Vert\Delta W\Vert_F$",
    "base_norm": r"$\Vert W_0\Vert_F$",
    "delta_spectral_norm": r"$\sigma_1(\Delta W)$",
    "relative_spectral_norm": r"$\sigma_1(\Delta W)\,/\,\sigma_1(W_0)$",
    "effective_rank": r"effective rank of $\Delta W$",
    "stable_rank": r"stable rank of $\Delta W$",
    "magnitude_change": r"$\Delta M$ (mean change of row norm)",
    "direction_change": r"$\Delta D$ (mean of $1-\cos$)",
}


def metric_label(key: str) -> str:
    """What an axis calls a metric: its formula, or its title and unit."""
    return _SYMBOLS.get(key, f"{METRICS[key].title} ({METRICS[key].unit})")


def _settings(venue: Venue) -> dict[Any, Any]:
    return {
        "font.family": FONT,
        "mathtext.fontset": "stix",
        "font.size": venue.base,
        "axes.labelsize": venue.base,
        "axes.titlesize": venue.small,
        "xtick.labelsize": venue.small,
        "ytick.labelsize": venue.small,
        "legend.fontsize": venue.small,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
        "legend.columnspacing": 1.2,
        "axes.linewidth": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.0,
        "lines.markersize": 3.0,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5,
        "ytick.minor.size": 1.5,
        "axes.labelpad": 2.0,
        "hatch.linewidth": 0.4,
        "figure.constrained_layout.w_pad": 0.02,
        "figure.constrained_layout.h_pad": 0.02,
        "savefig.dpi": 300,
        "savefig.bbox": None,  # "tight" changes the width, and LaTeX then scales the type
        "pdf.fonttype": 42,  # TrueType; submission systems refuse the default, Type 3
        "ps.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "wanalyze",
        "pgf.rcfonts": False,
    }


@contextmanager
def styled(venue: Venue) -> Iterator[None]:
    """Matplotlib set for `venue`, and as it was before afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_settings(venue))
        yield


def sheet(width: float, height: float) -> Figure:
    """An empty figure of that size in inches; it belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def look(index: int) -> dict[str, str]:
    """Colour, marker and line style of the series of that index."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def curve(
    axes: Axes, index: int, x: Sequence[float], y: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> Line2D:
    """A line with markers, and its band where low and high differ."""
    style = look(index)
    if list(low) != list(high):
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    (line,) = axes.plot(x, y, markevery=max(1, len(x) // 6), **style)  # type: ignore[arg-type]
    return line


def points(axes: Axes, index: int, x: Sequence[float], y: Sequence[float]) -> Artist:
    """A cloud of markers; a very large one becomes a picture within the drawing."""
    style = look(index)
    return axes.scatter(
        x,
        y,
        s=10,
        color=style["color"],
        marker=style["marker"],
        alpha=0.75,
        linewidths=0.2,
        edgecolors="0.2",
        rasterized=len(x) > 5000,
    )


def cells(axes: Axes, values: np.ndarray, norm: Normalize) -> None:
    """A matrix as coloured cells, row 0 on top, cell (i, j) centred at x = j, y = i; NaN stays empty.

    Each step of the colour map is one path over all cells of at least that step, the darkest first: what shows through
    the seams that viewers leave between cells is a neighbouring colour, not the page.
    """
    from matplotlib.collections import PathCollection

    rows, columns = values.shape
    shades = colours()
    steps = [
        [-1 if math.isnan(value) else min(int(norm(value) * shades.N), shades.N - 1) for value in row]
        for row in values.tolist()
    ]
    present = sorted({step for row in steps for step in row} - {-1})
    axes.add_collection(
        PathCollection(
            [_covering(steps, least) for least in present],
            facecolors=[shades(step) for step in present],
            linewidths=0,
            antialiaseds=False,
        ),
        autolim=False,
    )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))


def _covering(steps: Sequence[Sequence[int]], least: int) -> Path:
    """The cells of at least that step; neighbours in a row are one rectangle."""
    from matplotlib.path import Path

    corners = []
    for i, row in enumerate(steps):
        end = 0
        for inside, run in groupby(step >= least for step in row):
            first, end = end, end + len(list(run))
            if inside:
                left, right, top, bottom = first - 0.5, end - 0.5, i - 0.5, i + 0.5
                corners += [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(corners, codes * (len(corners) // 5))


def colour_bar(figure: Figure, panels: Sequence[Axes], norm: Normalize, label: str) -> Colorbar:
    """The key of `cells`, right of the panels."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(norm, colours()), ax=list(panels), pad=0.01, fraction=0.04, aspect=30)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    if bar.solids is not None:
        bar.solids.set(edgecolor="face", linewidth=0.3)  # else viewers leave seams between its steps
    return bar


def legend(figure: Figure, handles: Sequence[Artist], texts: Sequence[str], venue: Venue) -> None:
    """A legend above the axes, in as many columns as fit."""
    from matplotlib.lines import Line2D

    widest = max(map(len, texts))
    inches = (widest * 0.5 + 4.5) * venue.small / 72
    columns = max(1, min(len(texts), int(figure.get_figwidth() / inches)))
    # a leading underscore hides a text from the legend
    shown = [f" {text}" if text.startswith("_") else text for text in texts]
    room = {} if any(isinstance(handle, Line2D) for handle in handles) else {"handlelength": 1.0}
    figure.legend(handles, shown, loc="outside upper center", ncols=columns, borderaxespad=0.2, **room)


def colours() -> Colormap:
    """Cividis in steps."""
    import matplotlib

    return matplotlib.colormaps["cividis"].resampled(_DEPTHS)


def logarithmic(values: Sequence[float]) -> bool:
    """Whether the values are positive and span so much that a linear axis would hide most of them."""
    return bool(values) and min(values) > 0 and max(values) > 4 * min(values)


def scale(axes: Axes, which: Literal["x", "y"], values: Sequence[float], *, always_log: bool = False) -> None:
    """A logarithmic axis where `values` ask for one, with tick labels that do not run into each other."""
    if always_log or logarithmic(values):
        axes.set(**{f"{which}scale": "log"})
        log_ticks(axes.xaxis if which == "x" else axes.yaxis, values)


def log_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Below two decades 0.1, 0.2, 0.5; above, powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if max(values) < 100 * min(values):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


@lru_cache(maxsize=1)
def glyphs() -> frozenset[int]:
    """The code points that the font of the figures has a shape for."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())
