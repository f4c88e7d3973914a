"""The import contract of pyproject.toml holds, and what a robot computer needs starts without JAX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
WITHOUT_JAX = (
    "lwd.episode",
    "lwd.transition",
    "lwd.spec",
    "lwd.errors",
    "lwd.instruction",
    "lwd.log",
    "lwd.snapshot",
    "lwd.robot",
    "lwd.dashboard",
)


def modules(name: str) -> list[str]:
    """The module, or the package with all that is in it."""
    path = SOURCE / name.replace(".", "/")
    if not path.is_dir():
        return [name]
    found = [file.relative_to(SOURCE).with_suffix("") for file in sorted(path.rglob("*.py"))]
    return [".".join(parts.parts).removesuffix(".__init__") for parts in found if parts.name != "__main__"]


def test_contract() -> None:
    program = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_starts_without_jax(name: str) -> None:
    names = modules(name)
    program = "\n".join(
        [
            "import importlib, sys",
            f"for name in {names!r}:",
            "    importlib.import_module(name)",
            "    if 'jax' in sys.modules:",
            "        sys.exit(f'{name} brings in jax')",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
