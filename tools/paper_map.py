"""Writes docs/reference/paper_map.md: equation of the paper -> function -> test, read from `Paper:` lines in docstrings.

Run with `python -m tools.paper_map`; `--check` only says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("docs/reference/paper_map.md")

EQUATIONS = {
    2: "chunk reward",
    8: "the policy aimed at: reference tilted by exp(Q / lambda)",
    9: "adjoint matching loss along a path",
    10: "terminal adjoint from the critic's action gradient",
    11: "categorical distribution of replay-action values",
    12: "its loss: cross entropy to the projected target value",
    13: "the value read off as a quantile",
    14: "critic target",
    15: "critic loss",
    16: "Proposition 1: fit the distribution, then read the statistic",
    17: "normalised entropy",
    18: "adaptive quantile level",
    19: "n-step critic target over chunks",
    20: "Eq 12 for a categorical value (appendix)",
    21: "Eq 12 for a categorical value (appendix)",
    22: "Eq 13 for a categorical value (appendix)",
    23: "Eq 13 for a categorical value (appendix)",
    24: "Eq 17 for a categorical value (appendix)",
}
ALGORITHMS = {1: "the three stages", 2: "one learner step"}

DIFFERS = "explanation/differs_from_the_paper.md"

_NUMBER = r"\d{1,2}(?!\d|\.\d)"
_LIST = rf"{_NUMBER}(?:\s*[-–]\s*{_NUMBER})?"
_CITED = re.compile(
    rf"\b(Eqs?|Equations?|Algorithms?)\.?\s*({_LIST}(?:\s*(?:,\s*and|,|and|&|/)\s*{_LIST})*)", re.I
)
_NUMBERS = re.compile(r"(\d{1,2})(?:\s*[-–]\s*(\d{1,2}))?")
_PAPER = re.compile(r"\bPaper:(.*?)(?=\n\s*\n|\n\s*[A-Z]\w+:|\Z)", re.S)
_DIFFERS = re.compile(r"^(\d+)\. \*\*[^*]+\*\* \(([^)]*)\)", re.M)
_FILE_NAME = re.compile(r"(?:^|_)(eq|algorithm)((?:_?\d{1,2})+)(?=_|$)")

Key = tuple[str, int]
"""("eq", 12) or ("algorithm", 2)."""


@dataclass(frozen=True)
class Place:
    """A function, class or module whose docstring cites the paper."""

    name: str
    file: str


def cited(text: str) -> set[Key]:
    """Every equation and algorithm that a text names: "Eq 12, 20, 21", "Eq 8-10", "Algorithm 2"."""
    found: set[Key] = set()
    for kind, numbers in _CITED.findall(text):
        name = "algorithm" if kind.lower().startswith("algorithm") else "eq"
        for first, last in _NUMBERS.findall(numbers):
            found |= {(name, number) for number in range(int(first), int(last or first) + 1)}
    return found


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Dotted name and docstring of the module and of everything defined in it."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield name, text
            for child in ast.iter_child_nodes(node):
                yield from walk(child, f"{name}.{getattr(child, 'name', '')}")

    yield from walk(tree, module)


def code(root: Path = ROOT) -> dict[Key, list[Place]]:
    """Where src/lwd cites the paper in a `Paper:` line."""
    places: dict[Key, list[Place]] = {}
    for path in sorted((root / "src/lwd").rglob("*.py")):
        relative = path.relative_to(root / "src")
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        for name, text in _docstrings(ast.parse(path.read_text(encoding="utf-8")), module):
            for key in sorted(set().union(*(cited(part) for part in _PAPER.findall(text)))):
                places.setdefault(key, []).append(Place(name, f"src/{relative.as_posix()}"))
    return places


def exercised(root: Path = ROOT) -> dict[Key, list[str]]:
    """Which files of tests/paper name an equation, in their text or in their file name."""
    found: dict[Key, list[str]] = {}
    for path in sorted((root / "tests/paper").rglob("test_*.py")):
        keys = cited(path.read_text(encoding="utf-8"))
        for kind, numbers in _FILE_NAME.findall(path.stem):
            keys |= {(kind, int(number)) for number in re.findall(r"\d+", numbers)}
        for key in sorted(keys):
            found.setdefault(key, []).append(path.relative_to(root).as_posix())
    return found


def different(root: Path = ROOT) -> dict[Key, list[int]]:
    """Points of "What differs from the paper" that are about an equation: those that name it behind their title."""
    found: dict[Key, list[int]] = {}
    for number, text in _DIFFERS.findall((root / "docs" / DIFFERS).read_text(encoding="utf-8")):
        for key in sorted(cited(text)):
            found.setdefault(key, []).append(int(number))
    return found


def _row(label: str, title: str, places: list[Place], files: list[str], points: list[int]) -> str:
    functions = "<br>".join(f"`{place.name.removeprefix('lwd.')}`" for place in places) or "**none**"
    names = "<br>".join(f"`{Path(file).name}`" for file in files) or "**none**"
    notes = f"[{', '.join(map(str, points))}](../{DIFFERS})" if points else ""
    return f"| {label} | {title} | {functions} | {names} | {notes} |"


def page(root: Path = ROOT) -> str:
    """The whole page as markdown."""
    places, files, points = code(root), exercised(root), different(root)
    named: list[tuple[str, Key, str]] = [
        *((f"Eq {n}", ("eq", n), title) for n, title in EQUATIONS.items()),
        *((f"Algorithm {n}", ("algorithm", n), title) for n, title in ALGORITHMS.items()),
    ]
    rows = [
        _row(label, title, places.get(key, []), files.get(key, []), points.get(key, []))
        for label, key, title in named
    ]
    return "\n".join(
        [
            "<!-- Written by `python -m tools.paper_map`; do not edit. -->",
            "# Paper map",
            "",
            "Where each equation and algorithm of arXiv 2605.00416 is in the code, and which file of `tests/paper` holds it to",
            "account. Read from the `Paper:` lines of docstrings; a test fails when an entry lacks code or test, or when this",
            "page is out of date. Equations 1 and 3 to 7 are background (the decision process, IQL, flow matching). The last",
            f"column names points of [What differs from the paper](../{DIFFERS}).",
            "",
            "| paper | what | code (`lwd.`) | tests (`tests/paper/`) | differs |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="do not write; exit 1 if the page is out of date"
    )
    arguments = parser.parse_args()
    target, text = ROOT / PAGE, page()
    if arguments.check:
        return 0 if target.exists() and target.read_text(encoding="utf-8") == text else 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
