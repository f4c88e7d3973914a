"""How a robot gets its policy: announced, downloaded in the background, verified, kept on disk for days without network."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from lwd.errors import ConfigError, LwdError, SnapshotError
from lwd.fleet.credential import write_private
from lwd.fleet.telemetry import Telemetry
from lwd.instruction import InstructionEncoder
from lwd.log.objects import ObjectSource
from lwd.robot.state_policy import StatePolicy
from lwd.snapshot.announcement import announcement, parse_announcement
from lwd.snapshot.follower import Newest, SnapshotFollower
from lwd.snapshot.store import Snapshot, verify
from lwd.spec import RobotSpec

log = logging.getLogger(__name__)

POLL_S = 0.05
RETRY_S = (0.5, 30.0)


@dataclass(frozen=True, eq=False)
class View:
    """What the policy sees at the beginning of a chunk: proprio float32 [P], the sentence, camera -> JPEG."""

    proprio: NDArray[np.float32]
    instruction: str
    images: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


@runtime_checkable
class Driving(Protocol):
    """The policy of one episode, on this computer or on a server."""

    @property
    def number(self) -> int:
        """Its snapshot."""
        ...

    def chunk(self, view: View, seed: int, index: int) -> NDArray[np.float32]:
        """An action chunk [H, A] in [-1, 1] of that snapshot and no other; `seed` and `index` are the noise's.

        Raises:
            RobotError: there is none, and the episode cannot go on.
        """
        ...


@runtime_checkable
class PolicySource(Protocol):
    """Where a robot's policies come from."""

    @property
    def waits_for(self) -> str:
        """What is missing while `newest` is None."""
        ...

    def newest(self) -> Driving | None:
        """What drives an episode that begins now, None while there is nothing."""
        ...

    def behind(self) -> int:
        """How many numbers it is behind the newest announced one."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A verified policy on this computer, ready to drive."""

    snapshot: Snapshot
    policy: StatePolicy
    encoder: InstructionEncoder

    @property
    def number(self) -> int:
        """Its snapshot."""
        return self.snapshot.number

    def chunk(self, view: View, seed: int, index: int) -> NDArray[np.float32]:
        """See `Driving.chunk`."""
        return self.policy.chunk(view.proprio, self.encoder(view.instruction), seed, index)


class SnapshotCache:
    """The newest verified snapshot on the robot's disk: `newest.json` and the file that it names.

    What is read back is verified like a download: the disk is not trusted either.

    Args:
        folder: of this robot alone; made if missing.
        source: where files come from.
        key: the fleet's public key.
        kind: of robot. What another fleet or a robot of another kind left in the folder says nothing here.
    """

    def __init__(self, folder: Path, source: ObjectSource, key: Ed25519PublicKey, kind: str) -> None:
        self._folder, self._source, self._key, self._kind = folder, source, key, kind
        folder.mkdir(parents=True, exist_ok=True)
        for left in (*folder.glob(".*.safetensors.*"), *folder.glob(".newest.json.*")):  # a killed one's
            with contextlib.suppress(OSError):
                left.unlink()

    def newest(self) -> Snapshot | None:
        """The row of the newest kept snapshot, None without one or if it cannot be read or believed."""
        try:
            row = parse_announcement(json.loads((self._folder / "newest.json").read_text()))
            verify(row, self._key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LwdError) as error:
            log.warning("snapshot_cache_unreadable folder=%s cause=%r", self._folder, str(error))
            return None
        return row if row.may_drive(self._kind) else None

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """See `ObjectSource.get`: from the disk if it is there, else from the network and then onto the disk."""
        path = self._folder / Path(key).name
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == path.stem:  # a damaged file must not hide the network's
                return data
        data = self._source.get(key, max_bytes)
        with contextlib.suppress(ConfigError):  # a full disk must not keep a robot from its policy
            write_private(path, data, replace=True)
        return data

    def keep(self, snapshot: Snapshot, also: Collection[str] = ()) -> None:
        """Note the newest verified one, older files go; nothing happens if its file is not here (a full disk).

        `also`: hashes of files that stay too.
        """
        if not (self._folder / Path(snapshot.key).name).exists():
            return
        with contextlib.suppress(OSError, ConfigError):
            text = json.dumps(announcement(snapshot))
            write_private(self._folder / "newest.json", text.encode(), replace=True)
            for path in self._folder.glob("*.safetensors"):
                if path.stem not in (snapshot.sha256, *also):
                    path.unlink(missing_ok=True)

    def refuse(self, snapshot: Snapshot) -> None:
        """Delete the file of one that does not fit this robot, unless it is also what `newest` names."""
        kept = self.newest()
        if kept is None or kept.sha256 != snapshot.sha256:
            with contextlib.suppress(OSError):
                (self._folder / Path(snapshot.key).name).unlink(missing_ok=True)


