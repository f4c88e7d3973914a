"""Every equation of the paper that we implement has code and a test, and the page that says so is up to date."""

from __future__ import annotations

import functools

import pytest

from tools import paper_map

KEYS = [("eq", number) for number in paper_map.EQUATIONS] + [
    ("algorithm", number) for number in paper_map.ALGORITHMS
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Eq 12, 20, 21 (the C51 projection)", {("eq", 12), ("eq", 20), ("eq", 21)}),
        ("Eq 8-10.", {("eq", 8), ("eq", 9), ("eq", 10)}),
        ("Eq 2 and 19; Algorithm 1, 2", {("eq", 2), ("eq", 19), ("algorithm", 1), ("algorithm", 2)}),
        ("Eqs. 17, 18, and 24", {("eq", 17), ("eq", 18), ("eq", 24)}),
        ("Section 5, path of Eq 9.", {("eq", 9)}),
        ("learning rate 2e-5, Section 4, equal to 3", set()),
    ],
)
def test_citations_are_read(text: str, expected: set[tuple[str, int]]) -> None:
    assert paper_map.cited(text) == expected


code = functools.cache(paper_map.code)
exercised = functools.cache(paper_map.exercised)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key[0]}{key[1]}")
def test_cited_in_code(key: tuple[str, int]) -> None:
    assert code().get(key), f"no docstring of src/lwd has a `Paper:` line that names {key}"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key[0]}{key[1]}")
def test_cited_in_a_test(key: tuple[str, int]) -> None:
    assert exercised().get(key), f"no file of tests/paper names {key}"


def test_page_is_up_to_date() -> None:
    page = (paper_map.ROOT / paper_map.PAGE).read_text(encoding="utf-8")
    assert page == paper_map.page(), "run `make fix` (python -m tools.paper_map)"


def test_what_differs_is_read_off_its_page():
    points = paper_map.different()
    assert points["eq", 10] == [3]
    assert points["eq", 18] == [16, 17]
    assert {key for key in points if key not in KEYS} == set()
