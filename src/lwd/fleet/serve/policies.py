"""The policies of a server: computed by JAX in one padded batch, followed from the fleet's snapshots in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lwd.config import Experiment
from lwd.errors import LwdError, SnapshotError
from lwd.fleet.acting import PolicyDriver, fleet_driver
from lwd.fleet.folder import Services
from lwd.fleet.policies import load_policy
from lwd.fleet.serve.held import HeldSnapshots, Row
from lwd.fleet.serve.observation import Seen
from lwd.fleet.services import fleet_description
from lwd.fleet.telemetry import Telemetry
from lwd.learner.method import Acting
from lwd.snapshot.promotion import Release
from lwd.snapshot.store import Snapshot
from lwd.spec import RobotSpec

log = logging.getLogger(__name__)

POLL_S = 0.1
RETRY_S = (0.5, 30.0)

Load = Callable[[int], tuple[Acting, Snapshot]]
"""A verified policy by its number; SnapshotError if it must not be used."""


class DriverRunner:
    """A `Runner` for the networks of an experiment, MLP or VLA.

    Rows are padded to `max_batch`, so a chunk does not depend on the rows beside it, bit for bit (`PolicyDriver`).

    Args:
        driver: makes the chunks.
        spec: of the robot, for a row to warm up with.
    """

    def __init__(self, driver: PolicyDriver, spec: RobotSpec) -> None:
        self._driver, self._spec = driver, spec
        self._numbers: set[int] = set()
        self._guard = threading.Lock()

    def load(self, number: int, policy: Acting) -> None:
        """See `Runner.load`; compiles where the policy is of a new kind, beside the calls of others."""
        dark = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in self._spec.cameras}
        still = Seen(np.zeros(self._spec.proprio_dim, np.float32), "warm up", dark)
        try:
            with self._guard:
                self._driver.load(number, policy)
                self._numbers.add(number)
            self.chunks([Row(number, still, 0, 0)])
        except BaseException:
            self.drop(number)  # nobody else would: it is not held yet
            raise

    def drop(self, number: int) -> None:
        """See `Runner.drop`."""
        with self._guard:
            self._numbers.discard(number)
            self._driver.keep_only(sorted(self._numbers))

    def chunks(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """See `Runner.chunks`."""
        return self._driver.act(
            np.stack([row.seen.proprio for row in rows]),
            [row.seen.prompt for row in rows],
            [row.snapshot for row in rows],
            np.array([row.seed for row in rows], np.int64),
            np.array([row.chunk for row in rows], np.int64),
            {camera.name: [row.seen.images[camera.name] for row in rows] for camera in self._spec.cameras},
        )


def driver_runner(experiment: Experiment, max_batch: int) -> DriverRunner:
    """The runner of an experiment's networks."""
    return DriverRunner(fleet_driver(experiment, pad_to=max_batch), fleet_description(experiment)[0])


def loader(experiment: Experiment, services: Services) -> Load:
    """Loads and verifies snapshots of this fleet."""
    return lambda number: load_policy(experiment, services, number)


@dataclass(frozen=True)
class Wanted:
    """What a server is to have.

    Attributes:
        serving: the snapshot of episodes that begin and ask for none in particular.
        numbers: all that are to be loaded, in this order.
    """

    serving: int
    numbers: tuple[int, ...]


def only(number: int) -> Wanted:
    """One snapshot and no other."""
    return Wanted(number, (number,))


def released(release: Release | None) -> Wanted | None:
    """What the robots of a release may ask for: the stable snapshot, the candidate, those that robots are pinned to."""
    return None if release is None else Wanted(release.stable, release.in_order)


class ServerFollower:
    """Loads what is wanted while the server answers; requests never wait for it.

    A snapshot that is refused is said once and not tried again; those that were overtaken meanwhile are skipped. While all
    room is taken by snapshots that are wanted, or that episodes hold which are not silent, it waits, and says so.

    Args:
        wanted: what is to be loaded, None before the first; may raise LwdError while a service is away.
        load: gets one.
        held: where it goes.
        telemetry: gets `snapshot_loaded_seconds` and `snapshots_refused_total`.

    Attributes:
        waits_for: what it waits for, in words; None while all that is wanted is loaded.
        refused: why, by number.
    """

    def __init__(
        self, wanted: Callable[[], Wanted | None], load: Load, held: HeldSnapshots, telemetry: Telemetry
    ) -> None:
        self._wanted, self._load, self._held, self._telemetry = wanted, load, held, telemetry
        self.refused: dict[int, SnapshotError] = {}
        self._ended = threading.Event()
        self._began = time.time()
        self.waits_for: str | None = "the first snapshot"
        self._thread = threading.Thread(target=self._run, name="lwd-follow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._ended.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        pause = RETRY_S[0]
        while not self._ended.wait(POLL_S):
            try:
                self._step()
                pause = RETRY_S[0]
            except (LwdError, OSError) as error:
                log.warning("snapshot_waits cause=%r", str(error))
                self.waits_for = f"the snapshots: {error!s:.200}"
                self._ended.wait(pause)
                pause = min(2 * pause, RETRY_S[1])
            except Exception as error:  # what a damaged policy raises must not end the following
                log.exception("snapshot_follower_failed")
                self.waits_for = f"the snapshots: {type(error).__name__}: {error!s:.200}"
                self._ended.wait(RETRY_S[1])

    def _step(self) -> None:
        wanted = self._wanted()
        self._held.keep(() if wanted is None else wanted.numbers)
        self._held.make_room()
        loaded = self._held.loaded()
        if wanted is not None and wanted.serving in loaded and wanted.serving != self._held.newest:
            self._held.serve(wanted.serving)
        missing = [n for n in wanted.numbers if n not in loaded and n not in self.refused] if wanted else []
        if wanted is None or not missing:
            self.waits_for = "the first snapshot" if self._held.newest is None else None
        elif not self._held.make_room(needed=True):
            self.waits_for = f"room for snapshot {missing[0]} (--room) or the end of episodes under {loaded}"
        else:
            self._load_one(missing[0], serve=missing[0] == wanted.serving)

    def _load_one(self, number: int, *, serve: bool) -> None:
        try:
            policy, snapshot = self._load(number)
        except SnapshotError as error:
            log.error("snapshot_refused snapshot=%d cause=%r", number, str(error))
            self._telemetry.count("snapshots_refused_total")
            # A new one: the frames of this one hold the arrays.
            self.refused[number] = SnapshotError(str(error))
            return
        self._held.add(number, policy, serve=serve)
        if snapshot.created_at > self._began:  # older ones say nothing of the way here
            self._telemetry.observe("snapshot_loaded_seconds", [time.time() - snapshot.created_at])
        log.info("snapshot_loaded snapshot=%d learner_step=%d", number, snapshot.learner_step)
        self.waits_for = None
