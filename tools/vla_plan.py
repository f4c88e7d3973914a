"""Writes docs/reference/vla_plan.md from `lwd.learner.plan`.

Run with `python -m tools.vla_plan`; `--check` only says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lwd.learner.plan.page import page

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("docs/reference/vla_plan.md")


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="do not write; exit 1 if the page is out of date"
    )
    path, content = ROOT / PAGE, page()
    if parser.parse_args().check:
        same = path.exists() and path.read_text(encoding="utf-8") == content
        print(f"{PAGE} is {'up to date' if same else 'out of date: run python -m tools.vla_plan'}")
        return 0 if same else 1
    path.write_text(content, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
