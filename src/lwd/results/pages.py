"""The committed tables: `results/summary.json`, pages of the documentation, a part of the README; all from run files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lwd.errors import ConfigError
from lwd.evaluate.table import between
from lwd.results.board import Board, boards, read_board
from lwd.results.conditions import conditions_table
from lwd.results.differences import differences_table
from lwd.results.markdown import PAGE_HEAD, benchmark_page, conditions_part
from lwd.results.plan import SEARCH
from lwd.results.readme import readme_part
from lwd.results.scores import AVERAGES, Measured, RowScore
from lwd.results.search_page import search_page

SUMMARY, PAGE, README = Path("results/summary.json"), Path("docs/reference/results.md"), Path("README.md")
SEARCH_PAGE = Path("docs/reference/search.md")
WHAT_PAYS = Path("docs/explanation/what_pays.md")


def pages(found: Sequence[Board], search: Board, root: Path) -> dict[Path, str]:
    """Path below the repository's root -> content, of everything that is made from run files.

    Raises:
        ConfigError: `root` is no checkout, or a page that holds a table lacks its markers.
    """

    def with_table(path: Path, name: str, table: str) -> str:
        if not (root / path).exists():
            raise ConfigError(f"{root.absolute()} has no {path}. Run this in the root of a checkout.")
        return between((root / path).read_text(encoding="utf-8"), name, table, str(path))

    summary = {
        board.benchmark: {row: _summary(score) for row, score in board.scores.items()} for board in found
    }
    return {
        SUMMARY: json.dumps(summary, indent=2) + "\n",
        PAGE: "\n".join([PAGE_HEAD, *map(benchmark_page, found), conditions_part(found)]),
        SEARCH_PAGE: search_page(search),
        WHAT_PAYS: between(
            with_table(WHAT_PAYS, "differences", differences_table(found)),
            "conditions",
            conditions_table(found),
            str(WHAT_PAYS),
        ),
        README: with_table(README, "results", readme_part(found)),
    }


def _summary(score: RowScore) -> dict[str, Any]:
    def line(found: Measured) -> dict[str, float]:
        return {
            "success": _rounded(found.success.value),
            "low": _rounded(found.success.low),
            "high": _rounded(found.success.high),
            "paper_score": _rounded(found.paper_score.value),
            "cycle_time_s": _rounded(found.cycle_time_s.value),
        }

    return {
        **{name: line(score.means[name]) if name in score.means else None for name in AVERAGES},
        "tasks": {task: line(found) for task, found in score.means.items() if task not in AVERAGES},
        "cycle_time_s": _rounded(score.means["average"].cycle_time_s.value),
        "robot_hours": _rounded(score.robot_hours),
        "interventions": _rounded(score.interventions),
        "operator_minutes": _rounded(score.operator_minutes),
        "seeds": len(score.seeds),
        "episodes": score.episodes,
    }


def _rounded(value: float) -> float:
    """Coarser than the last digits, which differ between machines."""
    return round(value, 5)


def write_pages(root: Path) -> list[Path]:
    """Write all pages below the repository's root; those that changed. Raises as `pages` does."""
    made = pages(boards(root), read_board(root, SEARCH), root)
    changed = [
        path
        for path, text in made.items()
        if not (root / path).exists() or (root / path).read_text(encoding="utf-8") != text
    ]
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(made[path], encoding="utf-8")
    return changed
