"""The page: complete without script, inert whatever the names are, its words from the numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import wanalyze
from tests.conftest import normal, save_checkpoint
from wanalyze import wording
from wanalyze.report import page
from wanalyze.report.scale import counts, logarithmic
from wanalyze.result import Result
from wanalyze.terminal import modules_table, summary

HOSTILE = (
    '"></title><script>alert(1)</script>.0.x.weight',
    "<img src=x onerror=alert(1)>.1.x.weight",
    "{{ 7 * 7 }}.2.x.weight",
    "\x1b[31mred\x07.3.x.weight",
    "\u202eevil\u2066.4.x.weight",
    "=cmd|' /C calc'!A0.5.x.weight",
    f"{'long' * 2500}.6.x.weight",
    "line\nbreak.7.x.weight",
)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("hostile")
    base = {name: normal(6, 5, seed=i) for i, name in enumerate(HOSTILE)}
    tuned = {name: tensor + 0.1 * normal(6, 5, seed=77) for name, tensor in base.items()}
    save_checkpoint(folder / "base", base)
    return wanalyze.compare(folder / "base", save_checkpoint(folder / "tuned", tuned), output=folder / "run")


def test_hostile_names_are_inert(hostile: Result) -> None:
    text = page(hostile)
    found = Page(text)
    assert not {"script", "img", "iframe", "object", "link"} & {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert "49" not in re.findall(r">(\d+)\.2\.x<", text)
    assert "&lt;script&gt;" in text


def test_hostile_names_do_not_steer_a_terminal(hostile: Result) -> None:
    text = summary(hostile, None) + modules_table(hostile.modules)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert max(map(len, text.splitlines())) < 200


def test_the_page_asks_nobody_for_anything(trained: Result) -> None:
    text = page(trained)
    found = Page(text)
    assert not [value for _, attributes in found.tags for key, value in attributes.items() if key in ("src", "href")]
    assert "url(http" not in text
    assert "@import" not in text
    policy = next(attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not [attributes for _, attributes in found.tags if "style" in attributes]


def test_the_policy_allows_exactly_the_style_of_the_page(trained: Result) -> None:
    import base64
    import hashlib

    text = page(trained)
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"sha256-{digest}" in text


def test_the_page_has_the_bones_a_reader_relies_on(trained: Result) -> None:
    tags = Page(page(trained)).tags
    assert ("html", {"lang": "en"}) in tags
    assert sum(tag == "h1" for tag, _ in tags) == 1
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    assert sum(tag == "figure" for tag, _ in tags) == 4 * len(trained.models)
    assert len(page(trained)) < 300_000


def test_the_verdict_is_the_table_in_words(trained: Result) -> None:
    sentence = wording.verdict(trained)
    for model in trained.models:
        s = model.summary
        hit = s.matrices_with_intruders
        part = f"{model.label} ({hit} of {s.measured} matrices)"
        assert (part in sentence) == (hit > 0)
        assert (model.label in sentence.partition("none in")[2]) == (hit == 0)
        assert wording.number(s.median_effective_rank) in wording.evidence(trained)


def test_the_page_is_the_same_every_time(trained: Result, trained_run: Path) -> None:
    assert page(trained) == page(trained) == (trained_run / "report.html").read_text()


def test_one_scale_serves_all_models_and_loses_no_value() -> None:
    scale = logarithmic([0.01, 0.1, 3.0], "ratio")
    assert len(scale.legend) == len(scale.colours) == len(scale.limits) + 1
    assert scale.colour(0.01) == scale.colours[0]
    assert scale.colour(3.0) == scale.colours[-1]
    assert logarithmic([2.0, 2.0], "ratio").legend[0][1] == "all alike"
    assert logarithmic([], "ratio").colour(1.0)
    for most in (1, 2, 3, 10, 64):
        steps = counts(most, "of the top k")
        assert steps.colour(0) != steps.colour(1)
        assert len(steps.legend) == len(steps.limits) + 1


def test_a_forged_grid_stays_small(tmp_path: Path) -> None:
    base = {f"m.{i}.kind{i}.weight": normal(2, 2, seed=i) for i in range(400)}
    tuned = {name: 2 * tensor for name, tensor in base.items()}
    result = wanalyze.compare(save_checkpoint(tmp_path / "base", base), save_checkpoint(tmp_path / "tuned", tuned))
    assert len(page(result)) < 1_000_000
    assert "Drawn: 40 of 400 kinds and 256 of 400 layers" in page(result)


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
