"""Figures: what is drawn is what was measured, at the width of the page, the same bytes every time."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from pypdf import PdfReader

from tests.conftest import COMPARED, Run
from tests.figure_runs import matrix, run, with_arrays
from wanalyze import figures
from wanalyze.errors import FigureError, UsageError
from wanalyze.figures import FIGURES, FORMATS, VENUES, Member, Series, write_figures
from wanalyze.result import Module, Result, Status, read_run, write_run

LOSSES = {"full": 0.249, "lora-r8": 0.363, "lora-r64": 0.312, "half-frozen": 0.202, "rslora-r64": 0.357}
DRAWN = [name for name in FIGURES if name != "table"]
TWO_PANELS_AND_MORE = ("map", "overlap", "pareto")


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each trained model forgot: fixtures/README.md."""
    file = tmp_path_factory.mktemp("evaluation") / "losses.csv"
    rows = "".join(f"{label},forgetting,{value}\n" for label, value in LOSSES.items())
    file.write_text(f"label,metric,value\n{rows}")
    return file


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, trained_run: Path, evaluation: Path) -> Path:
    """Every figure of that run, for a page of two columns."""
    output = tmp_path_factory.mktemp("figures")
    written = write_figures(trained_run, output=output, venue="icml", evaluation=evaluation)
    assert written.left_out == []
    return output


@pytest.fixture(scope="session")
def small() -> Result:
    """Two models of three layers with everything that a figure shows: quick to draw."""
    made = [
        matrix(
            label, f"l.{layer}.q", layer, relative_norm=0.1 * (layer + 1), effective_rank=rank + layer, noise_edge=0.01
        )
        for label, rank in (("full", 40.0), ("lora", 7.0), ("tiny", 2.0))
        for layer in range(3)
    ]
    return with_arrays(run(made))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, small: Result) -> Path:
    folder = tmp_path_factory.mktemp("small") / "run"
    write_run(folder, small, "")
    return folder


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"fig_{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def metric(run: Path, model: str, module: str, key: str) -> Any:
    modules = json.loads((run / "result.json").read_text())["modules"]
    return next(m for m in modules if (m["model"], m["name"]) == (model, module))["metrics"][key]


def test_each_figure_comes_with_its_numbers(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {f"fig_{name}.{end}" for name in FIGURES for end in ("tex" if name == "table" else "pdf", "csv")}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_as_wide_as_the_page_wants_it(folder: Path, name: str) -> None:
    (page,) = PdfReader(folder / f"fig_{name}.pdf").pages
    width = VENUES["icml"].text if name in TWO_PANELS_AND_MORE else VENUES["icml"].column
    assert float(page.mediabox.width) / 72 == pytest.approx(width, abs=0.01)


@pytest.mark.parametrize("venue", VENUES)
def test_every_venue_has_its_widths(tmp_path: Path, small_run: Path, venue: str) -> None:
    write_figures(small_run, output=tmp_path, venue=venue, only=["depth", "map"])
    for name, width in (("depth", VENUES[venue].column), ("map", VENUES[venue].text)):
        (page,) = PdfReader(tmp_path / f"fig_{name}.pdf").pages
        assert float(page.mediabox.width) / 72 == pytest.approx(width, abs=0.01)


@pytest.mark.parametrize("name", DRAWN)
def test_type_is_embedded_as_truetype(folder: Path, name: str) -> None:
    (page,) = PdfReader(folder / f"fig_{name}.pdf").pages
    fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]
    assert fonts
    for font in fonts:
        (inner,) = font["/DescendantFonts"] if font["/Subtype"] == "/Type0" else (font,)
        assert inner.get_object()["/Subtype"] in ("/CIDFontType2", "/TrueType")
        assert "/FontFile2" in inner.get_object()["/FontDescriptor"]
        assert "STIX" in inner.get_object()["/BaseFont"]


def test_pdf_is_the_same_in_another_process(tmp_path: Path, trained_run: Path, evaluation: Path, folder: Path) -> None:
    command = ["figures", trained_run, "-o", tmp_path, "--venue", "icml", "--evaluation", evaluation]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-m", "wanalyze", *command], check=True, capture_output=True, env=environment)
    assert len([*tmp_path.iterdir()]) == 2 * len(FIGURES)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize("file_format", FORMATS)
