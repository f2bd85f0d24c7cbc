"""How a weighted sum is written, and what it leaves as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanalyze.checkpoints import HubLocation, Mix, parse_reference
from wanalyze.checkpoints.mix import Term, terms_of, written
from wanalyze.errors import UsageError

TERMS = {
    "0.7*a+0.3*b": [(0.7, "a"), (0.3, "b")],
    "0.7*a-0.3*b": [(0.7, "a"), (-0.3, "b")],
    "0.7*a+-0.3*b": [(0.7, "a"), (-0.3, "b")],
    "-0.7*a": [(-0.7, "a")],
    "+.5*a + 5.*b - 1e-3*c": [(0.5, "a"), (5.0, "b"), (-0.001, "c")],
    "a-0.5*b": [(1.0, "a"), (-0.5, "b")],
    "runs/lora+rs/r-8+2*x-y": [(1.0, "runs/lora+rs/r-8"), (2.0, "x-y")],
    "2*hf:org/a@v1+x+1E2*hf:org/b@refs/pr/3/unet": [(2.0, "hf:org/a@v1+x"), (100.0, "hf:org/b@refs/pr/3/unet")],
    "0*a+00.50*b": [(0.0, "a"), (0.5, "b")],
    "0.5*0.5*a": [(0.5, "0.5*a")],
    "a+b": [],
    "runs/*": [],
    "a-r8*b": [],
    "0.7": [],
    "": [],
}


@pytest.mark.parametrize(("text", "terms"), TERMS.items(), ids=TERMS)
def test_the_terms_of_a_text(text: str, terms: list[tuple[float, str]]) -> None:
    assert terms_of(text) == terms


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.from_regex(r"(hf:)?[a-z][a-z0-9._+@/=-]{0,20}[a-z]", fullmatch=True),
        ),
        min_size=1,
        max_size=32,
    )
)
def test_what_is_written_is_read_again(terms: list[tuple[float, str]]) -> None:
    found = terms_of(written(terms))
    assert found == terms
    assert [math.copysign(1, weight) for weight, _ in found] == [math.copysign(1, weight) for weight, _ in terms]


@given(st.text(alphabet="0.5e+-*a/ nif", max_size=60))
def test_any_text_is_terms_or_a_refusal(text: str) -> None:
    try:
        terms = terms_of(text)
    except UsageError:
        return
    assert all(math.isfinite(weight) and name for weight, name in terms)


def test_a_long_text_takes_no_time() -> None:
    for text in ("+" * 10**5, "+ " * 10**5, "+1" * 10**5, "9" * 10**6, "+" + " " * 10**6, "+1e" * 10**5):
        assert terms_of(text) == []


def test_a_reference_with_weights_is_a_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora+rs").mkdir()
    found = parse_reference("mine=0.7*lora+rs+0.3*hf:org/b@v1-1*org/c")
    places = (Path("lora+rs"), HubLocation("org/b", "v1"), HubLocation("org/c"))
    assert found.label == "mine"
    assert found.location == Mix(tuple(map(Term, (0.7, 0.3, -1.0), places)))
    assert str(found.location) == "0.7*lora+rs+0.3*hf:org/b@v1-1*hf:org/c"


LABELS = {
    "0.7*runs/a+0.3*hf:org/b@v1": "0.7_a+0.3_b",
    "-0.5*a": "0.5_a",
    "hf:org/a-0.5*b": "1_a-0.5_b",
    "0.7*runs/r=8+0.3*b": "0.7_r-8+0.3_b",
    "mix=0.7*a": "mix",
    "+".join(["0.1*some-long-name"] * 9): "0.1_some-long-name+0.1_some-long-name+0.1_some-long-name+0.1_som",
}


@pytest.mark.parametrize(("text", "label"), LABELS.items(), ids=LABELS)
def test_the_label_of_a_sum(text: str, label: str) -> None:
    assert parse_reference(text).label == label


@pytest.mark.parametrize("name", ["0.7*a+0.3*b", "x=0.5*a", "a-1*b", "a+b", "0.5*a"])
def test_a_path_that_exists_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert parse_reference(name).location == Path(name)
    assert parse_reference(f"label={name}").location == Path(name)
    assert parse_reference(str(tmp_path / name)).location == tmp_path / name


@pytest.mark.parametrize("text", ["runs/*", "a+b", "org/name+x/y", "hf:org/name/sub+dir", "a-b*c"])
def test_without_a_weight_nothing_is_new(text: str) -> None:
    assert not isinstance(parse_reference(text).location, Mix)
