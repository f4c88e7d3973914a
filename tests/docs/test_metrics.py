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
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert returned()
    assert set(rows) == returned()