def test_bytes_depend_on_the_run_alone(tmp_path: Path, small_run: Path, file_format: str) -> None:
    only = ["depth", "overlap"]
    first = write_figures(small_run, output=tmp_path / "1", file_format=file_format, only=only)
    with matplotlib.rc_context({"font.family": "monospace", "savefig.bbox": "tight", "pdf.fonttype": 3}):
        before = dict(matplotlib.rcParams)
        write_figures(small_run, output=tmp_path / "2", file_format=file_format, only=only)
        assert dict(matplotlib.rcParams) == before
    for path in first.files:
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name


def test_depth_and_map_hold_the_numbers_of_the_run(folder: Path, trained_run: Path) -> None:
    modules = json.loads((trained_run / "result.json").read_text())["modules"]
    for row in rows_of(folder, "depth"):
        here = [m for m in modules if m["model"] == row["model"] and str(m["layer"]) == row["layer"]]
        changed = [m["metrics"]["relative_norm"] for m in here if m["status"] == "measured"]
        assert float(row["mean"]) == median(changed)
    cells = rows_of(folder, "map")
    assert len(cells) == 7 * 6 * len(COMPARED)
    for row in cells:
        (module,) = (
            m for m in modules if (m["model"], m["kind"], str(m["layer"])) == (row["model"], row["kind"], row["layer"])
        )
        assert row["status"] == module["status"]
        assert row["mean"] == ("" if row["status"] == "unchanged" else repr(module["metrics"]["relative_norm"]))
    assert {row["model"] for row in cells if row["status"] == "unchanged"} == {"half-frozen"}


def test_points_hold_the_numbers_of_the_run(folder: Path, trained_run: Path) -> None:
    for name, keys in (
        ("dora", ("direction_change", "magnitude_change")),
        ("pareto", ("relative_norm", "effective_rank")),
    ):
        rows = rows_of(folder, name)
        assert len({row["model"] for row in rows}) == len(COMPARED)
        for row in rows[::7]:
            for key in keys:
                assert float(row[key]) == metric(trained_run, row["model"], row["module"], key)
    for row in rows_of(folder, "effective_rank")[::5]:
        if row["kind"] == "q_proj":
            name = f"model.layers.{row['layer']}.self_attn.q_proj"
            assert float(row["mean"]) == metric(trained_run, row["model"], name, "effective_rank")


def test_pearson_is_numpys(folder: Path) -> None:
    rows = [row for row in rows_of(folder, "dora") if row["model"] == "full"]
    x, y = ([float(row[key]) for row in rows] for key in ("direction_change", "magnitude_change"))
    assert float(rows[0]["pearson"]) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_spectrum_holds_the_arrays_of_the_run(folder: Path, trained_run: Path) -> None:
    rows, result = rows_of(folder, "spectrum"), read_run(trained_run)
    for label in COMPARED:
        own = [float(row["mean"]) for row in rows if row["model"] == label and row["what"] == "σ"]
        kept = result.arrays.get(f"{label}/{rows[0]['module']}/update_values")
        assert own == ([] if kept is None else kept.tolist())
    edges = {row["model"]: float(row["mean"]) for row in rows if row["what"] == "noise edge"}
    for label, edge in edges.items():
        assert edge == metric(trained_run, label, rows[0]["module"], "noise_edge")
    assert "full" in edges


def test_overlap_holds_the_arrays_of_the_run(folder: Path, trained_run: Path) -> None:
    rows, result = rows_of(folder, "overlap"), read_run(trained_run)
    for row in rows[::11]:
        table = result.arrays[f"{row['model']}/{row['module']}/similarity_{row['side']}"]
        assert float(row["cosine"]) == table[int(row["tuned"]) - 1, int(row["base"]) - 1]
    (shown,) = {row["module"] for row in rows}
    counts = {name: sum(intruders(module) for module in result[name]) for name in {m.name for m in result.modules}}
    assert counts[shown] == max(counts.values()) > 0


def intruders(module: Module) -> float:
    return (module.metric("intruders_left") or 0) + (module.metric("intruders_right") or 0)


