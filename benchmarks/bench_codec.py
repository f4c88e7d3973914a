"""An episode into its file and back: 300 steps of 32 sensed values and 14 commands, beside NumPy's file of the same arrays.

Processor time of one thread, least of twenty: what the format costs, however busy the machine is. Writing ends every episode on
a robot, and reading begins its way into the replay; both are to be milliseconds.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.log import codec

STEPS, PROPRIO, ACTION, HZ, REPEATS = 300, 32, 14, 30.0, 20


def main() -> dict[str, float]:
    episode = _episode(np.random.default_rng(0))
    encoded, packed = codec.encode(episode), _npz(episode)
    results = {
        "steps": STEPS,
        "file_kb": len(encoded) / 1e3,
        "npz_kb": len(packed) / 1e3,
        "encode_cpu_ms": _least_ms(lambda: codec.encode(episode)),
        "decode_cpu_ms": _least_ms(lambda: codec.decode(encoded)),
        "npz_encode_cpu_ms": _least_ms(lambda: _npz(episode)),
        "npz_decode_cpu_ms": _least_ms(lambda: dict(np.load(io.BytesIO(packed), allow_pickle=False))),
    }
    results["encode_over_npz"] = results["encode_cpu_ms"] / results["npz_encode_cpu_ms"]
    results["decode_over_npz"] = results["decode_cpu_ms"] / results["npz_decode_cpu_ms"]
    return results


def _least_ms(work: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1e3 * min(times)


def _npz(episode: Episode) -> bytes:
    file = io.BytesIO()
    np.savez(
        file,
        proprio=episode.proprio,
        actions=episode.actions,
        interventions=episode.interventions,
        times_s=episode.times_s,
    )
    return file.getvalue()


def _episode(rng: np.random.Generator) -> Episode:
    return Episode(
        header=EpisodeHeader(
            task="task",
            instruction="do the task",
            source=Source.DEMO,
            robot="bench",
            spec="bench",
            control_hz=HZ,
            snapshot=None,
            software="bench",
        ),
        verdict=Verdict(outcome=Outcome.SUCCESS, stage_score=1.0),
        proprio=rng.normal(size=(STEPS + 1, PROPRIO)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(STEPS, ACTION)).astype(np.float32),
        interventions=np.zeros(STEPS, np.bool_),
        times_s=np.arange(STEPS + 1) / HZ,
    )
