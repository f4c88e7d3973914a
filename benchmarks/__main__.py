"""Runs the benchmarks, each in a process of its own, and prints them against the last committed numbers.

    python -m benchmarks             all of them
    python -m benchmarks learner     benchmarks/bench_learner.py only
    python -m benchmarks scale --set episodes=10000     with another argument of its `main`

A benchmark is a module `bench_<name>.py` with `main() -> dict[str, float]`, or one that returns `{"numbers": ..., "facts":
...}` with whatever else belongs to them. A key ends in its unit: `_per_s` counts more as
better, `_s`, `_ms`, `_mb`, `_gb` and `_share` count less as better; other numbers are facts, such as a batch size.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lwd.errors import UnknownNameError
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("benchmarks/results")
LESS_IS_BETTER = ("_s", "_ms", "_us", "_mb", "_gb", "_mib", "_gib", "_share")
NOISE = 0.05
"""Ratios within this of 1 are not called better or worse."""

_CHILD = """
import importlib, json, sys
found = importlib.import_module(sys.argv[1]).main(**json.loads(sys.argv[3]))
open(sys.argv[2], "w", encoding="utf-8").write(json.dumps(found, allow_nan=False))
"""


@dataclass(frozen=True)
class Measured:
    """What one run of a benchmark found.

    Attributes:
        numbers: by name.
        load: the machine's load average of one minute when it began and when it ended: what else it was busy with.
        facts: what else belongs to the numbers.
        settings: arguments of `main` that were not its defaults.
    """

    numbers: Mapping[str, float]
    load: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    settings: Mapping[str, int] = field(default_factory=dict[str, int])


def names(root: Path = ROOT) -> list[str]:
    """The benchmarks that exist."""
    return sorted(path.stem.removeprefix("bench_") for path in (root / "benchmarks").glob("bench_*.py"))


def measure(name: str, settings: Mapping[str, int] | None = None) -> Measured:
    """Run one benchmark in a fresh process, so that no other one has warmed or filled anything."""
    settings = settings or {}
    load = {"start": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "numbers.json"
        command = [sys.executable, "-c", _CHILD, f"benchmarks.bench_{name}", str(answer)]
        command.append(json.dumps(dict(settings)))
        subprocess.run(command, cwd=ROOT, check=True)
        found = json.loads(answer.read_text(encoding="utf-8"))
    load["end"] = os.getloadavg()[0]
    nested = isinstance(found.get("numbers"), dict)
    return Measured(
        found["numbers"] if nested else found, load, found.get("facts", {}) if nested else {}, settings
    )


def committed(name: str) -> dict[str, object]:
    """The last committed file of this benchmark; empty if there is none."""
    where = f"HEAD:{(RESULTS / f'{name}.json').as_posix()}"
    done = subprocess.run(
        ["git", "-C", str(ROOT), "show", where], capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout) if done.returncode == 0 else {}


def verdict(key: str, new: float, old: float | None) -> str:
    """How a number stands to the committed one: its ratio, and better or worse where the key says which way is up."""
    if old is None:
        return "new"
    if not old:
        return "same" if new == old else f"was {old:g}"
    ratio = new / old
    text = f"x {ratio:.2f}"
    faster = key.endswith("_per_s")
    if not (faster or key.endswith(LESS_IS_BETTER)) or abs(ratio - 1) <= NOISE:
        return text
    return f"{text} {'better' if (ratio > 1) == faster else 'worse'}"


def comparison(name: str, numbers: Mapping[str, float], before: Mapping[str, object]) -> Table:
    """The table of one benchmark."""
    old = before.get("numbers")
    old_numbers: Mapping[str, float] = old if isinstance(old, dict) else {}
    against = (
        f"against {before.get('commit', '?')}, {before.get('date', '?')}"
        if before
        else "nothing committed yet"
    )
    table = Table("number", title=f"{name}  ({against})", title_justify="left")
    for column in ("now", "committed", "ratio"):
        table.add_column(column, justify="right")
    for key, value in numbers.items():
        committed_value = old_numbers.get(key)
        shown = "-" if committed_value is None else f"{committed_value:.4g}"
        table.add_row(key, f"{value:.4g}", shown, verdict(key, value, committed_value))
    return table


def write(name: str, measured: Measured) -> Path:
    """Write the numbers with all that is needed to read them later."""
    path = ROOT / RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": current_commit(ROOT),
        "command": " ".join(
            [
                f"python -m benchmarks {name}",
                *(f"--set {key}={value}" for key, value in measured.settings.items()),
            ]
        ),
        "hardware": describe_hardware(),
        "software": describe_software(),
        "load": dict(measured.load),
        "numbers": dict(measured.numbers),
        **({"facts": dict(measured.facts)} if measured.facts else {}),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _settings(words: Sequence[str]) -> dict[str, int]:
    """`name=number`, as `--set` takes it."""
    found: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name.isidentifier() or not value.isdecimal():
            raise SystemExit(f"--set {word}: expected NAME=NUMBER, such as episodes=10000.")
        found[name] = int(value)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument(
        "names", nargs="*", help=f"of: {', '.join(names()) or 'none yet'}; all if none is given"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="an argument of the benchmark's main",
    )
    options = parser.parse_args(arguments)
    chosen, settings = options.names or names(), _settings(options.set)
    for name in chosen:
        if name not in names():
            raise SystemExit(str(UnknownNameError("benchmark", name, names())))
    console = Console()
    failed: list[str] = []
    for name in chosen:
        console.rule(f"{name}", align="left")
        before = committed(name)
        try:
            measured = measure(name, settings)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            console.print(
                f"[bold red]{name} failed[/] with exit status {error.returncode}; its file was not touched."
            )
            continue
        console.print(comparison(name, measured.numbers, before))
        console.print(f"wrote {write(name, measured).relative_to(ROOT)}", style="dim")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
