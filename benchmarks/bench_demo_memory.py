"""Peak memory of the demo: the whole loop with the demo's sixteen robots and networks, but few steps (recipe `scene_quick`).

Memory does not grow with the number of learner steps, and the replay is a memory-mapped file; proportional set sizes (shared
pages counted once) of all processes are summed twice a second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

INTERVAL_S = 0.5


def main() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lwd.cli", "demo", "--recipe", "scene_quick", "--out", folder]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak_kb, peak_processes = 0, 0
        while process.poll() is None:
            pids = _tree(process.pid)
            total = sum(_pss_kb(pid) for pid in pids)
            if total > peak_kb:
                peak_kb, peak_processes = total, len(pids)
            time.sleep(INTERVAL_S)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}")
    return {
        "peak_memory_gib": peak_kb / 2**20,
        "processes_at_peak": float(peak_processes),
        "wall_s": time.monotonic() - began,
    }


def _tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        parents[int(stat.parent.name)] = int(fields[1])
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
