"""The page of metrics lists what the learner returns, no more and no less."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("learner", "baselines")
NAME = re.compile(r"(?:value|critic|policy)/[a-z_]+")


def returned() -> set[str]:
    """Keys of the metric dictionaries that src/lwd/learner and src/lwd/baselines build."""
    found: set[str] = set()
    for path in sorted(path for part in PARTS for path in (ROOT / "src/lwd" / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            keys = node.keys if isinstance(node, ast.Dict) else []
            names = [key.value for key in keys if isinstance(key, ast.Constant)]
            found |= {name for name in names if isinstance(name, str) and NAME.fullmatch(name)}
    return found


def test_page_lists_what_the_learner_returns() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    rows = [
        name for name in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) if not name.startswith("lwd_")
    ]
    assert len(rows) == len(set(rows))
    assert returned()
    assert set(rows) == returned()


def counted() -> tuple[set[str], set[str]]:
    """What src/lwd/fleet observes, counts and sets by name; and what its processes may say besides."""
    measured: set[str] = set()
    said: set[str] = set()
    for path in sorted((ROOT / "src/lwd/fleet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            first = node.args[0] if node.args else None
            named = isinstance(first, ast.Constant) and re.fullmatch(r"[a-z0-9_]+", str(first.value))
            if node.func.attr in ("gauge", "count", "observe") and named:
                measured.add(f"lwd_{first.value}")
            if node.func.attr == "say":
                said |= {f"lwd_{keyword.arg}" for keyword in node.keywords}
    return measured, said


def test_page_lists_what_a_running_fleet_shows() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(lwd_[^`]+)` \|", page, re.MULTILINE)
    measured, said = counted()
    assert len(rows) == len(set(rows))
    assert measured
    assert measured <= set(rows) <= measured | said
