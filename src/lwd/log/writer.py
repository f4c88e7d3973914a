"""The edge client: what a robot needs to record episodes and to hand them over, whatever dies meanwhile.

In the spool an episode is `<id>.part` while it runs and `<id>.mcap` once it is whole and synced. It leaves the spool
only after the object store holds it and the bus has acknowledged the event that names it. Every step can be repeated.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import random
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Episode, EpisodeHeader, Verdict
from lwd.errors import ConfigError, EpisodeError, LwdError, StoreError
from lwd.log import codec
from lwd.log.bus import Bus
from lwd.log.events import EpisodeEvent
from lwd.log.layout import NAME, check_header
from lwd.log.objects import ObjectSink

log = logging.getLogger(__name__)

_PART, _WHOLE, _TEMPORARY = ".part", ".mcap", ".tmp"
_FAILURES_PER_ROUND = 3


class EpisodeRecording:
    """One running episode; implements `lwd.robot.recorder.Recording`. Made by `EdgeClient.begin`; one thread."""

    def __init__(self, client: EdgeClient, header: EpisodeHeader, flush_steps: int) -> None:
        self._client, self._header = client, header
        self.path = client.spool / f"{header.episode_id}{_PART}"
        try:
            self._file: IO[bytes] = open(self.path, "xb")  # noqa: SIM115 - it stays open while the episode runs
        except OSError as error:
            raise _spool_error(self.path, "create", error) from error
        try:
            self._stream = codec.EpisodeStream(self._file, header, flush_steps)
        except OSError as error:
            self._file.close()
            raise _spool_error(self.path, "write", error) from error

    def step(
        self,
        proprio: NDArray[np.float32],
        action: NDArray[np.float32],
        intervention: bool,
        time_s: float,
        images: Mapping[str, bytes],
    ) -> None:
        """Append one control step: state [P] sensed `time_s` seconds into the episode, action [A] then executed.

        Raises:
            StoreError: the spool cannot be written (full disk); what is written so far is kept.
        """
        try:
            self._stream.step(proprio, action, intervention, time_s, images)
        except OSError as error:
            raise _spool_error(self.path, "write", error) from error

    def finish(
        self, proprio: NDArray[np.float32], time_s: float, images: Mapping[str, bytes], verdict: Verdict
    ) -> None:
        """Close with the final state [P] and the verdict; the episode is then in the spool for good.

        An episode without a control step is dropped. StoreError as in `step`.
        """
        if self._stream.steps == 0:
            self.abort()
            return
        try:
            self._stream.finish(proprio, time_s, images, verdict)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.path, self.path.with_suffix(_WHOLE))
            _sync_folder(self.path.parent)
        except OSError as error:
            raise _spool_error(self.path, "write", error) from error
        log.info(
            "episode_recorded episode=%s task=%s snapshot=%s outcome=%s steps=%d",
            *(
                self._header.episode_id,
                self._header.task,
                self._header.snapshot,
                verdict.outcome,
                self._stream.steps,
            ),
        )
        self._client.closed(self)

    def abort(self) -> None:
        """Give up: what is whole becomes an UNJUDGED episode. Does nothing after `finish` or `abort`."""
        if self._client.closed(self):
            self.release()
            self._client.salvage(self.path)

    def release(self) -> None:
        """Close the file as it is."""
        try:
            self._file.close()
        except OSError as error:  # a full disk can refuse the last buffered bytes
            log.warning("spool_close_failed path=%s cause=%r", self.path, str(error))


class EdgeClient:
    """A robot's recorder and its delivery; implements `lwd.robot.recorder.Recorder`.

    Args:
        spool: a folder of this client alone (a second process is refused); made if missing.
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
        self.spool, self.robot = Path(spool), robot
        self._objects, self._bus = objects, bus
        self._flush_s, self._retry_s = flush_s, retry_s
        self._open: set[EpisodeRecording] = set()
        self._guard, self._delivering = threading.Lock(), threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._lock: int | None = _lock_folder(self.spool)
        try:
            self.recover()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EdgeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
                f"the episode's robot is {header.robot!r:.80}, this client delivers for {self.robot!r}."
            )
        check_header(header)  # before a file is named after it
        recording = EpisodeRecording(self, header, max(1, round(header.control_hz * self._flush_s)))
        with self._guard:
            self._open.add(recording)
        return recording

    def submit(self, episode: Episode) -> None:
        """Put a complete episode into the spool; it is then as safe as one recorded step by step."""
        check_header(episode.header)
        self._spool(episode.header.episode_id, codec.encode(episode))

    def pending(self) -> tuple[int, int]:
        """Episodes in the spool that are not delivered yet, and their bytes."""
        sizes: list[int] = []
        for path in self._whole():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # delivered meanwhile
                continue
        return len(sizes), sum(sizes)

    def recover(self) -> int:
        """Make whole episodes of what a crash left half-written; how many. Running recordings are left alone."""
        with self._guard:
            running = {recording.path for recording in self._open}
        for path in self.spool.glob(f"*{_TEMPORARY}"):
            path.unlink(missing_ok=True)
        torn = [path for path in sorted(self.spool.glob(f"*{_PART}")) if path not in running]
        return sum(self.salvage(path) for path in torn)

    def deliver(self) -> int:
        """Deliver what is in the spool, oldest first; how many episodes left it. Failures are logged and kept."""
        delivered = failures = 0
        with self._delivering:
            for path in self._whole():
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
        """Deliver from a background thread from now on, with back-off while store or bus do not answer."""
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
        """Stop, turn running recordings into UNJUDGED episodes and free the spool. Delivers nothing more."""
        self.stop()
        for recording in list(self._open):
            recording.abort()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def closed(self, recording: EpisodeRecording) -> bool:
        """A recording ended (called by it); whether it was still running."""
        with self._guard:
            running = recording in self._open
            self._open.discard(recording)
        self._wake.set()
        return running

    def salvage(self, path: Path) -> bool:
        """Make a whole episode of a half-written file that nobody writes any more; False if it holds no step."""
        whole = path.with_suffix(_WHOLE)
        if whole.exists():  # a crash between writing the whole file and removing the torn one
            path.unlink()
            return False
        try:
            episode = codec.recover(path.read_bytes())
            data = None if episode is None else codec.encode(episode)
        except EpisodeError as error:
            # Not readable here; perhaps somewhere else. The coordinator quarantines it and keeps the bytes.
            log.error(
                "episode_unreadable episode=%s reason=%s detail=%r", path.stem, error.reason, error.detail
            )
            os.replace(path, whole)
            return True
        if episode is None or data is None:
            log.warning(
                "episode_empty episode=%s: it ended before its first whole control step; deleted", path.stem
            )
            path.unlink()
            return False
        self._spool(path.stem, data)
        path.unlink()
        log.warning(
            "episode_recovered episode=%s steps=%d outcome=%s",
            path.stem,
            episode.steps,
            episode.verdict.outcome,
        )
        return True

    def _spool(self, episode_id: str, data: bytes) -> None:
        """Write a whole episode file: all of it or nothing."""
        path = self.spool / f"{episode_id}{_WHOLE}"
        temporary = path.with_suffix(_TEMPORARY)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(self.spool)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _spool_error(path, "write", error) from error
        self._wake.set()

    def _whole(self) -> list[Path]:
        return sorted(path for path in self.spool.glob(f"*{_WHOLE}") if NAME.fullmatch(path.stem))

    def _deliver(self, path: Path) -> None:
        data = path.read_bytes()
        event = EpisodeEvent(
            episode_id=path.stem, robot=self.robot, sha256=hashlib.sha256(data).hexdigest(), size=len(data)
        )
        self._objects.put_once(event.key, data)
        self._bus.publish(event.subject, event.payload(), event.message_id)
        path.unlink()  # not before the bus holds the event; a crash in between costs a duplicate, which is harmless
        log.info("episode_delivered episode=%s bytes=%d", path.stem, len(data))

    def _run(self) -> None:
        pause = self._retry_s[0]
        while True:
            last = self._stopping.is_set()
            self._wake.clear()
            try:
                delivered = self.deliver()
                waits = bool(self._whole())
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
                self._stopping.wait(pause * random.uniform(0.5, 1.0))  # 1,000 robots must not return together
                pause = min(2 * pause, self._retry_s[1])


def _lock_folder(spool: Path) -> int:
    """Make the spool and hold it for this process; the lock dies with the process."""
    try:
        spool.mkdir(parents=True, exist_ok=True)
        handle = os.open(spool / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _spool_error(spool, "open", error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"spool {str(spool)!r} is in use by another process or client; give each robot a spool of its own."
        ) from error
    return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _spool_error(path: Path, action: str, error: OSError) -> StoreError:
    return StoreError(
        f"spool: cannot {action} {str(path)!r}: {error.strerror or error}. Check free space and permissions; what was "
        "recorded before is kept."
    )
