"""Text from strangers on its way into a figure: as matplotlib draws it, as LaTeX sets it."""

from __future__ import annotations

import re

from wanalyze.printable import elided, printable

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "\N{MINUS SIGN}": r"\ensuremath{-}",
    "…": r"\ldots{}",
    **{char: f"\\{char}" for char in "$&#_%"},
}
_LATIN = 0x17F  # the last letter of Latin Extended-A
_LATEX_NEEDS = str.maketrans(_LATEX)


def plain(text: str, most: int = 24) -> str:
    r"""`text` as matplotlib draws it letter by letter: no mathematics, and nothing the font has no shape for.

    >>> plain("lora_$r$"), plain("Привет 模型")
    ('lora_\\$r\\$', 'Привет \\u6a21\\u578b')
    """
    from wanalyze.figures.canvas import glyphs

    known = glyphs()
    drawable = "".join(
        char if ord(char) in known else char.encode("unicode_escape").decode() for char in elided(text, 4 * most)
    )
    return elided(drawable, most).replace("$", r"\$")


def latex(text: str) -> str:
    r"""`text` as every LaTeX sets it letter by letter; what pdfLaTeX has no letter for is written out.

    >>> latex(r"\input{a}_50%"), latex("模")
    ('\\textbackslash{}input\\{a\\}\\_50\\%', '\\textbackslash{}u6a21')
    """
    known = (
        char if char in _LATEX or ord(char) <= _LATIN else char.encode("unicode_escape").decode()
        for char in printable(text)
    )
    return "".join(known).translate(_LATEX_NEEDS)


def latex_of_drawn(text: str) -> str:
    r"""LaTeX for a text that matplotlib draws: mathematics between `$` stays, `\$` and the rest are letters.

    >>> latex_of_drawn(r"$\sigma_i$ of a\$_b")
    '$\\sigma_i$ of a\\$\\_b'
    """
    parts = re.split(r"(?<!\\)\$", text)
    if len(parts) % 2 == 0:  # an odd one out is a letter to matplotlib as well
        return latex(text.replace(r"\$", "$"))
    return "".join(f"${part}$" if i % 2 else latex(part.replace(r"\$", "$")) for i, part in enumerate(parts))
