"""The spool: a folder on the robot's own disk where episodes wait until they are delivered.

`<id>.part` is an episode that runs (or a process that died), `<id>.mcap` one that is whole and synced.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Collection
from pathlib import Path

from lwd.errors import EpisodeError, StoreError
from lwd.log import codec
from lwd.log.layout import NAME

log = logging.getLogger(__name__)

_PART, _WHOLE, _TEMPORARY = ".part", ".mcap", ".tmp"


class Spool:
    """One client's folder. Locked against other processes until `close` or the death of this one.

    Raises:
        StoreError: it cannot be made or written, or another client uses it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = _lock_folder(folder)

    def close(self) -> None:
        """Let another client have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def part(self, episode_id: str) -> Path:
        """The file of a running episode."""
        return self.folder / f"{episode_id}{_PART}"

    def whole(self) -> list[Path]:
        """Files that wait for delivery, oldest episode first (ids sort by time)."""
        return sorted(path for path in self.folder.glob(f"*{_WHOLE}") if NAME.fullmatch(path.stem))

    def torn(self, running: Collection[Path]) -> list[Path]:
        """Files of episodes that nobody writes any more, given those that are `running`."""
        for path in self.folder.glob(f"*{_TEMPORARY}"):  # never renamed, so it was never promised
            path.unlink(missing_ok=True)
        return [path for path in sorted(self.folder.glob(f"*{_PART}")) if path not in running]

    def promote(self, part: Path) -> None:
        """Make a synced `.part` file one that waits for delivery."""
        os.replace(part, part.with_suffix(_WHOLE))
        _sync_folder(self.folder)

    def add(self, episode_id: str, data: bytes) -> None:
        """Store a whole episode file: all of it, synced, or nothing. StoreError if the disk refuses."""
        path = self.folder / f"{episode_id}{_WHOLE}"
        temporary = path.with_suffix(_TEMPORARY)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(self.folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise spool_error(path, "write", error) from error

    def salvage(self, part: Path) -> bool:
        """Make a whole episode of a torn file; False if it holds no complete control step and was deleted."""
        whole = part.with_suffix(_WHOLE)
        if whole.exists():  # a crash between writing the whole file and removing the torn one
            part.unlink()
            return False
        try:
            episode = codec.recover(part.read_bytes())
            data = None if episode is None else codec.encode(episode)
        except EpisodeError as error:
            # Not readable here. The coordinator will quarantine it, list it and keep the bytes.
            log.error(
                "episode_unreadable episode=%s reason=%s detail=%r", part.stem, error.reason, error.detail
            )
            self.promote(part)
            return True
        except OSError as error:
            raise spool_error(part, "read", error) from error
        if episode is None or data is None:
            log.warning("episode_empty episode=%s deleted=true cause='no whole control step'", part.stem)
            part.unlink()
            return False
        self.add(part.stem, data)
        part.unlink()
        outcome = episode.verdict.outcome
        log.warning("episode_recovered episode=%s steps=%d outcome=%s", part.stem, episode.steps, outcome)
        return True


def spool_error(path: Path, action: str, error: OSError) -> StoreError:
    """What to tell a user whose spool's disk refuses."""
    return StoreError(
        f"spool: cannot {action} {str(path)!r}: {error.strerror or error}. Check free space and permissions; "
        "what was recorded before is kept."
    )


def _lock_folder(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise spool_error(folder, "open", error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"spool {str(folder)!r} is in use by another client; give each robot a spool of its own."
        ) from error
    return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
