r"""PGF without a TeX installation.

matplotlib's own backend asks LaTeX for the size of every text. Here texts are measured in STIX, as for every other
format, and LaTeX sets them in the document's font later: the drawing is exact, the room around a text is that of a font
of much the same width. Text comes out letter by letter: no name in a figure is a command.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from wanalyze.figures.labels import latex, latex_of_drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEAD = r"""%% Include with \input{...}; needs \usepackage{pgf}.
\begingroup
\makeatletter
\providecommand\mathdefault[1]{#1}
"""


def pgf_text(figure: Figure) -> str:
    """The figure as a `pgfpicture`, to be read with TeX's input."""
    width, height = figure.get_size_inches()
    out = io.StringIO()
    for artist in figure.findobj():
        artist.set_rasterized(False)  # a raster would be a file of its own
    figure.draw(_renderer(figure, out))
    return (
        f"{_HEAD}\\begin{{pgfpicture}}%\n"
        f"\\pgfpathrectangle{{\\pgfpointorigin}}{{\\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}%\n"
        f"\\pgfusepath{{use as bounding box, clip}}%\n{out.getvalue()}"
        "\\end{pgfpicture}%\n\\makeatother\n\\endgroup\n"
    )


def _renderer(figure: Figure, out: io.StringIO) -> Any:
    from matplotlib.backend_bases import RendererBase
    from matplotlib.backends.backend_pgf import RendererPgf

    class WithoutTeX(RendererPgf):
        def draw_text(
            self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
        ) -> None:
            super().draw_text(  # type: ignore[no-untyped-call]
                gc, x, y, latex_of_drawn(s) if ismath else latex(s), prop, angle, ismath, mtext
            )

        def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
            return RendererBase.get_text_width_height_descent(self, s, prop, ismath)

    return WithoutTeX(figure, out)  # type: ignore[no-untyped-call]
