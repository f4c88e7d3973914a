"""The project's exceptions. Each says what happened, where, what was expected and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LwdError(Exception):
    """Base of all errors that a user can cause and can mend."""


class ConfigError(LwdError):
    """A setting has a value that cannot work."""


class UnknownNameError(LwdError):
    """A task, recipe, robot or store name that does not exist.

    Attributes:
        kind: what sort of name it is ("task", "recipe", ...).
        name: the name that was given.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(self.known) or 'none'}.")


class EpisodeError(LwdError):
    """An episode that must not be trained on.

    Attributes:
        episode_id: the episode, or "?" when even that cannot be read.
        reason: one word for tables: corrupt, truncated, schema, shape, nan, spec, task, times, hash, robot, missing,
            duplicate, dropped.
        detail: what was found and what was expected.
    """

    def __init__(self, episode_id: str, reason: str, detail: str) -> None:
        self.episode_id, self.reason, self.detail = episode_id, reason, detail
        super().__init__(f"episode {episode_id}: {reason}: {detail}")


class PictureError(LwdError):
    """Bytes that are no JPEG of their camera's size; the message goes on from "the picture"."""


class StoreError(LwdError):
    """The object store, catalogue or bus refused or could not be reached."""


class SnapshotError(LwdError):
    """A snapshot that must not be loaded: missing, wrong hash, wrong signature or wrong shape."""


class WeightsError(LwdError):
    """Weights in a file that do not fit the network they are read into.

    Attributes:
        where: the file or folder.
        problems: one line per leaf: missing, extra or misshapen, with its name, expected and found shape.
    """

    def __init__(self, where: str, problems: Iterable[str], advice: str) -> None:
        self.where, self.problems = where, list(problems)
        super().__init__(f"{where}: {'; '.join(self.problems)}. {advice}")


class CheckpointError(LwdError):
    """A checkpoint that does not fit the run that wants to resume from it."""


class RobotError(LwdError):
    """A robot or its simulator stopped: an exception in its process, a dead process, or no answer in time."""
