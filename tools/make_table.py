"""Writes the demo's table, into the README without and into its page with every seed, from results/demo/*/summary.json alone.

Run with `python -m tools.make_table`; `--check` only says whether the README is up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lwd.evaluate.summary import Summary, read_summary
from lwd.evaluate.table import between, seeds_markdown, table_markdown

ROOT = Path(__file__).resolve().parents[1]
README, PAGE = Path("README.md"), Path("docs/reference/demo.md")
RESULTS = Path("results/demo")
EMPTY = "No run is committed yet; `make results-demo` writes `results/demo/*/summary.json` and this table.\n"


def summaries(root: Path = ROOT) -> list[Summary]:
    """The committed runs."""
    return [read_summary(path) for path in sorted((root / RESULTS).glob("*/summary.json"))]


def _measured_on(runs: Sequence[Summary]) -> str:
    machines = sorted(
        {f"{run.hardware.get('processor', '?')}, {run.hardware.get('cores', '?')} cores" for run in runs}
    )
    minutes = ", ".join(f"{run.wall_s / 60:.1f} (seed {run.seed})" for run in runs)
    commits = sorted({run.commit for run in runs})
    jax = sorted({run.software.get("jax", "?") for run in runs})
    return (
        f"Measured on {'; '.join(machines)}; minutes per run: {minutes}; jax {', '.join(jax)}; "
        f"commit {', '.join(f'`{commit}`' for commit in commits)}. Command: `{runs[0].command}`.\n"
    )


def section(runs: Sequence[Summary], *, each: bool = False) -> str:
    """What stands between the markers; with every seed's rows if `each`."""
    if not runs:
        return EMPTY
    table = table_markdown(runs[0]) if len(runs) == 1 else seeds_markdown(runs, each=each)
    return f"{table}\n{_measured_on(runs)}"


def fill(text: str, content: str, where: Path = README) -> str:
    """The text with `content` between its markers."""
    return between(text, "demo", content, str(where))


def main() -> int:
    """Write or check README and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="do not write; exit 1 if one of them is out of date"
    )
    arguments = parser.parse_args()
    runs, current = summaries(), True
    for path, each in ((README, False), (PAGE, True)):
        old = (ROOT / path).read_text(encoding="utf-8")
        new = fill(old, section(runs, each=each), path)
        current = current and old == new
        if not arguments.check:
            (ROOT / path).write_text(new, encoding="utf-8")
            print(f"wrote the table of {len(runs)} runs into {path}")
    return 0 if current or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
