"""Feeds damaged payloads and messages to everything that reads them: success or an LwdError, soon and in little memory.

`python -m tools.fuzz --count 100000` prints the count and the findings and writes benchmarks/results/fuzz.json; Ctrl-C ends
it early, and `count` says how many were run. Payload
number i depends on the seed and i only: `--seed S --only I` repeats one.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwd.errors import LwdError
from tools.fuzz_targets import Target, targets

MAX_SECONDS = 5.0
"""Of this process's computing time for one payload; what takes longer hangs."""
MAX_GROWTH_MIB = 64.0
"""By how much one payload may raise the process's peak memory; payloads have at most 1 MiB."""
RESULT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "fuzz.json"


class HangError(BaseException):
    """One payload took more than MAX_SECONDS."""


@dataclass
class Report:
    """What a run found: payloads per target, how many were refused by an LwdError, and what must not happen."""

    seed: int
    count: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    growth_mib: float = 0.0
    targets: Counter[str] = field(default_factory=Counter[str])
    findings: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def fuzz(count: int, seed: int = 0, only: int | None = None) -> Report:
    """Run `count` payloads, or the one that is numbered `only`. Runs in the main thread."""
    report = Report(seed=seed)
    before = signal.signal(signal.SIGVTALRM, _hang)
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    started, peak = time.monotonic(), _peak_mib()
    try:
        with tempfile.TemporaryDirectory(prefix="lwd-fuzz-") as folder, targets(Path(folder)) as known:
            names = sorted(known)
            for number in [only] if only is not None else range(count):
                rng = random.Random(f"{seed}:{number}")
                name = names[number % len(names)]
                _one(report, number, name, known[name], known[name].make(rng))
    except KeyboardInterrupt:
        print("interrupted; the report counts what was run")
    finally:
        logging.disable(quiet)
        signal.signal(signal.SIGVTALRM, before)
    report.seconds, report.growth_mib = time.monotonic() - started, _peak_mib() - peak
    return report


def _one(report: Report, number: int, name: str, target: Target, data: bytes) -> None:
    report.count += 1
    report.targets[name] += 1
    wrong, peak, started = "", _peak_mib(), time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    try:
        target.run(data)
    except LwdError:
        report.refused += 1
    except HangError:
        wrong = f"more than {MAX_SECONDS} s"
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    report.slowest_ms = max(report.slowest_ms, 1000 * (time.process_time() - started))
    if not wrong and _peak_mib() - peak > MAX_GROWTH_MIB:
        wrong = f"{_peak_mib() - peak:.0f} MiB more memory for {len(data)} bytes"
    if wrong:
        report.findings.append({"number": number, "target": name, "what": wrong, "payload": data[:400].hex()})


def _hang(*_: object) -> None:
    raise HangError


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Run from the command line; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one payload to repeat; nothing is written")
    options = parser.parse_args()
    report = fuzz(options.count, options.seed, options.only)
    for finding in report.findings[:50]:
        print(finding)
    print(
        f"{report.count} payloads, {report.refused} refused, {len(report.findings)} findings, {report.seconds:.0f} s, "
        f"slowest {report.slowest_ms:.0f} ms, peak memory +{report.growth_mib:.0f} MiB"
    )
    if options.only is None:
        result = {
            "name": "fuzz",
            "date": time.strftime("%Y-%m-%d"),
            "command": f"python -m tools.fuzz --count {options.count} --seed {options.seed}",
            "seed": report.seed,
            "count": report.count,
            "refused": report.refused,
            "seconds": round(report.seconds, 1),
            "slowest_ms": round(report.slowest_ms, 1),
            "peak_memory_growth_mib": round(report.growth_mib, 1),
            "targets": dict(sorted(report.targets.items())),
            "findings": len(report.findings),
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
