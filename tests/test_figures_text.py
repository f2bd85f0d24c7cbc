"""Names from strangers in figures: letters and nothing else, in every format; and what an evaluation joins."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.conftest import Run
from tests.figure_runs import matrix, run, with_arrays
from wanalyze import figures
from wanalyze.errors import FigureError, UsageError
from wanalyze.figures import FIGURES, read_evaluation, write_figures
from wanalyze.figures.labels import latex, latex_of_drawn, plain
from wanalyze.figures.spearman import spearman
from wanalyze.result import Result, Status, write_run

HOSTILE = (
    r"\input{/etc/passwd}",
    r"\write18{rm}}}{{$",
    r"$\frac{\$",
    r"a$_b^c%&#~{}\\",
    "=cmd|' /C calc'!A0",
    "_hidden\x1b[31m",
    "\u202eevil\u2066 模型 😀",
    "</text><script>alert(1)</script>-->",
    "long" * 2500,
)


@pytest.fixture(scope="module")
def hostile() -> Result:
    """Labels, names and kinds that are all hostile."""
    matrices = [
        matrix(label, f"{name}.{layer}", layer, name, relative_norm=0.1 + 0.3 * layer, effective_rank=3.0 + i)
        for i, (label, name) in enumerate(zip(HOSTILE[:6], HOSTILE[3:], strict=True))
        for layer in range(2)
    ]
    return with_arrays(run(matrices))


def evaluated(folder: Path, labels: tuple[str, ...]) -> Path:
    file = folder / "evaluation.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = [(label, r"\input{x} $a$", float(i)) for i, label in enumerate(labels)]
        csv.writer(out).writerows([("label", "metric", "value"), *rows])
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, hostile: Result) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_run(folder / "run", hostile, "")
    for file_format in ("svg", "pgf"):
        done = write_figures(
            folder / "run", output=folder, file_format=file_format, evaluation=evaluated(folder, HOSTILE[:6])
        )
        assert done.left_out == []
    return folder


def test_files_are_named_by_the_figures_alone(written: Path) -> None:
    files = {path.name.partition(".")[0] for path in written.glob("fig_*")}
    assert files == {f"fig_{name}" for name in FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_no_name_is_a_command_of_latex(written: Path, name: str) -> None:
    text = (written / f"fig_{name}.{'tex' if name == 'table' else 'pgf'}").read_text(encoding="utf-8")
    text = re.sub(r"^%.*\n", "", text, flags=re.MULTILINE)
    assert not re.search(r"\\(input|write|frac|csname|immediate)\b", text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    bare = re.sub(r"\\[\\{}$&#_%~^]", "", text)  # what is escaped is a letter
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0


def test_no_name_is_markup(written: Path) -> None:
    for path in written.glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert "script" not in tags
        assert "text" not in tags


def test_no_name_is_a_formula(written: Path) -> None:
    for path in written.glob("fig_*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert cells
        assert not [cell for cell in cells if cell[:1] in ("=", "@", "\t", "\r")]
        assert not [cell for cell in cells if cell[:1] in ("+", "-") and not re.fullmatch(r"-?[\d.e+-]+", cell)]


def test_the_legend_shows_every_model(hostile: Result) -> None:
    figure = figures.depth(hostile)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 6
    assert max(map(len, texts)) <= 30
    assert " _hidden\\x1b[31m" in texts


def test_letters_stay_letters() -> None:
    assert plain("$x$") == r"\$x\$"
    assert plain("a" * 100, 9) == "aaaa…aaaa"
    assert plain("a" * 10_000 + "end", 9).endswith("end")
    assert latex("100% of \\x_{i}") == r"100\% of \textbackslash{}x\_\{i\}"
    assert latex_of_drawn(r"$n=3$ of \$a_b") == r"$n=3$ of \$a\_b"
    assert latex_of_drawn("one $ alone") == r"one \$ alone"


def test_pgf_asks_no_program(monkeypatch: pytest.MonkeyPatch, hostile: Result, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    write_run(tmp_path / "run", hostile, "")
    write_figures(tmp_path / "run", output=tmp_path, file_format="pgf", only=["depth", "map"])
    text = (tmp_path / "fig_depth.pgf").read_text()
    assert text.count(r"\begin{pgfpicture}") == text.count(r"\end{pgfpicture}") == 1
    assert re.search(r"\\pgfqpoint\{5\.500000in\}", text)
    assert r"\pgftext" in text
    assert not re.search(r"\\(pgfimage|includegraphics)", text)


RANKS = {
    "in one order": ([1, 2, 3], [5, 6, 7], 1 / 3),
    "in reverse": ([1, 2, 3, 4], [4, 3, 2, 1], 2 / 24),
    "mixed": ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], None),
    "ties": ([1, 1, 2, 3, 3, 4], [2, 3, 3, 5, 5, 1], None),
}


@pytest.mark.parametrize(("x", "y", "p"), RANKS.values(), ids=RANKS)
def test_few_pairs_have_the_p_of_all_their_orders(x: list[float], y: list[float], p: float | None) -> None:
    found = spearman(x, y)
    assert found is not None
    assert found.rho == pytest.approx(spearmanr(x, y).statistic)
    orders = np.array([spearmanr(order, y).statistic for order in itertools.permutations(x)])
    sides = (orders >= found.rho - 1e-9).mean(), (orders <= found.rho + 1e-9).mean()
    assert found.p == pytest.approx(min(1.0, 2 * min(sides)))
    assert p is None or found.p == pytest.approx(p)


def test_many_pairs_have_scipys_p() -> None:
    rng = np.random.default_rng(0)
    x = rng.random(30)
    y = x + rng.random(30)
    found, wanted = spearman(x.tolist(), y.tolist()), spearmanr(x, y)
    assert found is not None
    assert (found.rho, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))


def test_no_correlation_where_there_is_none() -> None:
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_an_evaluation_is_joined_by_label(tmp_path: Path) -> None:
    models = [matrix(f"m{i}", "l.0.q", cosines=[(0.1, 0.2)] * i + [(0.9, 1.0)] * (4 - i)) for i in range(5)]
    write_run(tmp_path / "run", run(models, top_k=4), "")
    rows = [f"m{i},forgetting,{value}" for i, value in enumerate((0.1, 0.3, 0.2, 0.5, 0.9))] + ["m0,accuracy,0.5"]
    (tmp_path / "e.csv").write_text("label,metric,value\n" + "\n".join(rows))
    write_figures(tmp_path / "run", output=tmp_path, only=["forgetting"], evaluation=tmp_path / "e.csv")
    with (tmp_path / "fig_forgetting.csv").open(newline="") as file:
        joined = list(csv.DictReader(file))
    summaries = {m["label"]: m["summary"] for m in json.loads((tmp_path / "run" / "result.json").read_text())["models"]}
    first = [row for row in joined if row["metric"] == "forgetting"]
    for row in first:
        assert int(row["intruders_left"]) == summaries[row["model"]]["intruders_left"]
    assert [float(row["rho"]) for row in first] == pytest.approx([0.9] * 5)
    assert [row["rho"] for row in joined if row["metric"] == "accuracy"] == [""]


EVALUATIONS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "its first line is ''"),
    "other columns": (b"model,metric,value\n", "not 'label,metric,value'"),
    "no rows": (b"label,metric,value\n", "has no row"),
    "too few fields": (b"label,metric,value\nm,x\n", "line 2: has 2 fields"),
    "no number": (b"label,metric,value\nm,x,high\n", "line 2: value 'high'"),
    "infinite": (b"label,metric,value\nm,x,inf\n", "is no finite number"),
    "twice": (b"label,metric,value\nm,x,1\nm,x,2\n", "line 3: 'm' has a value"),
    "no text": (b"\xff\xfe\x00", "is not UTF-8"),
    "a quote left open": (b'label,metric,value\n"m,x,1\n', "no CSV"),
    "a huge field": (b"label,metric,value\n" + b"m" * 200_000 + b",x,1\n", "no CSV"),
}


@pytest.mark.parametrize(("data", "says"), EVALUATIONS.values(), ids=EVALUATIONS)
def test_a_bad_evaluation_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "e.csv").write_bytes(data)
    with pytest.raises(UsageError, match=re.escape(says)):
        read_evaluation(tmp_path / "e.csv")


def test_a_label_must_name_one_model(tmp_path: Path, cli: Run) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, run([matrix("lora", "l.0.q")]), "")
    for label, says in (("lora", "2 runs have a model 'lora'; write RUN/LABEL"), ("lara", "did you mean 'lora'?")):
        (tmp_path / "e.csv").write_text(f"label,metric,value\n{label},x,1\n")
        arguments = (tmp_path / "a", tmp_path / "b", "--evaluation", tmp_path / "e.csv", "--only", "forgetting")
        done = cli("figures", *arguments, "-o", tmp_path / "f")
        assert done.code == 2
        assert says in done.err
    address = f"{tmp_path / 'a'}/lora"
    (tmp_path / "e.csv").write_text(f"label,metric,value\n{address},x,1\n")
    assert cli("figures", *arguments, "-o", tmp_path / "f").code == 0


def test_a_model_without_a_count_is_not_zero(tmp_path: Path) -> None:
    write_run(tmp_path / "run", run([matrix("m", "l.0.q", status=Status.failed, cosines=())]), "")
    (tmp_path / "e.csv").write_text("label,metric,value\nm,x,1\n")
    with pytest.raises(FigureError, match="no intruders of 'm' could be counted"):
        write_figures(tmp_path / "run", output=tmp_path, only=["forgetting"], evaluation=tmp_path / "e.csv")


def test_too_many_metrics_are_refused(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("label,metric,value\n" + "".join(f"m,x{i},1\n" for i in range(9)))
    with pytest.raises(FigureError, match="9 metrics"):
        figures.forgetting(run([matrix("m", "a")]), evaluation=read_evaluation(tmp_path / "e.csv"))
