"""Intruder dimensions the plain way and ours: seconds, decisions against a float64 SVD, memory.

python -m benchmarks.intruders [SIZE ...] [--device cuda] [--threads N] [--oracle/--no-oracle]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.decisions import Cosines, Tally, decisions
from benchmarks.families import SIZES, Pair, pairs
from benchmarks.machine import PeakMemory, this_machine
from benchmarks.plain import Oracle, oracle, plain
from wanalyze import measure
from wanalyze.measure import Scope, Stored
from wanalyze.operators import Dense
from wanalyze.spectra.comparison import Overlaps
from wanalyze.spectra.overlaps import GRID, overlaps
from wanalyze.spectra.prepared import arrays_of, prepare, restore
from wanalyze.spectra.rounding import Grid
from wanalyze.spectra.values import spectra as values

K = 10
UPPER = tuple(epsilon for epsilon in GRID if epsilon >= 0.5)
COLUMNS = (
    *("pair", "plain s", "all s", "×", "overlaps s", "×", "cached s", "×", "peak GB"),
    *("wrong", "undecided before eigh", "undecided", "of"),
)
_BFLOAT16 = Grid(2.0**-7, 2.0**-126)


@dataclass
class Row:
    """What was measured of one pair."""

    name: str
    plain: float
    everything: float
    overlaps: float
    cached: float
    peak: int | None
    settled: Tally = field(default_factory=Tally)
    open: Tally = field(default_factory=Tally)
    open_upper: Tally = field(default_factory=Tally)

    def cells(self) -> list[str]:
        times = [self.everything, self.overlaps, self.cached]
        ratios = [cell for seconds in times for cell in (f"{seconds:.2f}", f"{self.plain / seconds:.1f}")]
        peak = "–" if self.peak is None else f"{self.peak / 1e9:.2f}"
        decided = [self.settled.wrong + self.settled.violations, self.open.undecided, self.settled.undecided]
        return [self.name, f"{self.plain:.2f}", *ratios, peak, *map(str, decided), str(self.settled.total)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intruders", description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["1024"], choices=[*SIZES], metavar="SIZE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounded", action="store_true", help="pairs stored in bfloat16, as checkpoints are")
    parser.add_argument("--oracle", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repeat", type=int, default=1, help="the quickest of so many runs counts, of every way")
    parser.add_argument("--only", action="append", metavar="TEXT", help="pairs whose name holds TEXT; repeatable")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine = this_machine()
    say(f"{machine.gpu if options.device != 'cpu' else machine.cpu}, {options.threads} threads, torch {machine.torch}")
    say("")
    say(_line(COLUMNS))
    say(_line(["---"] * len(COLUMNS)))
    rows = []
    for size in options.sizes:
        for pair in pairs(size, rounded=options.rounded):
            if options.only is None or any(text in pair.name for text in options.only):
                rows.append(measured(pair, torch.device(options.device), options.repeat, check=options.oracle))
                say(_line(rows[-1].cells()))
            del pair
    _say_totals(rows)


def measured(pair: Pair, device: torch.device, repeat: int, *, check: bool) -> Row:
    """Time the plain way and ours on one pair; with `check`, compare the decisions with a float64 SVD."""
    base, tuned = pair.base.to(device), pair.tuned.to(device)
    memory = PeakMemory()
    everything = seconds(lambda: _everything(base, tuned), device, repeat)
    peak = memory.host() if device.type == "cpu" else memory.cuda()
    wide = Dense(base.to(torch.float64))
    other = Dense(tuned.to(torch.float64))
    only = seconds(lambda: overlaps([other], None, prepare([wide], K + 6), k=K), device, repeat)
    arrays = arrays_of(prepare([wide], K + 6)[0])

    def from_cache() -> list[tuple[Overlaps, Overlaps]]:
        return overlaps([other], None, [restore(wide, arrays, device, torch.float64)], k=K)

    cached = seconds(from_cache, device, repeat)
    row = Row(pair.name, 0.0, everything, only, cached, peak)
    if check:
        _check(row, base, tuned, wide, other)
    row.plain = seconds(lambda: plain(base, tuned, K), device, repeat)
    return row


def _everything(base: Tensor, tuned: Tensor) -> object:
    scope = Scope(K, 0.5)
    rounded = base.dtype == torch.bfloat16
    stored = Stored(tuned, torch.finfo(base.dtype).eps, _BFLOAT16 if rounded else None)
    return measure.compare(measure.prepare([base], scope), [stored], scope)


def _check(row: Row, base: Tensor, tuned: Tensor, wide: Dense, other: Dense) -> None:
    k = min(K, int(torch.linalg.matrix_rank(other.matrix))) if "deficient" in row.name else K
    truth = oracle(base.cpu(), tuned.cpu(), k)
    prepared = prepare([wide], K + 6)
    spectra = values([other])
    without = overlaps([other], spectra, prepared, k=k, settle=False)[0]
    row.open, row.open_upper = _tally(without, truth), _tally(without, truth, UPPER)
    row.settled = _tally(overlaps([other], spectra, prepared, k=k)[0], truth)


def _tally(found: tuple[Overlaps, Overlaps], truth: Oracle, epsilons: Sequence[float] = GRID) -> Tally:
    sides = zip(found, (truth.left, truth.right), strict=True)
    return sum((decisions(Cosines(o.low, o.high, o.alone), true, epsilons) for o, true in sides), Tally())


def seconds(work: Callable[[], object], device: torch.device, repeat: int) -> float:
    """Of the quickest of `repeat` runs."""
    return min(_once(work, device) for _ in range(repeat))


def _once(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _say_totals(rows: Sequence[Row]) -> None:
    settled, left, upper = (
        sum((getattr(row, name) for row in rows), Tally()) for name in ("settled", "open", "open_upper")
    )
    if settled.total:
        share = 100 * left.undecided / settled.total
        say("")
        say(
            f"{settled.total} decisions: {settled.wrong} wrong, {settled.violations} enclosures without the truth, "
            f"{settled.unfounded} unfounded; undecided before the last fall-back {left.undecided} ({share:.2f} %; "
            f"{upper.undecided} of those at ε of 0.5 and more), after it {settled.undecided}"
        )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
