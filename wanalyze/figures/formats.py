"""A drawn figure as the bytes of a file: no clock, no path, the same every time."""

from __future__ import annotations

import io
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What matplotlib would write of the moment, by format.
FORMATS: MappingProxyType[str, dict[str, None]] = MappingProxyType(
    {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "pgf": {}, "png": {}}
)


def saved(figure: Figure, file_format: str) -> bytes:
    """The figure in a format of FORMATS."""
    from wanalyze.figures.pgf import pgf_text

    if file_format == "pgf":
        return pgf_text(figure).encode()
    out = io.BytesIO()
    figure.savefig(out, format=file_format, metadata=FORMATS[file_format])
    return out.getvalue()
