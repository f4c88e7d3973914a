"""What a result was measured on: commit, machine, versions.

Anything that cannot be found out says so instead of failing.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("lwd", "numpy", "jax", "equinox", "optax", "mujoco", "ogbench", "metaworld", "gymnasium")


def current_commit(folder: Path) -> str:
    """Short git commit of the checkout at `folder`, "+changes" if tracked files differ, else "unknown"."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def describe_hardware() -> dict[str, str]:
    """Processor, cores that this process may use, memory, operating system."""
    facts = {"machine": platform.machine(), "system": f"{platform.system()} {platform.release()}"}
    facts["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        facts["processor"] = names[0] if names else "unknown"
    if meminfo.exists():
        facts["memory_gib"] = f"{int(meminfo.read_text().split()[1]) / 2**20:.1f}"
    return facts


def describe_software() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, where installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
