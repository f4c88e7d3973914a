"""The threat model names tests; each must exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_each_claim_names_a_test_that_exists():
    page = (ROOT / "docs/explanation/threat_model.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 15
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in named if f"def {name}(" not in written} == set()
