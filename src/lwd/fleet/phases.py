"""Work in named phases on one run folder: what is done is noted, so that a cut run goes on where it stopped."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from lwd.config import Experiment
from lwd.errors import ConfigError
from lwd.evaluate.jsonfile import write_json
from lwd.fleet.folder import RunFolder, Services, open_services

Phases = Mapping[str, Callable[[Services], object]]
"""Name -> work, in order. A phase that was cut is run again, and must itself go on where it stopped."""

ABOUT, TIMING = "run.json", "timing.json"


def run_phases(folder: RunFolder, phases: Phases, console: Console) -> dict[str, float]:
    """Run the phases that are not done yet; seconds of all phases, in their order.

    A phase that was cut counts the seconds of its last attempt.
    """
    timing = finished_phases(folder.path)
    for name, phase in phases.items():
        if name in timing:
            continue
        console.rule(f"[bold]{name}", align="left")
        began = time.monotonic()
        with open_services(folder) as services:
            phase(services)
        timing[name] = time.monotonic() - began
        write_json(folder.path / TIMING, timing)
    return timing


def finished_phases(folder: Path) -> dict[str, float]:
    """Seconds of the phases that are done in a run folder; ConfigError if their file is damaged."""
    path = folder / TIMING
    found = _read(path) if path.exists() else {}
    if not all(isinstance(seconds, int | float) for seconds in found.values()):
        raise _damaged(path, "expected seconds by phase")
    return found


def claim(folder: Path, experiment: str, command: str, seed: int) -> None:
    """Note in a new run folder whose it is; check it in one that exists.

    Raises:
        ConfigError: the folder belongs to another experiment, or its file is damaged.
    """
    path = folder / ABOUT
    if not path.exists():
        write_json(path, {"experiment": experiment, "command": command, "seed": seed})
        return
    found = _read(path)
    if "experiment" not in found:
        raise _damaged(path, "it names no experiment")
    if found["experiment"] != experiment:
        raise ConfigError(
            f"{folder} holds a run of another experiment or seed. Choose another --out, or delete it."
        )


def unclaimed(folder: Path) -> bool:
    """Whether nobody noted whose run it is."""
    return not (folder / ABOUT).exists()


def check_goes_on(folder: Path, experiment: Experiment) -> None:
    """Refuse an experiment in the folder of a run that it does not go on with; a recipe that was forgotten is the usual cause.

    What a recipe of another name goes on with (learning once more, in turns) has the same seed, robots, data, model and clone.

    Raises:
        ConfigError: the folder's run is another one, or its file is damaged.
    """
    found = {} if unclaimed(folder) else _read(folder / ABOUT)
    noted, command = str(found.get("experiment")), str(found.get("command"))
    name = re.match(r"Experiment\(name='([^']*)'", noted)
    if name is None:  # of nobody, or of a cell of the evidence
        return
    x, given = experiment, re.search(r"--recipe[ =](\S+)", command)
    option = f"--recipe {given[1] if given else name[1]}"
    begins = (x.fleet.deployed, x.fleet.demonstrated, x.collect, x.model, x.clone)
    if name[1] == x.name or all(repr(part) in noted for part in begins):
        if found.get("seed", x.seed) == x.seed:
            return
        option = f"--seed {found['seed']}"
    raise ConfigError(
        f"{folder} holds the run {name[1]!r} with seed {found.get('seed')} ({command}), which {x.name!r} with seed {x.seed} "
        f"does not go on with. Add {option}, or choose another --out."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, "expected a JSON object")
    return cast(dict[str, Any], found)


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{str(path)!r} is damaged: {why}. Restore it, or choose another --out.")
