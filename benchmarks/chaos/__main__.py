"""Runs it; exit code 1 if anything does not hold. See the package."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos.run import Settings, run
from benchmarks.chaos.stack import ROOT

RESULT = ROOT / "benchmarks" / "results" / "chaos.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--episodes", type=int, default=1604, help="that robots must finish at least")
    parser.add_argument("--robots", type=int, default=16)
    parser.add_argument("--faults", type=int, default=100, help="at least")
    parser.add_argument("--out", type=Path, help="folder of the run, kept; a temporary one by default")
    parser.add_argument(
        "--prepared", type=Path, help="folder with the stages before the deployment, to repeat runs"
    )
    parser.add_argument("--result", type=Path, default=RESULT, help="file of the numbers")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="after which the run has failed")
    found = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    for noisy in ("lwd.fleet.supervisor", "lwd.log"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # deaths are what we make here
    with ExitStack() as stack:
        folder = found.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lwd-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            folder=folder.absolute(),
            seed=found.seed,
            episodes=found.episodes,
            robots=found.robots,
            faults=found.faults,
            limit_s=found.limit_s,
            prepared=None if found.prepared is None else found.prepared.absolute(),
        )
        result, problems = run(settings)
    for problem in problems[:50]:
        print(f"DOES NOT HOLD: {problem}")
    result["command"] = (
        f"python -m benchmarks.chaos --seed {found.seed} --episodes {found.episodes} --robots {found.robots} "
        f"--faults {found.faults}"
    )
    result["problems"] = problems
    found.result.parent.mkdir(parents=True, exist_ok=True)
    found.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {found.result}; {'all holds' if not problems else f'{len(problems)} problems'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
