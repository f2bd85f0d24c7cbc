"""Numbers as people read them."""

from __future__ import annotations

NOT_MEASURED = "–"


def number(value: float | int | None, digits: int = 3) -> str:
    """Three significant digits without an exponent where that is short; a dash for what was not measured.

    >>> number(112.4), number(0.04567), number(None), number(12), number(3e-7), number(100000.0), number(999.9)
    ('112', '0.0457', '–', '12', '3.00e-07', '100,000', '1,000')
    """
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    if abs(float(f"{value:.{digits}g}")) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def share(value: float | None) -> str:
    """A share in per cent.

    >>> share(0.9312), share(0.0004), share(0.0), share(1.0)
    ('93 %', '0.04 %', '0 %', '100 %')
    """
    if value is None:
        return NOT_MEASURED
    percent = 100 * value
    if percent in (0, 100) or 1 <= percent < 99:
        return f"{percent:.0f} %"
    return f"{percent:.2f} %" if percent < 1 else f"{min(percent, 99.99):.2f} %"
