"""Record the regression gate anew: `make record-slow`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.slow import gate


def main() -> None:
    """Run the experiment, say what moved, write the file, print the changelog's line."""
    before = gate.read_recorded() if gate.RECORDED.exists() else None
    with tempfile.TemporaryDirectory() as folder:
        measured = gate.run(Path(folder) / "run")
    if before is not None:
        sentences = gate.moved(before, measured, tuple(gate.CURVES))
        print("\n".join(["moved by more than its tolerance:", *(sentences or ["nothing"])]))
    line = gate.write_recorded(measured)
    print(f'Put this line into CHANGELOG.md under "Numbers", with the reason:\n{line}')


if __name__ == "__main__":
    main()
