"""What an audit measures of an update beside what `inspect` does."""

from __future__ import annotations

from torch import Tensor

from wanalyze.measure import Alone, measure_statistics, measure_with_base
from wanalyze.metrics import WITH_BASE
from wanalyze.operators import Operator

_WITHOUT = Alone(dict.fromkeys(WITH_BASE), dict.fromkeys(WITH_BASE, "no base at hand to measure it against"))
_UNTOUCHED = Alone(dict.fromkeys(WITH_BASE), dict.fromkeys(WITH_BASE, "the update is zero"))


def numbers(update: Operator, base: Tensor | None) -> Alone:
    """The `ALONE` metrics and `STATISTICS` of ΔW, and the `WITH_BASE` metrics, which are None without W0."""
    alone = measure_statistics(update)
    if base is None or alone.is_zero:
        more = _WITHOUT if base is None else _UNTOUCHED
    else:
        more = measure_with_base(base, update)
    return Alone({**alone.metrics, **more.metrics}, {**alone.missing, **more.missing})