def test_curves_pass_through_the_counts_of_the_run(folder: Path, trained_run: Path) -> None:
    result = read_run(trained_run)
    for model in result.models:
        for side, count in (("left", model.summary.intruders_left), ("right", model.summary.intruders_right)):
            for name, at in (("epsilon", result.settings.epsilon), ("topk", result.settings.top_k)):
                own = [r for r in rows_of(folder, name) if r["model"] == model.label and r["side"] == side]
                (row,) = (r for r in own if float(r["at"]) == at)
                assert float(row["mean"]) == count
                means = [float(r["mean"]) for r in own]
                assert means == sorted(means)
                assert all(float(r["possible"]) >= float(r["mean"]) for r in own)


def test_an_undecided_cosine_is_possible_and_not_certain() -> None:
    result = run([matrix("m", "a", cosines=[(0.1, 0.2), (0.3, 0.7)])])
    rows = FIGURES["epsilon"].numbers([Series("m", (Member(result, "m"),))], figures.Wanted())
    at = {round(row.at, 2): (row.mean, row.possible) for row in rows if row.side == "left"}
    assert (at[0.1], at[0.15], at[0.5], at[0.71]) == ((0, 0), (0, 1), (1, 2), (2, 2))


def test_table_holds_quartiles_of_the_run(folder: Path, trained_run: Path) -> None:
    result = read_run(trained_run)
    for row in rows_of(folder, "table"):
        own = [
            m
            for m in result.modules
            if (m.model, m.kind) == (row["model"], row["kind"]) and m.status.value == "measured"
        ]
        assert int(row["matrices"]) == len(own)
        for key in ("relative_norm", "effective_rank", "stable_rank"):
            values = [m.metric(key) for m in own if m.metric(key) is not None]
            wanted = np.percentile(values, [25, 50, 75])
            assert [float(row[f"{key}_q1"]), float(row[key]), float(row[f"{key}_q3"])] == pytest.approx(wanted)
    text = (folder / "fig_table.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert all(line.count("&") in (0, 6) for line in text.splitlines() if line.endswith(r"\\"))
    assert r"q\_proj" in text


@pytest.mark.parametrize("name", DRAWN)
def test_each_is_a_function_of_a_result(small: Result, name: str) -> None:
    losses = figures.Evaluation("losses", {"loss": {"full": 1.0, "lora": 2.0, "tiny": 3.0}})
    wanted = {"evaluation": losses} if name == "forgetting" else {}
    figure = getattr(figures, name)(small, venue="acl", **wanted)
    assert isinstance(figure, Figure)
    assert figure.get_figwidth() in (VENUES["acl"].column, VENUES["acl"].text)


def test_the_lines_drawn_are_the_numbers_beside_them(trained_run: Path, folder: Path) -> None:
    (axes,) = figures.depth(read_run(trained_run)).axes
    rows = rows_of(folder, "depth")
    for line, label in zip(axes.lines, COMPARED, strict=True):
        own = [row for row in rows if row["model"] == label]
        assert list(line.get_xdata()) == [int(row["layer"]) for row in own]
        assert list(line.get_ydata()) == [float(row["mean"]) for row in own]


def test_colour_is_never_alone(trained_run: Path) -> None:
    (axes,) = figures.depth(read_run(trained_run)).axes
    looks = [(line.get_color(), line.get_marker()) for line in axes.lines]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(COMPARED)
    assert not axes.get_title()


def test_runs_of_one_method_are_mean_and_band(tmp_path: Path) -> None:
    for seed, norm in enumerate((0.1, 0.2, 0.6)):
        own = [matrix("lora", f"l.{i}.q", i, relative_norm=norm * (i + 1)) for i in range(3)]
        write_run(tmp_path / f"seed-{seed}", run([*own, matrix("full", "l.0.q")]), "")
    runs = [tmp_path / f"seed-{seed}" for seed in range(3)]
    by_label = write_figures(*runs, output=tmp_path / "a", only=["depth"])
    rows = [row for row in rows_of(tmp_path / "a", "depth") if row["model"] == "lora"]
    assert [float(row["mean"]) for row in rows] == pytest.approx([mean((0.1, 0.2, 0.6)) * (i + 1) for i in range(3)])
    assert [float(row["sd"]) for row in rows] == pytest.approx([stdev((0.1, 0.2, 0.6)) * (i + 1) for i in range(3)])
    assert {row["n"] for row in rows} == {"3"}
    assert by_label.files
    group = f"methods={tmp_path / 'seed-*'}"
    write_figures(output=tmp_path / "b", only=["depth"], groups=[group])
    assert {(row["model"], row["n"]) for row in rows_of(tmp_path / "b", "depth")} == {
        ("methods", "6"),
        ("methods", "3"),
    }
    write_figures(runs[0], output=tmp_path / "c", only=["depth"], groups=[f"l={runs[0]}/lor*"])
    assert {(row["model"], row["n"]) for row in rows_of(tmp_path / "c", "depth")} == {("l", "1"), ("full", "1")}


def test_the_legend_says_how_many_runs() -> None:
    results = [run([matrix("lora", f"l.{i}.q", i, relative_norm=norm) for i in range(3)]) for norm in (0.1, 0.3)]
    figure = figures.depth(*results)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lora ($n=2$)"]
    assert len(figure.axes[0].collections) == 1, "the band"
    (text,) = figures.depth(run([matrix("lora", "l.0.q")], precision="float32")).legends[0].get_texts()
    assert text.get_text() == "lora (estimate)"


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "run", run([matrix("m", "l.0.q")]), "")
    write_figures(tmp_path / "run", tmp_path / "run" / "result.json", output=tmp_path / "f", only=["depth"])
    assert [row["n"] for row in rows_of(tmp_path / "f", "depth")] == ["1"]


