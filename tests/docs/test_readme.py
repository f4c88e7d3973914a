"""The README's numbers are the committed ones, and its links and folders exist."""

from __future__ import annotations

import re

import pytest

from tools import make_table

README = make_table.ROOT / make_table.README


def test_table_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == make_table.fill(text, make_table.section(make_table.summaries())), "run `make table`"


def test_links_exist() -> None:
    links = re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"#]+)", README.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (make_table.ROOT / link).exists()]
    assert links
    assert not missing


def test_content_replaces_what_stood_between_the_markers() -> None:
    text = f"a\n{make_table.BEGIN}\nold\n{make_table.END}\nb\n"
    once = make_table.fill(text, "new\n")
    assert once == f"a\n{make_table.BEGIN}\n\nnew\n\n{make_table.END}\nb\n"
    assert make_table.fill(once, "new\n") == once


def test_missing_marker_is_refused() -> None:
    with pytest.raises(SystemExit, match="expected one"):
        make_table.fill("no markers", "new")
