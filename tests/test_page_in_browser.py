"""The page as a reader meets it, in the system's Chromium: choose, walk, filter, sort, link, print, without script."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.made_up_runs import made_up
from wanalyze.report import page
from wanalyze.result import Result

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
DETAIL = "#module h3"


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of 60 matrices of 2 models."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(made_up(60, 2)), encoding="utf-8")
    return file.as_uri()


class Reader:
    """One tab; what it asked for and complained of is kept."""

    def __init__(self, browser: sync_api.Browser, address: str, **options: object) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
        self.tab = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(address)

    def text(self, selector: str) -> str:
        return self.tab.locator(selector).first.inner_text()

    def texts(self, selector: str) -> list[str]:
        return self.tab.locator(selector).all_inner_texts()

    def column(self, key: str) -> list[float]:
        """The numbers of a column of the table, from the top."""
        keys = self.tab.locator("#modules thead th").evaluate_all("heads => heads.map(head => head.dataset.k)")
        return [
            float(text.replace(",", ""))
            for text in self.texts(f"#modules tbody tr > :nth-child({keys.index(key) + 1})")
        ]


@pytest.fixture
def reader(browser: sync_api.Browser, address: str) -> Iterator[Reader]:
    reader = Reader(browser, address)
    yield reader
    reader.context.close()
    assert reader.complaints == []
    assert [request for request in reader.requests if request.partition("#")[0] != address] == []


def test_the_first_screen_answers(reader: Reader) -> None:
    for selector in (".says", "#where svg[data-model='0']:visible", "#where svg[data-model='1']:visible"):
        box = reader.tab.locator(selector).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, selector
        assert box["x"] + box["width"] <= 1200, selector


def test_what_the_script_draws_is_what_was_written_without_it(browser: sync_api.Browser, reader: Reader) -> None:
    plain = Reader(browser, reader.tab.url, java_script_enabled=False)
    assert reader.texts("#modules tbody tr") == plain.texts("#modules tbody tr")
    first = reader.text(DETAIL)
    other = reader.tab.locator("#modules tbody a").filter(has_not_text=first).first
    drawn = "#module tbody :is(path, polyline)"
    attributes = "all => all.map(e => (e.getAttribute('d') ?? e.getAttribute('points')))"
    written, numbers = plain.tab.locator(drawn).evaluate_all(attributes), plain.texts("#numbers tbody td")
    about = plain.text("#about")
    other.click()
    assert reader.text(DETAIL) != first
    assert reader.tab.locator(drawn).evaluate_all(attributes) != written
    assert reader.texts("#numbers tbody td") != numbers
    reader.tab.get_by_role("link", name=first, exact=True).first.click()
    assert reader.text(DETAIL) == first
    assert reader.text("#about") == about
    assert reader.texts("#numbers tbody td") == numbers
    again = reader.tab.locator(drawn).evaluate_all(attributes)
    for mine, theirs in zip(again, written, strict=True):
        assert re.sub(r"[\d.]+", "", mine) == re.sub(r"[\d.]+", "", theirs)
        places = zip(re.findall(r"[\d.]+", mine), re.findall(r"[\d.]+", theirs), strict=True)
        assert all(abs(float(one) - float(two)) < 0.11 for one, two in places)
    plain.context.close()


def test_the_chooser_changes_the_map(reader: Reader) -> None:
    seen = set()
    for pick in reader.tab.locator("input[name=metric]").all():
        pick.check()
        heads = [head for head in reader.texts("#where .map h3:visible")]
        assert len(heads) == 1
        seen.add(heads[0])
        assert f"metric={pick.get_attribute('value')}" in reader.tab.url
    assert len(seen) == reader.tab.locator("input[name=metric]").count() == 8


def test_the_map_is_one_stop_and_arrows_walk_it(reader: Reader) -> None:
    tab = reader.tab
    assert tab.locator("#where svg[tabindex='0']:visible").count() == 1
    tab.locator("#where svg[tabindex='0']:visible").focus()
    assert reader.text("#tip").startswith("model-0, layer 0 q_proj: ")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    assert reader.text("#tip").startswith("model-0, layer 1 k_proj: ")
    assert "percentile" in reader.text("#tip")
    for _ in range(6):
        tab.keyboard.press("ArrowDown")
    assert reader.text("#tip").startswith("model-1, layer 1 q_proj: ")
    tab.keyboard.press("ArrowUp")
    assert reader.text("#tip").startswith("model-0, layer 1 down_proj: ")
    tab.keyboard.press("Enter")
    assert reader.text(DETAIL) == "model.layers.1.mlp.down_proj"
    assert "m=model.layers.1.mlp.down_proj" in tab.url


def test_the_pointer_tells_and_opens(reader: Reader) -> None:
    strip = reader.tab.locator("#where svg[data-model='1']:visible")
    box = strip.bounding_box()
    assert box is not None
    pitch = 28
    left = box["width"] - 44 - 9 * pitch  # nine layers, and the medians behind them
    strip.hover(position={"x": left + 4.5 * pitch, "y": 16 + 1.5 * pitch})
    assert reader.text("#tip").startswith("model-1, layer 4 k_proj: ")
    strip.click(position={"x": left + 4.5 * pitch, "y": 16 + 1.5 * pitch})
    assert reader.text(DETAIL) == "model.layers.4.self_attn.k_proj"
    reader.tab.locator("h1").hover()
    assert not reader.tab.locator("#tip").is_visible()


def test_the_table_sorts_filters_and_shows_all(reader: Reader) -> None:
    tab = reader.tab
    ranks = reader.column("intruders_left")
    assert ranks == sorted(ranks, reverse=True)
    head = tab.locator("th[data-k=stable_rank] button")
    head.click()
    assert tab.locator("th[data-k=stable_rank]").get_attribute("aria-sort") == "descending"
    falling = reader.column("stable_rank")
    assert falling == sorted(falling, reverse=True)
    head.click()
    rising = reader.column("stable_rank")
    assert rising == sorted(rising)
    assert rising[0] < falling[-1] or len(rising) == 120
    assert tab.locator("#modules tbody tr").count() == 50
    tab.locator("#all").click()
    assert tab.locator("#modules tbody tr").count() == 120
    tab.locator("#filter").fill("K_PROJ")
    assert {name.rpartition(".")[2] for name in reader.texts("#modules tbody th")} == {"k_proj"}
    assert reader.text("#count") == "18 of 18 rows"
    tab.locator("#filter").fill("model-1")
    assert reader.text("#count") == "60 of 60 rows"


def test_the_rows_are_copied_as_csv(reader: Reader) -> None:
    reader.tab.locator("#filter").fill("layers.3.")
    reader.tab.locator("#copy").click()
    header, *rows = reader.tab.locator("#csv").input_value().splitlines()
    assert header.startswith("module,model,shape,relative_norm,")
    assert len(rows) == 14
    assert all(row.startswith("model.layers.3.") and len(row.split(",")) == len(header.split(",")) for row in rows)


def test_a_link_restores_what_was_seen(browser: sync_api.Browser, reader: Reader) -> None:
    tab = reader.tab
    tab.locator("#pick-relative_norm").check()
    tab.locator("#filter").fill("up_proj")
    tab.locator("th[data-k=effective_rank] button").click()
    tab.locator("#modules tbody a").last.click()
    other = Reader(browser, tab.url)
    for selector in (DETAIL, "#count", "#where .map h3:visible"):
        assert other.text(selector) == reader.text(selector)
    assert other.tab.locator("#filter").input_value() == "up_proj"
    assert other.texts("#modules tbody tr") == reader.texts("#modules tbody tr")
    assert other.tab.evaluate("scrollY") > 300
    tab.go_back()
    assert reader.text(DETAIL) != other.text(DETAIL) or "m=" not in tab.url
    other.context.close()


def test_without_script_all_is_there(browser: sync_api.Browser, address: str) -> None:
    reader = Reader(browser, address, java_script_enabled=False)
    assert reader.tab.locator("#modules tbody tr").count() == 50
    assert reader.tab.locator("#module svg").count() > 10
    assert reader.tab.get_by_text("PEFT takes them").first.is_visible()
    assert not reader.tab.locator("#filter").is_visible()
    assert reader.tab.locator("#where .map:visible").count() == 1
    reader.tab.locator("#pick-changed_fraction").check()  # the stylesheet chooses
    assert reader.texts("#where .map h3:visible") == ["share of entries changed"]
    reader.context.close()


def test_dark_is_the_readers_choice(browser: sync_api.Browser, address: str) -> None:
    paper = {}
    for scheme in ("light", "dark"):
        reader = Reader(browser, address, color_scheme=scheme)
        paper[scheme] = reader.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert _contrast(reader, ".says") >= 4.5
        assert _contrast(reader, ".soft") >= 4.5
        reader.context.close()
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 23, 26)"}


def _contrast(reader: Reader, selector: str) -> float:
    """WCAG's ratio of a text and the page behind it."""
    ink = reader.tab.locator(selector).first.evaluate("e => getComputedStyle(e).color")
    paper = reader.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    light, dark = sorted((_luminance(colour) for colour in (ink, paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_it_prints_with_every_map(reader: Reader, tmp_path: Path) -> None:
    reader.tab.emulate_media(media="print")
    assert reader.tab.locator("#where .map:visible").count() == 8
    assert not reader.tab.locator("#filter").is_visible()
    assert not reader.tab.get_by_text("PEFT takes them").first.is_visible()
    reader.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert reader.tab.get_by_text("PEFT takes them").first.is_visible()
    reader.tab.set_viewport_size({"width": 760, "height": 1000})  # about A4
    assert reader.tab.evaluate("document.documentElement.scrollWidth") <= 760
    pdf = reader.tab.pdf(path=tmp_path / "page.pdf")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000


def test_a_phone_scrolls_no_page_sideways(browser: sync_api.Browser, address: str) -> None:
    reader = Reader(browser, address)
    reader.tab.set_viewport_size({"width": 390, "height": 844})
    assert reader.tab.evaluate("document.documentElement.scrollWidth") <= 390
    reader.context.close()


def test_a_module_that_did_not_fit_shows_its_numbers_and_says_so(browser: sync_api.Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(made_up(224, 2)), encoding="utf-8")
    reader = Reader(browser, file.as_uri())
    assert not reader.tab.locator("#folded").is_visible()
    reader.tab.locator("th[data-k=relative_norm] button").click()
    reader.tab.locator("th[data-k=relative_norm] button").click()  # those that moved least
    reader.tab.locator("#modules tbody a").first.click()
    assert reader.tab.locator("#folded").is_visible()
    numbers = reader.texts("#numbers tbody td:nth-child(2)")
    assert "left out" in numbers
    assert any(re.match(r"\d", number) for number in numbers)
    assert reader.complaints == []
    reader.context.close()


def test_an_empty_run_breaks_nothing(browser: sync_api.Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(made_up(0, 1)), encoding="utf-8")
    reader = Reader(browser, file.as_uri())
    assert reader.text(".says").startswith("?")
    reader.tab.locator("#filter").fill("x")
    assert reader.text("#count") == "0 of 0 rows"
    assert reader.complaints == []
    reader.context.close()


def test_hostile_names_run_nothing(browser: sync_api.Browser, hostile: Result, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(hostile), encoding="utf-8")
    reader = Reader(browser, file.as_uri())
    reader.tab.on("dialog", lambda dialog: reader.complaints.append(dialog.message))
    for link in reader.tab.locator("#modules tbody a").all():
        name = link.inner_text()
        link.click()
        assert reader.text(DETAIL) == name
        assert reader.tab.locator("img, iframe").count() == 0
    reader.tab.locator("#copy").click()
    names = [line[0] for line in csv.reader(reader.tab.locator("#csv").input_value().splitlines())]
    assert not [name for name in names if name.startswith(("=", "+", "-", "@"))]
    assert len(names) == 9
    assert reader.complaints == []
    assert len(reader.requests) == 1
    reader.context.close()
