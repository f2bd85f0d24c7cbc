"""Tables in GitHub's Markdown, with names of strangers as code: no link, no mention, no HTML comes out of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from wanalyze.printable import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~$@&])")


def code(text: str) -> str:
    r"""A name as inline code, which a renderer takes for nothing else.

    >>> print(code("a|`b`@org"), code(""))
    `a\|'b'@org` ` `
    """
    safe = printable(text).replace("`", "'").replace("\\", "/").replace("|", "\\|")
    return f"`{safe or ' '}`"


def prose(text: str) -> str:
    r"""Text with nothing in it that Markdown or HTML would act on.

    >>> print(prose("<b>|`x`"))
    \<b\>\|\`x\`
    """
    return _SPECIAL.sub(r"\\\1", printable(text))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are text and the others numbers; cells come as Markdown.

    >>> print(table(["name", "n"], [["`q`", "3"]]), end="")
    | name | n |
    |---|---:|
    | `q` | 3 |
    """
    rule = "|" + "|".join("---" if column < left else "---:" for column in range(len(header))) + "|"
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"