def test_what_was_not_measured_is_hatched_and_what_stayed_is_empty() -> None:
    result = run(
        [
            matrix("m", "l.0.q", 0),
            matrix("m", "l.1.q", 1, status=Status.failed),
            matrix("m", "l.2.q", 2, status=Status.unchanged),
        ]
    )
    figure = figures.map(result)
    assert [patch.get_hatch() for patch in figure.axes[0].patches] == ["/////"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not measured", "unchanged"]


def test_experts_of_a_layer_are_one_place() -> None:
    names = [f"l.0.experts.up[{i}]" for i in range(5)]
    result = run([matrix("m", name, kind="up", effective_rank=float(i)) for i, name in enumerate(names, 1)])
    (row,) = FIGURES["effective_rank"].numbers([Series("m", (Member(result, "m"),))], figures.Wanted())
    assert (row.matrices, row.mean) == (5, 3.0)


def test_counts_at_different_limits_are_not_drawn_together() -> None:
    one, two = run([matrix("a", "x")]), run([matrix("b", "x")], epsilon=0.6)
    for name in ("epsilon", "topk", "table"):
        with pytest.raises(FigureError, match=r"ε = 0\.5 and k = 2, ε = 0\.6"):
            FIGURES[name](one, two)
    assert figures.depth(one, two)


def test_runs_on_different_bases_are_not_averaged() -> None:
    one, two = run([matrix("a", "x")]), run([matrix("a", "x", shape=(9, 9))])
    with pytest.raises(FigureError, match="only runs on one base"):
        figures.depth(one, two)


def test_a_group_may_span_runs_and_choose_models(tmp_path: Path) -> None:
    for seed in range(3):
        names = ("full", f"lora-{seed}")
        write_run(tmp_path / f"seed-{seed}", run([matrix(name, "l.0.q") for name in names]), "")
    group = f"LoRA={tmp_path}/seed-*/lora-*"
    write_figures(tmp_path / "seed-0", output=tmp_path, only=["depth"], groups=[group], file_format="svg")
    assert [(row["model"], row["n"]) for row in rows_of(tmp_path, "depth")] == [("LoRA", "3"), ("full", "1")]


def test_intruders_that_were_not_counted_are_no_number_in_the_table() -> None:
    nothing = {"intruders_left": None, "intruders_right": None}
    one = matrix("a", "l.0.q", cosines=(), **nothing)
    two = matrix("a", "l.0.q")
    series = [Series("a", tuple(Member(run([module]), "a", str(i)) for i, module in enumerate((one, two, two))))]
    [line] = FIGURES["table"].numbers(series, figures.Wanted())
    assert line.intruders_left == 1  # the mean of two runs, not of three
    assert figures.table(run([one])).count("-- & --") == 1


def test_a_run_without_any_number_is_not_drawn_and_code_2(cli: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "run", run([matrix("m", "l.0.q", status=Status.failed, cosines=())]), "")
    done = cli("figures", tmp_path / "run")
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == len(FIGURES)


def test_counts_have_ticks_that_are_easily_read(trained_run: Path) -> None:
    ticks = figures.epsilon(read_run(trained_run)).axes[0].get_yticks()
    step = ticks[1] - ticks[0]
    assert f"{step:.0e}"[0] in "125"


def test_a_figure_without_numbers_is_left_out_or_refused(cli: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "run", run([matrix("m", "l.0.q")]), "")
    done = cli("figures", tmp_path / "run", "--format", "svg")
    assert done.code == 0
    assert [line.partition(":")[0] for line in done.err.splitlines()] == [
        f"left out {name}" for name in ("spectrum", "overlap", "forgetting")
    ]
    assert len(done.out.splitlines()) == 2 * (len(FIGURES) - 3)
    assert all(Path(line).is_file() for line in done.out.splitlines())
    refused = cli("figures", tmp_path / "run", "--only", "overlap", "-o", tmp_path / "no")
    assert refused.code == 2
    assert "overlap: the runs hold no array 'similarity_left'" in refused.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "table",
    [np.ones((0, 3)), np.ones(4), np.ones((100, 100)), np.full((2, 2), 7.0), np.full((2, 2), np.nan)],
    ids=["empty", "a vector", "huge", "no cosines", "NaN"],
)
def test_a_forged_similarity_is_refused(table: np.ndarray) -> None:
    with pytest.raises(FigureError, match="no table of cosines"):
        figures.overlap(run([matrix("m", "x")], {"m/x/similarity_left": table}))


