"""The page as text: the result in, HTML out."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wanalyze import numerals, wording
from wanalyze.metrics import EXPLAINED
from wanalyze.printable import elided, printable
from wanalyze.report import chart, detail, differences
from wanalyze.report.data import inert, numbers
from wanalyze.report.detail import Matrix
from wanalyze.report.maps import MAPPED, Maps, cut_from_maps, maps_of
from wanalyze.report.scale import RAMP
from wanalyze.report.sheet import COLUMNS, Sheet, remarkable, sheet
from wanalyze.result import Finding, Model, Result, Status

TABLE_ROWS = 50  # written out; the script shows the others
TABLE_COLUMNS = (
    *("relative_norm", "effective_rank", "stable_rank", "energy_rank_90", "changed_fraction", "signal_rank"),
    *("intruders_left", "intruders_right", "worst_cosine_left", "worst_cosine_right"),
)
MOST_BYTES = 5_000_000
_LISTED = 60  # models, files, notes, reasons
_PROSE = 400  # characters of a reason or a note
_FINDINGS = 5
_ALIKE = 6  # similarity maps side by side
_FEW_ROWS = 300  # up to which every number is in a column; of more rows those that no table shows come with curves


def page(result: Result, *, most_bytes: int = MOST_BYTES) -> str:
    """The report of `result`: one file, no request, every name inert; same result, same bytes.

    Where it would be larger than `most_bytes` it leaves out matrices, those that moved least first, and says so.
    """
    names = len({module.name for module in result.modules})
    while True:
        text = _page(result, sheet(result, names))
        if len(text.encode()) <= most_bytes or not names:
            return text
        names //= 2


def _page(result: Result, sheet: Sheet) -> str:
    """The page twice: without curves, to learn how much room is left, and with them."""
    order = remarkable(sheet)
    maps = maps_of(sheet, result.settings.top_k, result.settings.epsilon)
    keys = [key for key in COLUMNS if len(sheet.rows) <= _FEW_ROWS or key in (*TABLE_COLUMNS, *MAPPED)]
    others = [key for key in COLUMNS if key not in keys]
    ranked_by = maps.chosen or "relative_norm"
    columns = numbers(sheet, keys, maps.frame.kinds)
    facts = columns | _geometry(result, sheet, maps) | {"sort": ranked_by, "first": order[0] if order else None}
    fixed = (
        _shared(result, sheet)
        | _head(result, sheet)
        | _where(sheet, maps)
        | _models(result, sheet)
        | _modules(sheet, ranked_by)
        | _module(result, sheet, order, others)
        | _method(result)
    )
    template = _environment().get_template("page.html")

    def render(curves: Mapping[int, Matrix]) -> str:
        details = {name: matrix.code for name, matrix in curves.items()}
        return template.render(fixed, detailed=len(curves), data=Markup(inert(facts | {"details": details})))

    room = _room(len(sheet.rows)) - len(render({}).encode())
    return render(_curves(result, sheet, order, others, room))


def _room(rows: int) -> int:
    """Bytes up to which a page is filled with curves: 290 kB for 672 rows, 1.8 MB for 10 000 and more."""
    return 290_000 + 165 * max(0, min(rows, 10_000) - 672)


def _curves(result: Result, sheet: Sheet, order: Sequence[int], others: Sequence[str], room: int) -> dict[int, Matrix]:
    """Of the most remarkable matrices, as many as there is room for; with similarities up to half of it."""
    found: dict[int, Matrix] = {}
    used = 0
    for name in order:
        matrix = detail.matrix(result, sheet, name, others)
        if used + _size(matrix) > room / 2:
            matrix = matrix.short
        used += _size(matrix)
        if used > room:
            break
        found[name] = matrix
    return found


def _size(matrix: Matrix) -> int:
    """Bytes as JSON, about."""
    return len(json.dumps(matrix.code, separators=(",", ":"))) + 8


def _geometry(result: Result, sheet: Sheet, maps: Maps) -> dict[str, object]:
    """What the script must know to find cells and to draw curves."""
    return {
        "chosen": maps.chosen,
        "layers": maps.frame.layers,
        "mapped": len(maps.frame.kinds),
        "pitch": maps.frame.pitch,
        "longest": _longest(sheet),
        "width": detail.WIDTH,
        "height": detail.HEIGHT,
        "epsilon": result.settings.epsilon,
    }


def _longest(sheet: Sheet) -> int:
    """How many singular values the largest matrix has."""
    return max([2, *(min(place.shape) for place in sheet.places)])


def _shared(result: Result, sheet: Sheet) -> dict[str, object]:
    """What several sections use."""
    return {
        "result": result,
        "sheet": sheet,
        "epsilon": result.settings.epsilon,
        "style": chart.style,
        "ramp": RAMP,
        "most_models": differences.MOST_MODELS,
        "listed_models": result.models[:_LISTED],
        "percentile": lambda *place: _or_dash(sheet.percentile(*place)),
        "flags": detail.flags,
        "squares": detail.squares,
    }


def _head(result: Result, sheet: Sheet) -> dict[str, object]:
    style, script = _text("page.css"), _text("page.js")
    tone, shape = _tone(result)
    return {
        "title": f"{wording.listed(wording.some(sheet.models))} against {elided(result.base.ref)}",
        "style_sheet": Markup(style),
        "style_hash": _hash(style),
        "script": Markup(script),
        "script_hash": _hash(script),
        "tone": tone,
        "shape": shape,
        "verdict": wording.verdict(result),
        "evidence": wording.evidence(result),
        "findings": _findings(result, sheet),
        "failures": wording.failures(result),
    }


def _findings(result: Result, sheet: Sheet) -> list[tuple[Finding, str | None]]:
    """The first of them, each with the name of its row."""
    named = {finding: sheet.names[name] for (_, name), row in sheet.rows.items() for finding in row.findings}
    return [(finding, named.get(finding)) for finding in result.findings[:_FINDINGS]]


def _tone(result: Result) -> tuple[str, str]:
    """The class and the shape of the verdict."""
    if not any(model.summary.counted for model in result.models):
        return "unknown", "?"
    warned = any(finding.severity != "info" for finding in result.findings)
    hit = warned or any(m.summary.matrices_with_intruders or m.summary.failed for m in result.models)
    return ("review", "▲") if hit else ("ordinary", "●")


def _where(sheet: Sheet, maps: Maps) -> dict[str, object]:
    return {
        "maps": maps,
        "gaps": _gaps(maps),
        "cut": cut_from_maps(sheet),
        "outside": [sheet.names[i] for i, place in enumerate(sheet.places) if place.layer is None],
    }


def _gaps(maps: Maps) -> str:
    """Lines between the cells of a strip."""
    frame = maps.frame
    across = (f"M0 {row * frame.pitch}h{frame.width}" for row in range(len(frame.kinds) + 1))
    down = (f"M{column * frame.pitch} 0v{frame.height}" for column in range(len(frame.layers) + 1))
    return "".join([*across, *down])


def _models(result: Result, sheet: Sheet) -> dict[str, object]:
    settings = result.settings
    charts = (
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
    return {
        "weights": f"{max((model.summary.weights for model in result.models), default=0):,}",
        "kept": lambda model: _kept(model, result),
        "charts": [chart for chart in charts if any(panel.lines for panel in chart[2])],
        "still": Counter(vector.model for vector in result.vectors if vector.status is Status.unchanged),
    }


def _kept(model: Model, result: Result) -> str:
    """Bytes of a model's own files, and their share of the base's."""
    own, full = model.bytes, sum(file.size for file in result.base.files)
    return f"{_bytes(own)}, {numerals.number(100 * own / full, 2)} %" if full else _bytes(own)


def _bytes(count: int) -> str:
    """Decimal units, three digits.

    >>> _bytes(299440), _bytes(1_200_000_000), _bytes(12)
    ('299 kB', '1.20 GB', '12 B')
    """
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{numerals.number(count / 1000**power if power else count)} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _modules(sheet: Sheet, ranked_by: str) -> dict[str, object]:
    return {
        "row_count": len(sheet.rows),
        "table": sheet.ranked(ranked_by)[:TABLE_ROWS],
        "columns": [COLUMNS[key] for key in TABLE_COLUMNS if sheet.values(key)],
        "ranked_by": COLUMNS[ranked_by],
    }


def _module(result: Result, sheet: Sheet, order: Sequence[int], others: Sequence[str]) -> dict[str, object]:
    """The matrix that stands out most; the script puts others in its place."""
    first = order[0] if order else None
    matrix = Matrix([], [], []) if first is None else detail.matrix(result, sheet, first, others)
    return {
        "first": first,
        "about": "" if first is None else _about(sheet, first),
        "matrix": matrix,
        "alike": [(m, one) for m, one in enumerate(matrix.models) if one and one.similarity_left][:_ALIKE],
        "has_experts": any(row.experts > 1 for row in sheet.rows.values()),
        "all_columns": list(COLUMNS.values()),
        "value": lambda model, name, key: row.values[key] if (row := sheet.rows.get((model, name))) else None,
        "longest": _longest(sheet),
        "width": detail.WIDTH,
        "height": detail.HEIGHT,
        "points": detail.points,
        "marks": detail.marks,
    }


def _about(sheet: Sheet, name: int) -> str:
    place = sheet.places[name]
    layer = "" if place.layer is None else f", layer {place.layer}"
    return f"{' × '.join(map(str, place.shape))}, {place.dtype}{layer}, {elided(place.kind)}"


def _method(result: Result) -> dict[str, object]:
    read = wording.files(result)
    return {
        "metrics": EXPLAINED,
        "account": wording.account,
        "coverage": wording.coverage,
        "merged": wording.merged(result)[:_LISTED],
        "skipped": wording.skipped_reasons(result)[:_LISTED],
        "notes": [_prose(note) for note in wording.notes(result)[:_LISTED]],
        "files": read[:_LISTED],
        "file_count": len(read),
    }


def _or_dash(value: int | None) -> str:
    return numerals.NOT_MEASURED if value is None else str(value)


def _prose(text: str) -> str:
    return elided(text, _PROSE)


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
    environment.filters.update(number=numerals.number, share=numerals.share, short=elided, prose=_prose)
    return environment
