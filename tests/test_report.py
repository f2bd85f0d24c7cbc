"""The page: complete without script, inert whatever the names are, its words from the numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from urllib.parse import quote

import numpy as np
import pytest
import torch

import wanalyze
from tests.conftest import normal, save_checkpoint
from tests.made_up_runs import made_up
from wanalyze import figures, numerals, wording
from wanalyze.report import page, report_markdown
from wanalyze.report.detail import flags, marks, packed, points, squares
from wanalyze.report.scale import cosines, counts, logarithmic
from wanalyze.report.sheet import sheet
from wanalyze.result import Finding, Result, Status
from wanalyze.terminal import modules_table, summary


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_hostile_names_are_inert(hostile: Result) -> None:
    text = page(hostile)
    found = Page(text)
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in found.tags}
    assert sum(tag == "script" for tag, _ in found.tags) == 2  # data and code
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert "49" not in re.findall(r">(\d+)\.2\.x<", text)
    assert "&lt;script&gt;" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert "long" * 30 not in text


def test_the_data_are_json_that_html_cannot_end(hostile: Result) -> None:
    text = page(hostile)
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(data)
    assert json.loads(data)["names"].count('"></title><script>alert(1)</script>.0.x') == 1


def test_hostile_names_do_not_steer_a_terminal(hostile: Result) -> None:
    text = summary(hostile, None) + modules_table(hostile.modules)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert max(map(len, text.splitlines())) < 200


def test_the_page_asks_nobody_for_anything(trained: Result) -> None:
    text = page(trained)
    found = Page(text)
    links = [value for _, attributes in found.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(link and link.startswith("#") for link in links)
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@import" not in text
    policy = next(attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not [attributes for _, attributes in found.tags if "style" in attributes]


@pytest.mark.parametrize("tag", ["style", "script"])
def test_the_policy_allows_exactly_the_style_and_script_of_the_page(trained: Result, tag: str) -> None:
    text = page(trained)
    inside = text.rpartition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in text


def test_the_page_has_the_bones_a_reader_relies_on(trained: Result) -> None:
    tags = Page(page(trained)).tags
    assert ("html", {"lang": "en"}) in tags
    assert sum(tag == "h1" for tag, _ in tags) == 1
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    assert [attributes["id"] for tag, attributes in tags if tag == "section" and "id" in attributes] == [
        *("where", "models", "modules", "module", "method")
    ]
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"] for tag, attributes in tags if tag == "use"} <= {f"#{name}" for name in ids}
    assert all("aria-label" in attributes for _, attributes in tags if attributes.get("role") == "img")


def test_the_verdict_is_the_table_in_words(trained: Result) -> None:
    sentence = wording.verdict(trained)
    for model in trained.models:
        s = model.summary
        hit = s.matrices_with_intruders
        part = f"{model.label} ({hit} of {s.measured} matrices)"
        assert (part in sentence) == (hit > 0)
        assert (model.label in sentence.partition("none in")[2]) == (hit == 0)
        assert numerals.number(s.median_effective_rank) in wording.evidence(trained)


def test_the_page_is_the_same_every_time(trained: Result, trained_run: Path) -> None:
    assert page(trained) == page(trained) == (trained_run / "report.html").read_text()


def test_one_scale_serves_all_models_and_loses_no_value() -> None:
    scale = logarithmic([0.01, 0.1, 3.0], "ratio")
    assert len(scale.legend) == len(scale.steps) == len(scale.limits) + 1
    assert scale.step(0.01) == scale.steps[0]
    assert scale.step(3.0) == scale.steps[-1]
    assert logarithmic([2.0, 2.0], "ratio").legend[0][1] == "all alike"
    assert logarithmic([], "ratio").step(1.0) == 2
    for most in (1, 2, 3, 10, 64):
        steps = counts(most, "of the top k")
        assert steps.step(0) != steps.step(1)
        assert len(steps.legend) == len(steps.limits) + 1
    assert counts(10, "of the top k").legend[-1][1] == "10"
    assert [cosines(0.5, "").step(value) for value in (0.0, 0.4999, 0.5, 1.0)] == [6, 4, 3, 0]


@pytest.mark.parametrize(("modules", "models", "most"), [(224, 3, 300_000), (2000, 5, 2_000_000)])
def test_the_page_keeps_its_budget(modules: int, models: int, most: int) -> None:
    text = page(made_up(modules, models))
    assert len(text.encode()) < most
    kept = re.findall(rf"Curves of (\d+) of {modules} modules", text)
    assert 30 < int(kept[0]) < modules


def test_a_page_that_would_be_huge_says_what_it_leaves_out() -> None:
    text = page(made_up(224, 2), most_bytes=200_000)
    assert len(text.encode()) <= 200_000
    (dropped,) = re.findall(r"Left out of this page for its size: (\d+) matrices", text)
    assert 0 < int(dropped) < 224


def test_of_many_models_the_first_are_drawn_and_all_are_in_the_table() -> None:
    text = page(made_up(2, 300, kinds=1))
    assert len(text) < 1_000_000
    assert "Drawn: 60 of 300 models." in text
    assert "and 295 more" in text
    assert json.loads(text.partition('id="data">')[2].partition("</script>")[0])["models"][-1] == "model-299"


def test_many_cells_are_drawn_as_quantiles_with_the_strips_on_request() -> None:
    few, many = page(made_up(400, 2)), page(made_up(1800, 3))
    assert "<summary>Every matrix</summary>" not in few
    assert many.count("<summary>Every matrix</summary>") == many.count('class="map ')


def test_a_forged_grid_stays_small(tmp_path: Path) -> None:
    base = {f"m.{i}.kind{i}.weight": normal(2, 2, seed=i) for i in range(400)}
    tuned = {name: 2 * tensor for name, tensor in base.items()}
    result = wanalyze.compare(save_checkpoint(tmp_path / "base", base), save_checkpoint(tmp_path / "tuned", tuned))
    assert len(page(result)) < 1_000_000
    assert "Drawn: 40 of 400 kinds, 256 of 400 layers." in page(result)


def test_experts_are_one_row_and_none_hides_its_intruders() -> None:
    result = made_up(6, 1)
    experts = [
        module.model_copy(update={"name": f"layers.0.experts.up_proj[{i}]", "kind": "up_proj", "layer": 0})
        for i, module in enumerate(result.modules)
    ]
    folded = sheet(result.model_copy(update={"modules": experts}), 10)
    (row,) = folded.rows.values()
    assert folded.names == ["layers.0.experts.up_proj[*]"]
    assert row.experts == 6
    for key, of in (("relative_norm", median), ("intruders_left", max)):
        assert row.values[key] == of([module.metrics[key] for module in experts])
    assert row.values["worst_cosine_left"] == min(high for module in experts for _, high in module.max_cosine_left)


def test_percentiles_are_ranks_among_the_kind_of_one_model() -> None:
    found = sheet(made_up(70, 2), 70)
    names = [n for n, place in enumerate(found.places) if place.kind == "q_proj"]
    values = {n: found.rows[1, n].values["relative_norm"] for n in names}
    ranked = sorted(names, key=lambda n: values[n] or 0)
    assert [found.percentile(1, n, "relative_norm") for n in ranked] == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]


def test_a_finding_is_named_linked_and_ringed_in_its_model_alone() -> None:
    result = made_up(14, 2)
    name = result.modules[3].name
    experts = [
        module.model_copy(update={"name": f"{module.name}[{i}]"})
        for module in result.modules
        for i in range(3 if module.name == name else 1)
    ]
    finding = Finding(
        **{"code": "WA101", "severity": "high", "model": "model-0", "module": f"{name}[2]"},
        **{"value": 0.5, "limit": 0.1, "message": "moved <far>"},
    )
    text = page(result.model_copy(update={"modules": experts, "findings": [finding]}))
    assert "moved &lt;far&gt; (0.500, limit 0.100)" in text
    assert f'href="#m={quote(name + "[*]")}">{name}[2]</a>' in text
    assert text.count('<rect class="ring"') == 2 * text.count('class="map ')  # in the legend and on one cell


def test_spectra_and_cosines_are_drawn_where_they_are() -> None:
    curve = [8, 20, 20, 0, 20, 20, 0]  # values 1, 0.1, 0.1, 0.01, 0.001 and 0.001 of σ₁ at 1, 2, 3, 4, 6 and 8
    assert points(curve, 8) == "0.0,20 50.0,40 79.2,40 100.0,60 129.2,80 150.0,80"
    assert points([3, 20, 100, 0], 8) == "0.0,20 50.0,120"  # it ends at the lower edge
    fine, hit = marks([900, [400, 499], [450, 550]], 0.5)
    assert (fine.count("M"), hit.count("M")) == (2, 1)
    assert flags([900, [400, 499]], 0.5) == "M-1.6 1.5h1.4"


def test_a_similarity_survives_its_code() -> None:
    alike = np.random.default_rng(0).uniform(0, 0.3, (32, 32)) + 0.7 * np.eye(32)
    paths = squares(packed(alike) or "")
    cells = {(x, y): step for step, path in enumerate(paths, 1) for x, y in re.findall(r"M(\d+) (\d+)h1", path)}
    for y, x in np.ndindex(32, 32):
        assert cells.get((str(x), str(y)), 0) == min(int(alike[y, x] * 7), 6)


def test_a_run_without_similarities_says_so() -> None:
    result = made_up(7, 2)
    assert page(result).count("<p hidden>not measured</p>") == 4  # both sides of both models
    result._arrays = {key: array for key, array in result.arrays.items() if "similarity" not in key}
    assert page(result).count("<p>not measured</p>") == 4
    assert "Not measured in this run." in page(result)


@pytest.mark.parametrize("modules", [0, 1, 5])
def test_a_page_of_little_is_a_page(modules: int) -> None:
    result = made_up(modules, 1)
    bare = [
        module.model_copy(update={"layer": None, "status": Status.unchanged, "metrics": {}, "max_cosine_left": []})
        for module in result.modules
    ]
    for few in (result, result.model_copy(update={"modules": bare})):
        tags = Page(page(few)).tags
        assert sum(tag == "h1" for tag, _ in tags) == 1
        assert sum(attributes.get("data-model") is not None for _, attributes in tags) in (0, 8)


def test_nothing_measured_is_never_called_nothing_changed(tmp_path: Path) -> None:
    base = {"a.weight": normal(3, 3), "b.weight": normal(3, 3)}
    bad = {name: tensor / 0 for name, tensor in base.items()}
    folder = save_checkpoint(tmp_path / "base", base)
    result = wanalyze.compare(folder, save_checkpoint(tmp_path / "bad", bad), f"same={folder}")
    assert wording.verdict(result) == "bad: nothing could be measured, 2 failed; same: no matrix was changed."


def test_a_matrix_counts_once_whichever_side_its_intruder_is_on(tmp_path: Path) -> None:
    spike = torch.zeros(12, 6)
    spike[:, 0] = 100.0  # a new output direction, an old input direction
    base = {
        name: torch.cat([torch.diag(torch.arange(6, 0, -1.0)), torch.zeros(6, 6)]) for name in ("a.weight", "b.weight")
    }
    base["b.weight"] = base["b.weight"].mT
    tuned = {"a.weight": base["a.weight"] + spike, "b.weight": base["b.weight"] + spike.mT}
    summary = (
        wanalyze.compare(save_checkpoint(tmp_path / "base", base), save_checkpoint(tmp_path / "tuned", tuned), top_k=1)
        .models[0]
        .summary
    )
    assert (summary.matrices_with_intruders_left, summary.matrices_with_intruders_right) == (1, 1)
    assert summary.matrices_with_intruders == 2


def test_what_could_not_be_counted_is_never_zero(tmp_path: Path) -> None:
    zero = {"a.weight": torch.zeros(4, 3)}  # no singular vectors, so nothing to be an intruder against
    folder = save_checkpoint(tmp_path / "base", zero)
    result = wanalyze.compare(folder, save_checkpoint(tmp_path / "new", {"a.weight": normal(4, 3)}))
    says = "new: no intruders can be counted, the base is zero where it was changed."
    assert wording.verdict(result) == says
    assert f"? {says}" in page(result)
    assert "<td>–</td><td>–</td></tr>" in page(result)
    for text in (summary(result, None), report_markdown(result), result._repr_html_()):
        assert "0 / 0" not in text
        assert "–" in text


def test_a_run_of_failures_shows_no_empty_charts_and_no_zeros(tmp_path: Path) -> None:
    base = {"l.0.q.weight": normal(3, 3), "norm.weight": normal(3)}
    folder = save_checkpoint(tmp_path / "base", base)
    bad = save_checkpoint(tmp_path / "bad", {name: tensor / 0 for name, tensor in base.items()})
    result = wanalyze.compare(folder, bad)
    text = page(result)
    assert "Spectra of the updates" not in text
    assert "<td>0, 0</td>" in text  # a vector that failed is not a frozen one
    assert "bad (full weights): nothing could be measured, 2 failed." in text
    assert "- `failed: bad l.0.q: " in report_markdown(result)


def test_a_huge_k_costs_no_more_than_the_vectors_there_are() -> None:
    result = made_up(7, 2)
    huge = result.model_copy(update={"settings": result.settings.model_copy(update={"top_k": 10**12})})
    huge._arrays = result.arrays
    assert "against k" in page(huge)
    assert len(figures.topk(huge).axes[0].lines[0].get_xdata()) == 10


def test_the_method_says_what_was_left_out_in_sentences() -> None:
    result = made_up(7, 1)
    selected = result.settings.model_copy(update={"only": ["*q_proj"], "skip": ["x"]})
    for settings, says in (
        (selected, "change them. Only *q_proj. Without x. A dash stands"),
        (result.settings, "change them. A dash stands"),
    ):
        text = re.sub(r"<[^>]*>", "", page(result.model_copy(update={"settings": settings})))
        assert says in " ".join(text.split())