def test_a_forged_grid_is_refused() -> None:
    with pytest.raises(FigureError, match="do not fit a page"):
        figures.map(run([matrix("m", f"x{i}", i, kind=f"k{i}") for i in range(60)]))
    with pytest.raises(FigureError, match="more than a figure can tell apart"):
        figures.depth(run([matrix(f"m{i}", "x") for i in range(30)]))


def test_a_broken_file_of_arrays_is_said(cli: Run, tmp_path: Path, small_run: Path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "run" / "arrays.safetensors").write_bytes(b"\xff" * 40)
    done = cli("figures", tmp_path / "run", "--only", "spectrum")
    assert done.code == 2
    assert "arrays.safetensors: cannot be read" in done.err


BAD: dict[str, tuple[list[str], str]] = {
    "no run": ([], "name a RUN"),
    "a run that is none": (["nowhere"], "no run of wanalyze"),
    "venue": (["run", "--venue", "nips"], "--venue"),
    "format": (["run", "--format", "gif"], "--format"),
    "figure": (["run", "--only", "dept"], "did you mean 'depth'"),
    "metric": (["run", "--metric", "efective_rank"], "did you mean 'effective_rank'"),
    "module": (["run", "--only", "spectrum", "--module", "l.0.k"], "did you mean 'l.0.q'"),
    "group without a label": (["run", "--group", "runs/*"], "is not LABEL=GLOB"),
    "group of nothing": (["run", "--group", "x=nowhere/*"], "no run and no model"),
    "evaluation that is not there": (["run", "--evaluation", "no.csv"], "cannot be read"),
    "output is a file": (["run", "-o", "a-file"], "cannot be written"),
}


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD)
def test_a_bad_request_is_one_line_and_code_2(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", with_arrays(run([matrix("m", "l.0.q")])), "")
    (tmp_path / "a-file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    done = cli("figures", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert says in done.err
    assert "Traceback" not in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_help_lists_every_figure_and_venue(cli: Run) -> None:
    text = cli("figures", "--help").out
    assert all(name in text for name in (*FIGURES, *VENUES, *FORMATS))


@pytest.mark.parametrize("name", ["venue", "file_format", "only"])
def test_the_library_refuses_by_itself(tmp_path: Path, small_run: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"[Kk]nown"):
        write_figures(small_run, output=tmp_path / "f", **{name: ["zebra"] if name == "only" else "zebra"})  # type: ignore[arg-type]
    assert not (tmp_path / "f").exists()
