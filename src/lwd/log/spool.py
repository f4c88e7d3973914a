"""The spool: a folder on the robot's own disk where episodes wait until they are delivered.

| file                   | what it is                                                                                |
|------------------------|-------------------------------------------------------------------------------------------|
| `<id>.part`            | an episode that runs, or whose process died                                               |
| `<id>.mcap`            | one that is whole and synced, and waits                                                   |
| `.<id>.about`          | what its worth follows from, so that nobody has to decode it; made anew where it is missing |
| `refused/<id>.mcap`    | one that the service refused for good, with the reason in `refused/<id>.json`             |
| `.dropped.jsonl`       | the journal of what had to be dropped (`losses`)                                          |
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Collection, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lwd.episode import Outcome, Source
from lwd.errors import EpisodeError, StoreError
from lwd.log import codec
from lwd.log.layout import NAME
from lwd.log.spool_index import Held, SpoolIndex
from lwd.log.worth import About, Worth, about

log = logging.getLogger(__name__)

_PART, _WHOLE, _TEMPORARY, _ABOUT, _REASON = ".part", ".mcap", ".tmp", ".about", ".json"
_REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class RefusedEpisode:
    """An episode that the service refused for good, and why; `refused_at` in seconds since the epoch."""

    episode_id: str
    size: int
    reason: str
    refused_at: float


class Spool:
    """One client's folder. Locked against other processes until `close` or the death of this one.

    Attributes:
        index: what is in it, read once when it is opened.
        mending: held while torn files are made whole and while a whole one is written: neither may take the other's file.

    Raises:
        StoreError: it cannot be made or written, or another client uses it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index, self.mending = SpoolIndex(), threading.Lock()
        self._lock: int | None = _lock_folder(folder)
        for part in folder.glob(f"*{_PART}"):
            self.index.runs(part)
        for path in [*self.whole(), *self.set_aside()]:
            self._list(path, self.about(path))

    def close(self) -> None:
        """Let another client have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def new_part(self, episode_id: str) -> Path:
        """Where to write an episode that begins; StoreError if its id is here already."""
        self.check_new(episode_id)
        return self.folder / f"{episode_id}{_PART}"

    def check_new(self, episode_id: str) -> None:
        """StoreError if an episode of this id runs, waits or was refused here: it would be overwritten."""
        whole = f"{episode_id}{_WHOLE}"
        places = {
            "runs": self.folder / f"{episode_id}{_PART}",
            "waits for delivery": self.folder / whole,
            "was refused": self.folder / _REFUSED / whole,
        }
        for state, path in places.items():
            if path.exists():
                raise StoreError(
                    f"spool {str(self.folder)!r}: an episode {episode_id!r} {state} here already, and an id is used once. "
                    "Nothing was overwritten; give the new episode an id of its own."
                )

    def whole(self) -> list[Path]:
        """Files that wait for delivery, oldest episode first (ids sort by time)."""
        return sorted(path for path in self.folder.glob(f"*{_WHOLE}") if NAME.fullmatch(path.stem))

    def set_aside(self) -> list[Path]:
        """Files that were refused for good, oldest episode first."""
        found = (self.folder / _REFUSED).glob(f"*{_WHOLE}")
        return sorted(path for path in found if NAME.fullmatch(path.stem))

    def torn(self, running: Collection[Path]) -> list[Path]:
        """Files of episodes that nobody writes any more, given those that are `running`."""
        for path in self.folder.glob(f"*{_TEMPORARY}"):  # never renamed, so it was never promised
            path.unlink(missing_ok=True)
        known = {path.stem for path in [*self.whole(), *self.set_aside(), *self.folder.glob(f"*{_PART}")]}
        for path in self.folder.glob(f".*{_ABOUT}"):  # its episode is delivered: a crash came in between
            if path.name.removesuffix(_ABOUT)[1:] not in known:
                path.unlink(missing_ok=True)
        return [path for path in sorted(self.folder.glob(f"*{_PART}")) if path not in running]

    def promote(self, part: Path, about: About | None = None) -> None:
        """Make a synced `.part` file one that waits for delivery. OSError if the disk refuses."""
        self._note(part.stem, about)
        whole = part.with_suffix(_WHOLE)
        os.replace(part, whole)
        self.index.forget(part)
        self._list(whole, about)
        _sync_folder(self.folder)

    def add(self, episode_id: str, data: bytes, about: About | None = None) -> None:
        """Store a whole episode file: all of it, synced, or nothing. OSError if the disk refuses."""
        path = self.folder / f"{episode_id}{_WHOLE}"
        self._note(episode_id, about)
        _write(path, data)
        self._list(path, about)
        _sync_folder(self.folder)

    def about(self, path: Path) -> About | None:
        """What is known of a whole episode, from its note or else from the file; None if that cannot be read."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            return _parse_about(json.loads(self._note_path(path.stem).read_bytes()))
        try:
            found = about(codec.decode(path.read_bytes()))
        except (EpisodeError, OSError):
            return None
        self._note(path.stem, found)
        return found

    def remove(self, path: Path) -> None:
        """Remove a whole episode that is delivered or dropped, waiting or refused."""
        path.unlink(missing_ok=True)
        self.index.forget(path)
        path.with_suffix(_REASON).unlink(missing_ok=True)
        self._note_path(path.stem).unlink(missing_ok=True)

    def refuse(self, path: Path, reason: str) -> None:
        """Set an episode aside that the service refused for good. OSError if the disk refuses."""
        target = self.folder / _REFUSED / path.name
        target.parent.mkdir(exist_ok=True)
        _write(target.with_suffix(_REASON), json.dumps({"reason": reason, "at": time.time()}).encode())
        os.replace(path, target)
        self._moved(path, target)
        _sync_folder(target.parent)
        _sync_folder(self.folder)

    def refused(self) -> list[RefusedEpisode]:
        """What was set aside, oldest episode first."""
        found: list[RefusedEpisode] = []
        for path in self.set_aside():
            reason, at = _read_reason(path.with_suffix(_REASON))
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                found.append(RefusedEpisode(episode_id=path.stem, size=size, reason=reason, refused_at=at))
        return found

    def salvage(self, part: Path) -> bool:
        """Make a whole episode of a torn file; False if it holds no complete control step and was deleted.

        OSError if the disk refuses; the torn file stays then.
        """
        whole = part.with_suffix(_WHOLE)
        if whole.exists():  # a crash between writing the whole file and removing the torn one
            self.discard(part)
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
        if episode is None or data is None:
            log.warning("episode_empty episode=%s deleted=true cause='no whole control step'", part.stem)
            self.discard(part)
            return False
        self.add(part.stem, data, about(episode))
        self.discard(part)
        outcome = episode.verdict.outcome
        log.warning("episode_recovered episode=%s steps=%d outcome=%s", part.stem, episode.steps, outcome)
        return True

    def discard(self, part: Path) -> None:
        """Remove a `.part` file that holds nothing that is not elsewhere."""
        part.unlink(missing_ok=True)
        self.index.forget(part)

    def _list(self, path: Path, about: About | None) -> None:
        worth = Worth.UNJUDGED if about is None else about.worth
        with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
            held = Held(path=path, size=path.stat().st_size, worth=worth, waits=path.parent == self.folder)
            self.index.put(held)

    def _moved(self, path: Path, target: Path) -> None:
        held = self.index.forget(path)
        if held is None:  # somebody put it here while we ran
            self._list(target, self.about(target))
        else:
            self.index.put(replace(held, path=target, waits=False))

    def _note(self, episode_id: str, about: About | None) -> None:
        """Best effort and not synced: what is missing or torn is read from the episode itself."""
        if about is not None:
            with contextlib.suppress(OSError):
                self._note_path(episode_id).write_text(json.dumps(asdict(about)))

    def _note_path(self, episode_id: str) -> Path:
        return self.folder / f".{episode_id}{_ABOUT}"


@contextlib.contextmanager
def reporting(path: Path, action: str) -> Generator[None]:
    """Turn OSErrors into what a user is told whose spool's disk refuses."""
    try:
        yield
    except OSError as error:
        raise spool_error(path, action, error) from error


def spool_error(path: Path, action: str, error: OSError) -> StoreError:
    """What to tell a user whose spool's disk refuses."""
    return StoreError(
        f"spool: cannot {action} {str(path)!r}: {error.strerror or error}. Check free space and permissions; "
        "what was recorded before is kept."
    )


def _read_reason(path: Path) -> tuple[str, float]:
    """Why and when; ("?", 0) where it cannot be read: it is for people, the episode is what counts."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        said = json.loads(path.read_bytes())
        return str(said["reason"]), float(said["at"])
    return "?", 0.0


def _parse_about(fields: dict[str, Any]) -> About:
    steps = fields["intervention_steps"]
    if type(steps) is not int:
        raise TypeError("intervention_steps is not an integer")
    return About(
        source=Source(fields["source"]), outcome=Outcome(fields["outcome"]), intervention_steps=steps
    )


def _write(path: Path, data: bytes) -> None:
    """A whole, synced file or none."""
    temporary = path.with_suffix(_TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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
