"""Every command that README and docs show is one that lwd's own command line reads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lwd.cli import COMMANDS, parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^[ ]*```\w*\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
# What may stand before `lwd` in a line: a prompt, variables, another user, a folder, a container.
SHOWN = re.compile(
    r"^\s*(?:docker compose .*? run .*? learner |"
    r"(?:[\w-]+\$ )?(?:[A-Z_]+=\S+ )*(?:sudo (?:-E )?-u lwd )?(?:docker run .* )?(?:/opt/lwd/bin/)?lwd )(.+)$"
)


def shown(page: Path) -> list[str]:
    """The arguments of each `lwd` in the page's code blocks."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [found[1] for line in lines if (found := SHOWN.match(line))]


def in_the_text(page: Path) -> list[str]:
    """What follows `lwd` between backticks in the page's sentences."""
    return re.findall(r"`lwd ([^`\n]+)`", BLOCK.sub("", page.read_text(encoding="utf-8")))


def test_commands_are_found() -> None:
    assert len([one for page in PAGES for one in shown(page)]) > 40
    assert "fleet revoke arm-07 --out runs/fleet" in in_the_text(ROOT / "docs/how-to/run_a_fleet.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_command_line_reads_what_the_page_shows(page: Path) -> None:
    refused: list[str] = []
    for arguments in shown(page):
        try:
            parse(shlex.split(arguments, comments=True))
        except SystemExit:
            refused.append(arguments)
    assert refused == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_command_that_a_sentence_names_exists(page: Path) -> None:
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    for arguments in in_the_text(page):
        first, *rest = arguments.split()
        if first in groups and rest:
            assert f"{first} {rest[0]}" in COMMANDS, arguments
        else:
            assert first in groups or first in COMMANDS, arguments
