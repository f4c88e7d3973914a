"""The edge client: what a robot needs to record episodes and to hand them over, whatever dies meanwhile.

An episode leaves the spool only after the object store holds it and the bus has acknowledged the event that names
it. Every step of that can be repeated.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from pathlib import Path

from lwd.episode import Episode, EpisodeHeader
from lwd.errors import ConfigError, LwdError, StoreError
from lwd.log import codec
from lwd.log.bus import Bus
from lwd.log.calls import CallRefusedError
from lwd.log.events import DroppedEvent, EpisodeEvent
from lwd.log.keeper import Keeper, SpoolStatus
from lwd.log.layout import MAX_EPISODE_BYTES, NAME, check_header
from lwd.log.objects import ObjectSink
from lwd.log.recording import EpisodeRecording
from lwd.log.robots import NotAllowedError
from lwd.log.spool import RefusedEpisode, Spool, reporting
from lwd.log.worth import about

log = logging.getLogger(__name__)

_FAILURES_PER_ROUND = 3
_FOR_GOOD = NotAllowedError.__name__
"""The one refusal that is about the episode and will not change: not this robot's, or too large."""


class EdgeClient:
    """A robot's recorder and its delivery; implements `lwd.robot.recorder.Recorder`.

    Without network it keeps recording. When its budget or the disk is full, episodes go in the order of `lwd.log.worth`
    (autonomous successes before failures before interventions); each is counted, survives a restart as a number, and is
    reported to the coordinator, which lists it in quarantine with the reason "dropped". An episode that the service
    refuses for good is set aside (`refused`); it holds up nobody and is never sent again by itself. Where its cause was
    mended, it is moved back into the spool by hand while no client runs.

    Args:
        spool: a folder of this client alone (another one is refused); made if missing.
        objects: where episodes go.
        bus: where their events go.
        robot: this robot's name, [A-Za-z0-9_-].
        flush_s: seconds of an episode that the death of this process may cost.
        retry_s: shortest and longest pause of the background thread after a failure.
        budget_bytes: for all episodes in the spool, running and refused ones too; None for what the disk takes. A running
            episode may exceed it until it ends, where nothing may be dropped for it.

    Opening it recovers what an earlier process left behind. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        spool: Path,
        objects: ObjectSink,
        bus: Bus,
        robot: str,
        *,
        flush_s: float = 0.5,
        retry_s: tuple[float, float] = (0.2, 30.0),
        budget_bytes: int | None = None,
    ) -> None:
        if not NAME.fullmatch(robot):
            raise ConfigError(f"robot name {robot!r:.80} must be 1 to 64 of the characters [A-Za-z0-9_-].")
        self.robot = robot
        self._objects, self._bus = objects, bus
        self._flush_s, self._retry_s = flush_s, retry_s
        self._open: set[EpisodeRecording] = set()
        self._left_torn = False  # a full disk kept a torn episode from becoming whole
        self._guard, self._delivering = threading.Lock(), threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._tries: dict[str, int] = {}
        self._spool = Spool(Path(spool))
        try:
            with reporting(self._spool.folder, "open"):
                self._keeper = Keeper(self._spool, budget_bytes)
            self.recover()
        except BaseException:
            self._spool.close()
            raise

    def __enter__(self) -> EdgeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, header: EpisodeHeader) -> EpisodeRecording:
        """Start recording an episode of this robot.

        Raises:
            ConfigError: the header names another robot.
            EpisodeError: a header field cannot be stored.
            StoreError: the spool cannot be written, or holds this id already.
        """
        self._check_robot(header)
        check_header(header)  # before a file is named after it
        flush_steps = max(1, round(header.control_hz * self._flush_s))
        with self._guard:  # so that `recover` cannot see the file before it is known as running
            recording = EpisodeRecording(
                self._spool, self._keeper, header, flush_steps, self._ended, self._stays_torn
            )
            self._open.add(recording)
        return recording

    def submit(self, episode: Episode) -> None:
        """Put a complete episode into the spool; it is then as safe as one recorded step by step.

        Raises:
            ConfigError: it is of another robot.
            EpisodeError: it cannot be stored.
            StoreError: the spool cannot be written, or holds this id already.
        """
        self._check_robot(episode.header)
        check_header(episode.header)
        name, data, known = episode.header.episode_id, codec.encode(episode), about(episode)
        with self._spool.mending, reporting(self._spool.folder / name, "write"):
            self._spool.check_new(name)
            self._keeper.store(lambda: self._spool.add(name, data, known), known)
        self._wake.set()

    def pending(self) -> tuple[int, int]:
        """Episodes in the spool that are not delivered yet, and their bytes; without what was refused."""
        sizes: list[int] = []
        for path in self._spool.whole():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # delivered meanwhile
                continue
        return len(sizes), sum(sizes)

    def status(self) -> SpoolStatus:
        """What waits, what was refused, what was dropped; for a robot's status message."""
        return self._keeper.status()

    def refused(self) -> list[RefusedEpisode]:
        """Episodes that the service refused for good, oldest first. Their bytes are in `refused/` in the spool."""
        return self._spool.refused()

    def recover(self) -> int:
        """Make whole episodes of what a crash left half-written; how many. Running ones are left alone.

        What a full disk leaves no room for stays as it is, and is tried again with each delivery: a robot may run for weeks
        before it starts again.
        """
        with self._spool.mending:
            recovered = self._salvage()
        with reporting(self._spool.folder, "write"):
            self._keeper.settle()
        self._wake.set()
        return recovered

    def deliver(self) -> int:
        """Deliver what is in the spool, oldest first; how many left it. Failures are logged and stay in it.

        What failed before comes after what did not, so that an episode which always fails holds up no other.
        """
        delivered = failures = 0
        with self._delivering:
            if self._left_torn:
                self.recover()
            waiting = self._spool.whole()
            names = {path.stem for path in waiting}
            self._tries = {name: count for name, count in self._tries.items() if name in names}
            for path in sorted(waiting, key=lambda path: self._tries.get(path.stem, 0)):
                try:
                    delivered += self._deliver(path)
                    failures = 0
                except (LwdError, OSError) as error:
                    failures += 1
                    self._tries[path.stem] = self._tries.get(path.stem, 0) + 1
                    log.warning("episode_delivery_failed episode=%s cause=%r", path.stem, str(error))
                    if failures >= _FAILURES_PER_ROUND:  # it is the network, not this episode
                        return delivered
            self._report_drops()
        return delivered

    def start(self) -> None:
        """Deliver from a background thread, with back-off while store or bus do not answer."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name=f"lwd-delivery-{self.robot}", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """End the background thread after one last round; what is not delivered stays in the spool."""
        if self._thread is not None:
            self._stopping.set()
            self._wake.set()
            self._thread.join(timeout_s)
            self._thread = None

    def close(self) -> None:
        """Turn running recordings into UNJUDGED episodes, stop and free the spool. May be called again."""
        for recording in list(self._open):
            try:
                recording.abort()
            except StoreError as error:  # the torn file is recovered at the next start
                log.warning("recording_not_closed path=%s cause=%r", recording.path, str(error))
        self.stop()
        self._spool.close()

    def _salvage(self) -> int:
        with self._guard:
            self._left_torn = False
            torn = self._spool.torn({recording.path for recording in self._open})
        recovered = 0
        for path in torn:
            try:
                recovered += self._spool.salvage(path)
            except OSError as error:
                self._left_torn = True
                log.warning("spool_recovery_failed path=%s cause=%r", path, str(error))
        return recovered

    def _check_robot(self, header: EpisodeHeader) -> None:
        if header.robot != self.robot:
            raise ConfigError(
                f"the episode's robot is {header.robot!r:.80}, but this client delivers for {self.robot!r}."
            )

    def _stays_torn(self) -> None:
        self._left_torn = True

    def _ended(self, recording: EpisodeRecording) -> bool:
        """A recording ended; whether it was still running."""
        with self._guard:
            running = recording in self._open
            self._open.discard(recording)
        self._wake.set()
        return running

    def _deliver(self, path: Path) -> bool:
        """Deliver one episode; whether it is delivered, as opposed to dropped meanwhile or refused for good."""
        with self._keeper.delivering(path) as there:
            if not there:
                return False
            size = path.stat().st_size
            if size > MAX_EPISODE_BYTES:
                self._refuse(path, f"{size} bytes, at most {MAX_EPISODE_BYTES} are allowed.")
                return False
            data = path.read_bytes()
            event = EpisodeEvent(
                episode_id=path.stem,
                robot=self.robot,
                sha256=hashlib.sha256(data).hexdigest(),
                size=len(data),
                ended_at=path.stat().st_mtime,
            )
            try:
                self._objects.put_once(event.key, data)
            except CallRefusedError as error:
                if error.kind != _FOR_GOOD:
                    raise
                self._refuse(path, str(error))
                return False
            self._bus.publish(event.subject, event.payload(), event.message_id)
            # Not before the bus holds the event; dying here costs a duplicate, which is harmless.
            self._spool.remove(path)
        log.info("episode_delivered episode=%s bytes=%d", path.stem, len(data))
        return True

    def _refuse(self, path: Path, reason: str) -> None:
        self._spool.refuse(path, reason)
        log.error("episode_refused episode=%s reason=%r", path.stem, reason)

    def _report_drops(self) -> None:
        """Tell the coordinator what had to be dropped; what the bus does not take is told next time."""
        for drop in self._keeper.untold():
            report = DroppedEvent(
                episode_id=drop.episode_id, robot=self.robot, worth=drop.worth.name.lower(), size=drop.size,
                why=drop.why, at=drop.at,
            )  # fmt: skip
            try:
                self._bus.publish(report.subject, report.payload(), report.message_id)
                self._keeper.told(drop.episode_id)
            except (LwdError, OSError) as error:
                log.warning("drops_not_reported cause=%r", str(error))
                return

    def _run(self) -> None:
        pause = self._retry_s[0]
        while True:
            self._wake.clear()  # before looking: what comes after this line wakes us again
            last = self._stopping.is_set()
            try:
                delivered = self.deliver()
                waits = bool(self._spool.whole() or self._keeper.untold())
            except Exception:  # the thread must outlive anything: without it the robot fills its disk
                log.exception("delivery_failed robot=%s", self.robot)
                delivered, waits = 0, True
            if last:
                return
            if delivered or not waits:
                pause = self._retry_s[0]
            if not waits:
                self._wake.wait()
            else:
                self._stopping.wait(pause * random.uniform(0.5, 1.0))  # 1,000 robots must not return at once
                pause = min(2 * pause, self._retry_s[1])
