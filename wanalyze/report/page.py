"""The page as text: the result in, HTML out."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wanalyze import wording
from wanalyze.metrics import EXPLAINED
from wanalyze.printable import printable
from wanalyze.report import chart, detail, differences
from wanalyze.report.data import data
from wanalyze.report.detail import Matrix
from wanalyze.report.maps import MAPPED, Maps, cut_from_maps, maps_of
from wanalyze.report.scale import RAMP
from wanalyze.report.sheet import COLUMNS, Sheet, remarkable, sheet, shortened
from wanalyze.result import Model, Result

TABLE_ROWS = 50  # written out; the script shows the others
TABLE_COLUMNS = (
    *("relative_norm", "effective_rank", "stable_rank", "energy_rank_90", "changed_fraction", "signal_rank"),
    *("intruders_left", "intruders_right", "worst_cosine_left", "worst_cosine_right"),
)
MOST_BYTES = 5_000_000
_LISTED = 60  # models, files, notes, reasons
_PROSE = 400  # characters of a reason or a note
_ALIKE = 6  # similarity maps side by side
_FEW_ROWS = (
    300  # up to which every number is in a column; of more rows the numbers that no table shows come with curves
)


@dataclass(frozen=True)
class _Budget:
    """How much goes into a page: matrices, and the bytes that curves may fill it up to."""

    names: int
    total: int


def page(result: Result, *, most_bytes: int = MOST_BYTES) -> str:
    """The report of `result`: one file, no request, every name inert; same result, same bytes.

    Where it would be larger than `most_bytes` it leaves out matrices, those that moved least first, and says so.
    """
    names = len({module.name for module in result.modules})
    while True:
        text = _page(result, _Budget(names, _room(len(result.modules))))
        if len(text.encode()) <= most_bytes or not names:
            return text
        names //= 2


def _room(rows: int) -> int:
    """Bytes up to which a page is filled with curves: 290 kB for 672 rows, 1.9 MB for 10 000."""
    return 290_000 + 165 * max(0, min(rows, 10_000) - 672)


def _page(result: Result, budget: _Budget) -> str:
    page = _Page(result, sheet(result, budget.names))
    bare = page.render({})
    return page.render(page.curves(budget.total - len(bare.encode())))


class _Page:
    """What both renderings share."""

    def __init__(self, result: Result, sheet: Sheet) -> None:
        found = {finding.module for finding in result.findings}
        settings = result.settings
        self.result, self.sheet = result, sheet
        self.order = remarkable(sheet, found)
        self.maps: Maps = maps_of(sheet, settings.top_k, settings.epsilon, found)
        self.ranked_by = COLUMNS[self.maps.chosen or "relative_norm"]
        few = len(sheet.rows) <= _FEW_ROWS
        self.keys = [key for key in COLUMNS if few or key in TABLE_COLUMNS or key in MAPPED]
        self.longest = max((min(place.shape) for place in sheet.places), default=2)
        self.fixed = self._fixed(found)
        self.template = _environment().get_template("page.html")

    def matrix(self, name: int) -> Matrix:
        return detail.matrix(self.result, self.sheet, name, [key for key in COLUMNS if key not in self.keys])

    def curves(self, room: int) -> dict[int, Matrix]:
        """Of the most remarkable matrices, as many as there is room for; similarities fill at most half of it."""
        found: dict[int, Matrix] = {}
        used = 0
        for name in self.order:
            matrix = self.matrix(name)
            if used + _size(matrix) > room / 2:
                matrix = matrix.short
            used += _size(matrix)
            if used > room:
                break
            found[name] = matrix
        return found

    def render(self, curves: Mapping[int, Matrix]) -> str:
        return self.template.render(self.fixed, detailed=len(curves), data=Markup(self._data(curves)))

    def _data(self, curves: Mapping[int, Matrix]) -> str:
        facts: dict[str, object] = {
            "sort": self.ranked_by.key,
            "chosen": self.maps.chosen,
            "layers": self.maps.frame.layers,
            "mapped": len(self.maps.frame.kinds),
            "pitch": self.maps.frame.pitch,
            "longest": max(self.longest, 2),
            "width": detail.WIDTH,
            "height": detail.HEIGHT,
            "epsilon": self.result.settings.epsilon,
            "first": self.order[0] if self.order else None,
        }
        return data(self.sheet, self.keys, self.maps.frame.kinds, curves, facts)

    def _fixed(self, found: set[str | None]) -> dict[str, object]:
        result, sheet = self.result, self.sheet
        style, script = _text("page.css"), _text("page.js")
        first = self.order[0] if self.order else None
        first_matrix = Matrix([], [], []) if first is None else self.matrix(first)
        labels = ", ".join(sheet.models[:4]) + (f" and {len(sheet.models) - 4} more" if len(sheet.models) > 4 else "")
        tone, shape = _tone(result)
        all_files = wording.files(result)
        return {
            "title": f"{labels} against {shortened(result.base.ref)}",
            "result": result,
            "sheet": sheet,
            "style": chart.style,
            "style_sheet": Markup(style),
            "style_hash": _hash(style),
            "script": Markup(script),
            "script_hash": _hash(script),
            "tone": tone,
            "shape": shape,
            "verdict": wording.verdict(result),
            "evidence": wording.evidence(result),
            "findings": result.findings,
            "found": found,
            "failures": wording.failures(result),
            "maps": self.maps,
            "ramp": RAMP,
            "gaps": _gaps(self.maps),
            "cut": cut_from_maps(sheet),
            "outside": [sheet.names[i] for i, place in enumerate(sheet.places) if place.layer is None],
            "listed_models": result.models[:_LISTED],
            "most_models": differences.MOST_MODELS,
            "weights": f"{max((model.summary.weights for model in result.models), default=0):,}",
            "kept": lambda model: _kept(model, result),
            "charts": _charts(result, sheet),
            "row_count": len(sheet.rows),
            "table": sheet.ranked(self.ranked_by.key)[:TABLE_ROWS],
            "columns": [COLUMNS[key] for key in TABLE_COLUMNS if sheet.values(key)],
            "ranked_by": self.ranked_by,
            "percentile": lambda *place: _or_dash(sheet.percentile(*place)),
            "value": lambda m, n, key: sheet.rows[m, n].values[key] if (m, n) in sheet.rows else None,
            "all_columns": list(COLUMNS.values()),
            "first": first,
            "about": _about(sheet, first),
            "matrix": first_matrix,
            "alike": [(m, one) for m, one in enumerate(first_matrix.models) if one and one.similarity_left][:_ALIKE],
            "has_experts": any(row.experts > 1 for row in sheet.rows.values()),
            "longest": self.longest,
            "width": detail.WIDTH,
            "height": detail.HEIGHT,
            "epsilon": result.settings.epsilon,
            "points": detail.points,
            "marks": detail.marks,
            "flags": detail.flags,
            "squares": detail.squares,
            "metrics": EXPLAINED,
            "account": wording.account,
            "coverage": wording.coverage,
            "merged": wording.merged(result)[:_LISTED],
            "skipped": wording.skipped_reasons(result)[:_LISTED],
            "notes": [shortened(note, _PROSE) for note in wording.notes(result)[:_LISTED]],
            "files": all_files[:_LISTED],
            "file_count": len(all_files),
        }


def _size(matrix: Matrix) -> int:
    """Bytes as JSON, about."""
    return len(json.dumps(matrix.code, separators=(",", ":"))) + 8


def _tone(result: Result) -> tuple[str, str]:
    """The class and the shape of the verdict."""
    if not any(model.summary.measured for model in result.models):
        return "unknown", "?"
    hit = result.findings or any(m.summary.matrices_with_intruders or m.summary.failed for m in result.models)
    return ("review", "▲") if hit else ("ordinary", "●")


def _charts(result: Result, sheet: Sheet) -> Sequence[tuple[str, str, Sequence[chart.Panel]]]:
    settings = result.settings
    return (
        (
            "Spectra of the updates",
            "σ / σ₁ of ΔW against its number i, the median over the matrices of a kind; both axes logarithmic. "
            "The update of an adapter of rank r ends at r.",
            differences.spectra_by_kind(result, sheet),
        ),
        (
            "Effective rank along depth",
            "exp of the entropy of σ / Σσ of ΔW, by layer; one scale for all kinds.",
            differences.ranks_by_depth(sheet),
        ),
        (
            "Intruder dimensions",
            f"How many an average matrix has: against ε among the top {settings.top_k}, and against k at ε = "
            f"{settings.epsilon:g}. Only certain cases count. Dashed: this run's ε and k.",
            differences.intruder_curves(result),
        ),
    )


def _kept(model: Model, result: Result) -> str:
    """Bytes of a model's own files, and their share of the base's."""
    own, full = (sum(file.size for file in source.files) for source in (model, result.base))
    return f"{_bytes(own)}, {wording.number(100 * own / full, 2)} %" if full else _bytes(own)


def _bytes(count: int) -> str:
    """Decimal units, three digits.

    >>> _bytes(299440), _bytes(1_200_000_000), _bytes(12)
    ('299 kB', '1.20 GB', '12 B')
    """
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{wording.number(count / 1000**power if power else count)} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _gaps(maps: Maps) -> str:
    """Lines between the cells of a strip."""
    frame = maps.frame
    across = (f"M0 {row * frame.pitch}h{frame.width}" for row in range(len(frame.kinds) + 1))
    down = (f"M{column * frame.pitch} 0v{frame.height}" for column in range(len(frame.layers) + 1))
    return "".join([*across, *down])


def _about(sheet: Sheet, name: int | None) -> str:
    if name is None:
        return ""
    place = sheet.places[name]
    layer = "" if place.layer is None else f", layer {place.layer}"
    return f"{' × '.join(map(str, place.shape))}, {place.dtype}{layer}, {shortened(place.kind)}"


def _or_dash(value: int | None) -> str:
    return wording.NOT_MEASURED if value is None else str(value)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(name: str) -> str:
    return files("wanalyze.report").joinpath(name).read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wanalyze.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        number=wording.number, share=wording.share, short=shortened, prose=lambda text: shortened(text, _PROSE)
    )
    return environment
