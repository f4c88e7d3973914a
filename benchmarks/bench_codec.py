"""An episode into its file and back: 300 steps of 32 sensed values and 14 commands, beside NumPy's file of the same arrays.

Processor time of one thread, least of twenty: what the format costs, however busy the machine is. Writing ends every episode on
a robot, and reading begins its way into the replay; both are to be milliseconds.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from benchmarks.episodes import random_episode
from benchmarks.processor_time import least_cpu_s
from lwd.episode import Episode
from lwd.log import codec
from lwd.spec import RobotSpec, TaskSpec

SPEC = RobotSpec(name="bench", proprio_dim=32, action_dim=14, control_hz=30.0, chunk_steps=30)
TASK = TaskSpec(
    name="task", instruction="do the task", milestones=("done",), time_limit_steps=300, horizon="short"
)
STEPS, REPEATS = 300, 20


def main() -> dict[str, float]:
    episode = random_episode(SPEC, TASK, STEPS, np.random.default_rng(0))
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
    return 1e3 * least_cpu_s(work, REPEATS)


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
