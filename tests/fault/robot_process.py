"""A robot in a process of its own, for tests that kill it.

    robot_process.py FOLDER EPISODES SEED [POINT]

Records and delivers EPISODES episodes, printing "began ID", "step ID N" and "finished ID" as they become true. With
POINT it kills itself, as SIGKILL does, the first time that it gets there: before-put, after-put, after-publish,
before-rename, after-sync; or it waits to be killed after its 12th control step: mid-episode.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from log_cases import make_episode

from lwd.log.bus import CatalogueBus
from lwd.log.catalogue import Catalogue
from lwd.log.objects import ObjectStore
from lwd.log.writer import EdgeClient


def die(*_: Any, **__: Any) -> None:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def after(call: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any) -> None:
        call(*args)
        die()

    return both


def live(client: EdgeClient, number: int, point: str) -> None:
    """One episode, drawn from the seed `number`."""
    episode = make_episode(30, seed=number)
    recording = client.begin(episode.header)
    name = episode.header.episode_id
    print(f"began {name}", flush=True)
    for t in range(episode.steps):
        times, human = float(episode.times_s[t]), bool(episode.interventions[t])
        recording.step(episode.proprio[t], episode.actions[t], human, times, {})
        print(f"step {name} {t + 1}", flush=True)
        if point == "mid-episode" and t + 1 == 12:
            time.sleep(600)
    recording.finish(episode.proprio[-1], float(episode.times_s[-1]), {}, episode.verdict)
    print(f"finished {name} {number}", flush=True)


def main() -> None:
    folder, episodes, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    point = sys.argv[4] if len(sys.argv) > 4 else ""
    catalogue = Catalogue(folder / "catalogue.db")
    objects, bus = ObjectStore(folder / "objects"), CatalogueBus(catalogue)
    client = EdgeClient(
        folder / "spool" / "robot-1", objects, bus, "robot-1", flush_s=0.1, retry_s=(0.01, 0.05)
    )
    if point == "before-put":
        objects.put_once = die
    elif point == "after-put":
        objects.put_once = after(objects.put_once)
    elif point == "after-publish":
        bus.publish = after(bus.publish)
    elif point == "before-rename":
        os.replace = die
    elif point == "after-sync":
        os.replace = after(os.replace)
    if not point:
        client.start()
    for number in range(seed, seed + episodes):
        live(client, number, point)
        if point:
            client.deliver()
    client.close()
    catalogue.close()


if __name__ == "__main__":
    main()
