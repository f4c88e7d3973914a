"""What `lwd serve` does for 1, 4 and 16 robots: requests per second, and the latency that a robot sees, over a loopback socket.

Each robot asks again as soon as it has its answer, so that 16 robots are a full load and not sixteen arms at their pace. The
weights are random, at the recipe's sizes. Clients run in a process of their own and speak the protocol as openpi's does.

    python -m benchmarks vla_serve                              the numbers that are kept: the VLA at dummy size
    python -m benchmarks.bench_vla_serve --recipe metaworld     others, printed
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping

import jax
import numpy as np

from lwd.config import Experiment
from lwd.fleet.policies import model_config
from lwd.fleet.serve.batcher import BatchSettings
from lwd.fleet.serve.held import HeldSnapshots
from lwd.fleet.serve.policies import driver_runner
from lwd.fleet.serve.protocol import pack, unpack
from lwd.fleet.serve.server import PolicyServer, ServerSettings
from lwd.fleet.services import fleet_description
from lwd.fleet.telemetry import Telemetry
from lwd.models.normalizer import Normalizer
from lwd.recipes import recipe
from lwd.spec import RobotSpec

ROBOTS = (1, 4, 16)
MAX_BATCH = 16
SECONDS, WARM_UP_S = 5.0, 1.0


def main(recipe_name: str = "scene_vla") -> dict[str, float]:
    experiment = recipe(recipe_name)
    spec, _ = fleet_description(experiment)
    runner = driver_runner(experiment, MAX_BATCH)
    normalizer = Normalizer.identity(spec.proprio_dim)
    policy = model_config(experiment).without_weights().make_policy(jax.random.key(0), normalizer)
    held = HeldSnapshots(runner)
    held.add(1, policy)
    numbers: dict[str, float] = {"max_batch": MAX_BATCH, "seconds_each": SECONDS}
    for robots in ROBOTS:
        telemetry = Telemetry({})
        settings = ServerSettings(port=0, batch=BatchSettings(max_batch=MAX_BATCH))
        with PolicyServer(held, runner, spec, experiment.serve, settings, None, telemetry) as server:
            latencies = _ask(server.port, robots, spec, experiment)
        counts = telemetry.summary()
        name = f"robots_{robots:02d}"
        numbers[f"{name}_requests_per_s"] = len(latencies) / SECONDS
        numbers[f"{name}_p50_ms"] = 1000 * float(np.quantile(latencies, 0.5))
        numbers[f"{name}_p99_ms"] = 1000 * float(np.quantile(latencies, 0.99))
        numbers[f"{name}_rows_per_batch"] = counts["serve_rows_total"] / counts["serve_batches_total"]
    return numbers


def _ask(port: int, robots: int, spec: RobotSpec, experiment: Experiment) -> list[float]:
    """Latencies in seconds of all answers of the measured seconds."""
    keys = experiment.serve
    images = {keys.image(camera.name): [camera.height, camera.width] for camera in spec.cameras}
    about = {
        "url": f"ws://127.0.0.1:{port}",
        "robots": robots,
        "proprio_dim": spec.proprio_dim,
        "state": keys.state[0],
        "prompt": keys.prompt,
        "images": images,
    }
    command = [sys.executable, "-m", "benchmarks.bench_vla_serve", "--clients", json.dumps(about)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


async def _clients(about: Mapping[str, object]) -> list[float]:
    from websockets.asyncio.client import connect

    rng = np.random.default_rng(0)
    message = {
        str(about["state"]): rng.normal(size=about["proprio_dim"]).astype(np.float32),  # type: ignore[call-overload]
        str(about["prompt"]): "Put the cube into the drawer.",
    }
    for key, size in about["images"].items():  # type: ignore[attr-defined]
        message[key] = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    frame, latencies = pack(message), []
    began = time.perf_counter()

    async def robot() -> None:
        async with connect(str(about["url"]), compression=None, max_size=None) as socket:
            await socket.recv()
            while (now := time.perf_counter()) < began + WARM_UP_S + SECONDS:
                await socket.send(frame)
                answer = await socket.recv()
                ended = time.perf_counter()
                assert isinstance(answer, bytes), answer
                unpack(answer)
                if now > began + WARM_UP_S:
                    latencies.append(ended - now)

    await asyncio.gather(*(robot() for _ in range(int(str(about["robots"])))))
    return latencies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Requests per second and latency of lwd serve.")
    parser.add_argument("--recipe", default="scene_vla")
    parser.add_argument("--clients", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clients is not None:
        print(json.dumps(asyncio.run(_clients(json.loads(options.clients)))))
    else:
        for key, value in main(options.recipe).items():
            print(f"{key:32} {value:.4g}")