class PolicyFollower:
    """Downloads and verifies the newest policy while the robot works; `newest` never waits.

    What is on this computer's disk drives at once, whatever was announced since: that may be out of reach, or not fit. A
    snapshot that cannot be loaded, or does not fit this robot, is said in the log; the robot goes on with the last good one.

    Args:
        announced: the newest row that is known for this kind of robot, None before the first, such as `NatsChannel.snapshot`.
        cache: where files come from and stay.
        key: the fleet's public key.
        spec: this robot.
        encoder: its instruction encoder.
        telemetry: gets `snapshot_loaded_seconds`.
        released: under releases: hashes of the files that stay on the disk, so that going back needs no network. `announced` is
            then what the newest release allows this robot, which may be a lower number than the one before.
    """

    def __init__(
        self,
        announced: Newest,
        cache: SnapshotCache,
        key: Ed25519PublicKey,
        spec: RobotSpec,
        encoder: InstructionEncoder,
        telemetry: Telemetry,
        *,
        released: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self._released = released
        self._announced, self._cache = announced, cache
        self._spec, self._encoder, self._telemetry = spec, encoder, telemetry
        self._wanted = self._kept = cache.newest()
        self._follower = SnapshotFollower(lambda: self._wanted, cache, key, goes_back=released is not None)
        self._loaded: Loaded | None = None
        self._began = time.time()
        self._ended = threading.Event()
        if self._kept is not None:
            self._poll()
        self._thread = threading.Thread(target=self._run, name="lwd-policy", daemon=True)
        self._thread.start()

    @property
    def waits_for(self) -> str:
        """See `PolicySource.waits_for`."""
        return "the first snapshot" if self._released is None else "the first release"

    def newest(self) -> Loaded | None:
        """The newest policy that is loaded, None before the first."""
        return self._loaded

    def behind(self) -> int:
        """How many numbers the loaded policy is behind the newest announced one."""
        announced, loaded = self._announced(), self._loaded
        return 0 if announced is None else announced.number - (loaded.snapshot.number if loaded else 0)

    def close(self) -> None:
        """Stop following."""
        self._ended.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        failed, pause, again_at = 0, RETRY_S[0], 0.0
        while not self._ended.wait(POLL_S):
            row = self._announced() or self._kept
            if row is None or self._follower.holds(row.number):
                continue
            self._wanted = row
            if row.number != failed:  # announced since: tried at once, whatever the last one's pause is
                failed, pause, again_at = row.number, RETRY_S[0], 0.0
            if time.monotonic() >= again_at and not self._poll():
                again_at = time.monotonic() + pause
                pause = min(2 * pause, RETRY_S[1])

    def _poll(self) -> bool:
        """Load what is newer than what was loaded; whether it drives from now on."""
        found = self._follower.poll()
        if found is None:
            return False
        arrays, snapshot = found
        try:
            where = f"snapshot {snapshot.number}"
            policy = StatePolicy(arrays, snapshot.meta, self._spec, self._encoder.version, where)
        except SnapshotError as error:  # another robot's, perhaps: not tried again, the next one may fit
            log.error("snapshot_refused snapshot=%d cause=%r", snapshot.number, str(error))
            self._telemetry.count("snapshots_refused_total")
            self._cache.refuse(snapshot)
            return False
        if snapshot.created_at > self._began:  # older ones say nothing of the way here
            self._telemetry.observe("snapshot_loaded_seconds", [time.time() - snapshot.created_at])
        self._loaded = Loaded(snapshot, policy, self._encoder)
        self._cache.keep(snapshot, () if self._released is None else self._released())
        return True
