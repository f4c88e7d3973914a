"""A robot under releases: it runs what the newest release that it believes allows it, with or without network."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from lwd.errors import ConfigError, LwdError
from lwd.fleet.credential import write_private
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.promotion import Notice, notice_message, parse_notice
from lwd.snapshot.store import Snapshot

log = logging.getLogger(__name__)


class Allowed:
    """What a robot is allowed to run; the release that says so is kept on its disk.

    Args:
        releases: of its kind, begun with what `kept_release` found.
        robot: its name.
        path: where the release is kept.
        say: told the edition that is followed.
    """

    def __init__(
        self, releases: NatsReleases, robot: str, path: Path, say: Callable[[int], None] = lambda _: None
    ) -> None:
        self._releases, self._robot, self._path, self._say = releases, robot, path, say
        self._edition = 0

    def snapshot(self) -> Snapshot | None:
        """The row of what it may run, None before the first release."""
        notice = self._notice()
        return None if notice is None else notice.allowed(self._robot)

    def choices(self) -> Sequence[int]:
        """Numbers of what it may run, best first; none before the first release. See `Release.choices`."""
        notice = self._notice()
        return () if notice is None else notice.release.choices(self._robot)

    def files(self) -> Collection[str]:
        """Hashes of what it may run now, and of what it would go back to: from a test, or from a watch."""
        notice = self._releases.held()
        if notice is None:
            return ()
        release = notice.release
        stay = {release.allowed(self._robot), release.stable, release.previous}
        return [row.sha256 for number, row in notice.snapshots.items() if number in stay]

    def _notice(self) -> Notice | None:
        notice = self._releases.held()
        if notice is not None and notice.release.edition != self._edition:
            self._follow(notice)
        return notice

    def _follow(self, notice: Notice) -> None:
        release = notice.release
        text = json.dumps(notice_message(notice)).encode()
        try:
            if not self._path.exists() or self._path.read_bytes() != text:
                write_private(self._path, text, replace=True)
        except (OSError, ConfigError) as error:  # a full disk: it is asked for again after a restart
            log.warning("release_not_kept path=%s cause=%r", self._path, str(error))
        self._edition = release.edition
        self._say(release.edition)
        log.info(
            "release_followed edition=%d snapshot=%d stable=%d candidate=%s reason=%r",
            *(
                release.edition,
                release.allowed(self._robot),
                release.stable,
                release.candidate,
                release.reason,
            ),
        )


def kept_release(path: Path) -> Notice | None:
    """The release that this robot followed last, not verified yet; None without one, or if it cannot be read."""
    try:
        found: object = json.loads(path.read_text())
        return parse_notice(found if isinstance(found, dict) else {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LwdError) as error:
        log.warning("release_unreadable path=%s cause=%r", path, str(error))
        return None
