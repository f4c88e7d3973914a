"""A run's folder: its settings, its checkpoints, and the rows that the robot brought in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lwd.baselines.qam_public import PublicQamState
from lwd.errors import ConfigError
from lwd.evaluate.jsonfile import write_json
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.state import copied
from lwd.results.ogbench.data import Rows

_KEPT = 3
"""Files of rows and positions, one more than there are checkpoints."""


class RunStore:
    """What a cut run goes on from."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._checkpoints = Checkpoints(folder / "checkpoints")

    def close(self) -> None:
        """Wait for the disk and release the folder."""
        self._checkpoints.close()

    def claim(self, settings: Mapping[str, str]) -> None:
        """Note the settings in a new folder, check them in one that exists.

        Raises:
            ConfigError: it was begun with others.
        """
        path = self._folder / "settings.txt"
        mine = "\n".join(f"{name} {value}" for name, value in settings.items())
        if path.exists() and (written := path.read_text(encoding="utf-8")) != mine:
            other = sorted(set(written.splitlines()) ^ set(mine.splitlines()))
            raise ConfigError(
                f"{self._folder} was begun with other settings ({'; '.join(other)}). Delete it to begin again with these, "
                "or name another folder."
            )
        path.write_text(mine, encoding="utf-8")

    def save(self, step: int, state: PublicQamState, rows: Rows, position: Mapping[str, Any]) -> None:
        """A checkpoint. Its rows and its position come first, so that no checkpoint lacks them.

        The same step may be saved again with more rows: the state is the one that is there.
        """
        added = rows.added()
        if len(added["last"]):
            path = self._rows(step)
            part = path.with_name(f"{path.name}.part.npz")
            np.savez(part, **added)  # pyright: ignore
            part.rename(path)
        write_json(self._position(step), dict(position))
        if self._checkpoints.latest_step() != step:
            self._checkpoints.save(step, state, {})
        for pattern in ("rows_?????????.npz", "position_?????????.json"):
            for old in sorted(self._folder.glob(pattern))[:-_KEPT]:
                old.unlink()

    def restore(self, template: PublicQamState, rows: Rows) -> tuple[PublicQamState, dict[str, Any]] | None:
        """State and position of the newest checkpoint, and its rows put back; None without one."""
        step = self._checkpoints.latest_step()
        if step is None:
            return None
        state, _ = self._checkpoints.restore(template, step)
        position = json.loads(self._position(step).read_text(encoding="utf-8"))
        if position["control_steps"]:
            with np.load(self._rows(step), allow_pickle=False) as file:
                added = {name: file[name] for name in file.files}
            added["last"][-1] = True  # the cut episode ends here: what its last row led to is not known
            rows.restore(added)
        return copied(state), position

    def _position(self, step: int) -> Path:
        return self._folder / f"position_{step:09d}.json"

    def _rows(self, step: int) -> Path:
        return self._folder / f"rows_{step:09d}.npz"
