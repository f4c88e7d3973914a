"""What a result was measured on: commit, machine, versions.

Anything that cannot be found out says so instead of failing.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_NO_CODE = (":(exclude,top)results", ":(exclude,top)docs")
_PACKAGES = ("lwd", "numpy", "jax", "equinox", "optax", "mujoco", "ogbench", "metaworld", "gymnasium")


def current_commit(folder: Path) -> str:
    """Short git commit of the checkout at `folder`, "+changes" if tracked files differ, else "unknown".

    Results and pages do not count as changes: a run that is repeated writes its own file anew, and decides no number.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        differs = git("status", "--porcelain", "-uno", "--", ":/", *_NO_CODE)
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if differs else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def describe_hardware() -> dict[str, str]:
    """Processor, cores that this process may use, memory, operating system."""
    facts = {"machine": platform.machine(), "system": f"{platform.system()} {platform.release()}"}
    facts["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        lines = [line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line]
        told = {name.strip(): value.strip() for name, value in reversed(lines)}  # the first processor's
        facts["processor"] = told.get("model name", "unknown")
        numbers = [f"{name} {told[name]}" for name in ("cpu family", "model", "stepping") if name in told]
        if numbers:  # clouds hide the name, and another model may round otherwise
            facts["processor_model"] = ", ".join(numbers)
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
