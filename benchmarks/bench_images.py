"""Pictures out of the replay: decoded per second, and what a learner waits for them; pictures into it: bytes per second.

Three cameras at 224, batches of 32 (both observations of a transition, so 192 pictures a batch), as pi0.5 trains. The pictures
are smooth shapes with the noise of a camera: about 20 KB each, more than the simulated scene's 12.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from benchmarks.episodes import random_episode
from lwd import image
from lwd.episode import Episode
from lwd.instruction import InstructionEncoder
from lwd.log.codec import encode
from lwd.log.validate import validate
from lwd.replay import Replay, ReplayConfig, demonstrations
from lwd.replay.prefetch import Prefetcher
from lwd.spec import CameraSpec, RobotSpec, TaskSpec

SIDE, BATCH, EPISODES, STEPS = 224, 32, 12, 100
CAMERAS = tuple(
    CameraSpec(name=name, height=SIDE, width=SIDE) for name in ("base", "left_wrist", "right_wrist")
)
SPEC = RobotSpec(name="bench", proprio_dim=19, action_dim=5, control_hz=30.0, chunk_steps=30, cameras=CAMERAS)
TASK = TaskSpec(
    name="task", instruction="do the task", milestones=("done",), time_limit_steps=300, horizon="long"
)
STEP_S = 1.26
"""The dummy learner's step: the public figure for pi0.5 at batch 8 per GPU; a batch of 32 in that time is harder."""


def main() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, float] = {"cameras": len(CAMERAS), "side": SIDE, "batch": BATCH}
        pictures = _pictures()
        results["jpeg_kb"] = float(np.mean([len(jpeg) for jpeg in pictures])) / 1e3
        results |= _coding(pictures)
        replay = Replay(folder, SPEC, [TASK], InstructionEncoder(), ReplayConfig(image_side=SIDE))
        results |= _fill(replay, Path(folder), pictures)
        results |= _draw(replay)
        replay.close()
    return results


def _coding(pictures: list[bytes]) -> dict[str, float]:
    """One thread, processor time: what the decoder itself costs, however busy the machine is."""
    began = time.process_time()
    decoded = [image.decode(jpeg, SIDE, SIDE) for jpeg in pictures for _ in range(4)]
    decode_s = (time.process_time() - began) / len(decoded)
    began = time.process_time()
    for jpeg in pictures:
        image.check(jpeg, SIDE, SIDE)
    check_s = (time.process_time() - began) / len(pictures)
    began = time.process_time()
    for pixels in decoded[: len(pictures)]:
        image.encode(pixels)
    encode_s = (time.process_time() - began) / len(pictures)
    return {"decode_cpu_ms": 1e3 * decode_s, "check_cpu_ms": 1e3 * check_s, "encode_cpu_ms": 1e3 * encode_s}


def _draw(replay: Replay) -> dict[str, float]:
    sampler = replay.sampler(replay.view(), demonstrations(), 0)
    sampler.draw(0, 1, BATCH)
    began, cpu, count = time.perf_counter(), time.process_time(), 8
    for step in range(count):
        sampler.draw(step, 1, BATCH)
    seconds, cpu_s = (time.perf_counter() - began) / count, (time.process_time() - cpu) / count
    per_batch = 2 * BATCH * len(CAMERAS)
    results = {
        "pictures_per_s": per_batch / seconds,
        "pictures_per_cpu_s": per_batch / cpu_s,
        "batch_ms": 1e3 * seconds,
    }
    with Prefetcher(sampler, step=0, count=1, batch=BATCH) as prefetch:
        prefetch.next()
        prefetch.reset_wait()
        for _ in range(8):
            time.sleep(STEP_S)  # the device computes, the host does not
            prefetch.next()
        results |= {"learner_step_s": STEP_S, "learner_wait_share": prefetch.wait_fraction}
    return results


def _fill(replay: Replay, folder: Path, pictures: list[bytes]) -> dict[str, float]:
    """Record, validate and append; seconds of recording against bytes."""
    recorded = encode_s = validate_s = append_s = 0.0
    rng = np.random.default_rng(0)
    for _ in range(EPISODES):
        episode = _episode(rng, pictures)
        began = time.perf_counter()
        data = encode(episode)
        encode_s += time.perf_counter() - began
        began = time.perf_counter()
        validate(episode, {SPEC.name: SPEC}, {TASK.name: TASK})
        validate_s += time.perf_counter() - began
        began = time.perf_counter()
        replay.add(episode)
        append_s += time.perf_counter() - began
        recorded += len(data)
    seconds = EPISODES * STEPS / SPEC.control_hz
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "episode_mb_per_recorded_second": recorded / 1e6 / seconds,
        "replay_mb_per_recorded_second": stored / 1e6 / seconds,
        "mcap_ms_per_step": 1e3 * encode_s / (EPISODES * STEPS),
        "validate_ms_per_step": 1e3 * validate_s / (EPISODES * STEPS),
        "append_ms_per_step": 1e3 * append_s / (EPISODES * STEPS),
    }


def _episode(rng: np.random.Generator, pictures: list[bytes]) -> Episode:
    images = {c.name: [pictures[i] for i in rng.integers(0, len(pictures), STEPS + 1)] for c in CAMERAS}
    return random_episode(SPEC, TASK, STEPS, rng, images=images)


def _pictures(count: int = 12) -> list[bytes]:
    """Smooth shapes with the fine noise of a camera."""
    rng = np.random.default_rng(0)
    smooth = [zoom(rng.uniform(0, 255, (8, 8, 3)), (SIDE / 8, SIDE / 8, 1), order=1) for _ in range(count)]
    noisy = [np.clip(s + rng.normal(0, 4, s.shape), 0, 255).astype(np.uint8) for s in smooth]
    return [image.encode(pixels) for pixels in noisy]
