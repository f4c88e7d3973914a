"""The edge client: what a robot needs to record episodes and to hand them over, whatever dies meanwhile.

An episode leaves the spool only after the object store holds it and the bus has acknowledged the event that names
it. Every step of that can be repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Episode, EpisodeHeader, Verdict
from lwd.errors import ConfigError, LwdError, StoreError
from lwd.log import codec
from lwd.log.bus import Bus
from lwd.log.events import EpisodeEvent
from lwd.log.layout import NAME, check_header
from lwd.log.objects import ObjectSink
from lwd.log.spool import Spool, spool_error

log = logging.getLogger(__name__)

_FAILURES_PER_ROUND = 3


class EpisodeRecording:
    """One running episode; implements `lwd.robot.recorder.Recording`. Made by `EdgeClient.begin`; one thread."""

    def __init__(
        self,
        spool: Spool,
        header: EpisodeHeader,
        flush_steps: int,
        on_end: Callable[[EpisodeRecording], bool],
        on_torn: Callable[[Path], None],
    ) -> None:
        self._spool, self._header, self._on_end, self._on_torn = spool, header, on_end, on_torn
        self.path = spool.part(header.episode_id)
        try:
            self._file = open(self.path, "xb")  # noqa: SIM115 - open while the episode runs
        except OSError as error:
            raise spool_error(self.path, "create", error) from error
        try:
            self._stream = codec.EpisodeStream(self._file, header, flush_steps)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            # It holds no step, and nobody would look at it before the next start.
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise spool_error(self.path, "write", error) from error

    def step(
        self,
        proprio: NDArray[np.float32],
        action: NDArray[np.float32],
        intervention: bool,
        time_s: float,
        images: Mapping[str, bytes],
    ) -> None:
        """Append a control step: state [P] sensed `time_s` seconds into the episode, action [A] then executed.

        Raises:
            StoreError: the spool cannot be written (full disk); what is written so far is kept.
        """
        try:
            self._stream.step(proprio, action, intervention, time_s, images)
        except OSError as error:
            raise spool_error(self.path, "write", error) from error

    def finish(
        self, proprio: NDArray[np.float32], time_s: float, images: Mapping[str, bytes], verdict: Verdict
    ) -> None:
        """Close with the final state [P] and the verdict; from then on the episode is in the spool for good.

        An episode without a control step is dropped. StoreError as in `step`.
        """
        steps = self._stream.steps
        if steps == 0:
            self.abort()
            return
        try:
            self._stream.finish(proprio, time_s, images, verdict)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._spool.promote(self.path)
        except OSError as error:
            raise spool_error(self.path, "write", error) from error
        header = self._header
        log.info(
            "episode_recorded episode=%s task=%s snapshot=%s outcome=%s steps=%d",
            *(header.episode_id, header.task, header.snapshot, verdict.outcome, steps),
        )
        self._on_end(self)

    def abort(self) -> None:
        """Give up: what is whole becomes an UNJUDGED episode. Does nothing after `finish` or `abort`.

        Raises:
            StoreError: the spool refuses (full disk); the client tries it again when it delivers.
        """
        if self._on_end(self):
            self._close()
            try:
                self._spool.salvage(self.path)
            except StoreError:
                self._on_torn(self.path)
                raise

    def _close(self) -> None:
        try:
            if not self._file.closed:
                self._stream.flush()
        except OSError as error:
            log.warning("spool_flush_failed path=%s cause=%r", self.path, str(error))
        try:
            self._file.close()
        except OSError as error:  # a full disk can refuse the last buffered bytes
            log.warning("spool_close_failed path=%s cause=%r", self.path, str(error))


class EdgeClient:
    """A robot's recorder and its delivery; implements `lwd.robot.recorder.Recorder`.

    Args:
        spool: a folder of this client alone (another one is refused); made if missing.
        objects: where episodes go.
        bus: where their events go.
        robot: this robot's name, [A-Za-z0-9_-].
        flush_s: seconds of an episode that the death of this process may cost.
        retry_s: shortest and longest pause of the background thread after a failure.

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
    ) -> None:
        if not NAME.fullmatch(robot):
            raise ConfigError(f"robot name {robot!r:.80} must be 1 to 64 of the characters [A-Za-z0-9_-].")
        self.robot = robot
        self._objects, self._bus = objects, bus
        self._flush_s, self._retry_s = flush_s, retry_s
        self._open: set[EpisodeRecording] = set()
        self._torn: list[Path] = []  # given up while the disk was full
        self._guard, self._delivering = threading.Lock(), threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._spool = Spool(Path(spool))
        try:
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
        if header.robot != self.robot:
            raise ConfigError(
                f"the episode's robot is {header.robot!r:.80}, but this client delivers for {self.robot!r}."
            )
        check_header(header)  # before a file is named after it
        flush_steps = max(1, round(header.control_hz * self._flush_s))
        with self._guard:  # so that `recover` cannot see the file before it is known as running
            recording = EpisodeRecording(self._spool, header, flush_steps, self._ended, self._torn.append)
            self._open.add(recording)
        return recording

    def submit(self, episode: Episode) -> None:
        """Put a complete episode into the spool; it is then as safe as one recorded step by step."""
        check_header(episode.header)
        self._spool.add(episode.header.episode_id, codec.encode(episode))
        self._wake.set()

    def pending(self) -> tuple[int, int]:
        """Episodes in the spool that are not delivered yet, and their bytes."""
        sizes: list[int] = []
        for path in self._spool.whole():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # delivered meanwhile
                continue
        return len(sizes), sum(sizes)

    def recover(self) -> int:
        """Make whole episodes of what a crash left half-written; how many. Running ones are left alone."""
        with self._guard:
            torn = self._spool.torn({recording.path for recording in self._open})
        recovered = sum(self._spool.salvage(path) for path in torn)
        self._wake.set()
        return recovered

    def deliver(self) -> int:
        """Deliver what is in the spool, oldest first; how many left it. Failures are logged and stay in it."""
        delivered = failures = 0
        with self._delivering:
            self._salvage_again()
            for path in self._spool.whole():
                try:
                    self._deliver(path)
                    delivered += 1
                    failures = 0
                except (LwdError, OSError) as error:
                    failures += 1
                    log.warning("episode_delivery_failed episode=%s cause=%r", path.stem, str(error))
                    if failures >= _FAILURES_PER_ROUND:  # it is the network, not this episode
                        break
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
            recording.abort()
        self.stop()
        self._spool.close()

    def _salvage_again(self) -> None:
        """What could not be made whole on a full disk; a robot may run for weeks before it starts again."""
        for part in list(self._torn):
            try:
                if part.exists():  # else `recover` was quicker
                    self._spool.salvage(part)
            except LwdError as error:
                log.warning("episode_stays_torn episode=%s cause=%r", part.stem, str(error))
                continue
            self._torn.remove(part)

    def _ended(self, recording: EpisodeRecording) -> bool:
        """A recording ended; whether it was still running."""
        with self._guard:
            running = recording in self._open
            self._open.discard(recording)
        self._wake.set()
        return running

    def _deliver(self, path: Path) -> None:
        data = path.read_bytes()
        event = EpisodeEvent(
            episode_id=path.stem,
            robot=self.robot,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            ended_at=path.stat().st_mtime,
        )
        self._objects.put_once(event.key, data)
        self._bus.publish(event.subject, event.payload(), event.message_id)
        path.unlink()  # not before the bus holds the event; dying here costs a duplicate, which is harmless
        log.info("episode_delivered episode=%s bytes=%d", path.stem, len(data))

    def _run(self) -> None:
        pause = self._retry_s[0]
        while True:
            self._wake.clear()  # before looking: what comes after this line wakes us again
            last = self._stopping.is_set()
            try:
                delivered = self.deliver()
                waits = bool(self._spool.whole())
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
