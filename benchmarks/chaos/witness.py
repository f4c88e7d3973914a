"""What the robots finished, as `benchmarks.chaos.process` saw it."""

from __future__ import annotations

import os
from pathlib import Path


class Witnessed:
    """The witness folder: `<episode id>.<monotonic time>`, a copy of what was about to become `<episode id>.mcap`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ids(self) -> set[str]:
        """Ids of all episodes that were finished."""
        return {name.partition(".")[0] for name in os.listdir(self._folder) if not name.endswith(".tmp")}

    def copies(self) -> dict[str, Path]:
        """The newest copy of each id: what its robot finished, once every robot has started again after its last death."""
        names = sorted(name for name in os.listdir(self._folder) if not name.endswith(".tmp"))
        return {name.partition(".")[0]: self._folder / name for name in names}
