"""A robot's side of a policy server: the same seam as a policy of its own. No JAX.

Every chunk of an episode comes from the snapshot that the server named when the episode began. A server that is away is
waited for between two chunks; an answer of another snapshot is never executed.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, LwdError, RobotError
from lwd.fleet.robot_policy import View
from lwd.fleet.serve.observation import OWN_PROMPT, OWN_STATE
from lwd.fleet.serve.protocol import FrameError, pack, unpack
from lwd.fleet.telemetry import Telemetry
from lwd.spec import RobotSpec

log = logging.getLogger(__name__)

RETRY_S = 0.5
MAX_ANSWER_BYTES = 16 << 20
PASSING = ("busy", "waits", "failed")
"""Errors that another try may not meet."""


class ServerAwayError(LwdError):
    """The server cannot be reached, or did not answer in time."""


class RefusedError(LwdError):
    """The server's answer is an error. `code` is its first word; see `lwd.fleet.serve.server.CODES`."""

    def __init__(self, text: str) -> None:
        self.code = text.partition(":")[0]
        super().__init__(f"the policy server answers: {text[:500]}")


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """Which server, and how patient to be.

    Attributes:
        url: ws://host:port or wss://host:port.
        token: this robot's, None where the server asks for none.
        ca_file: certificates of the server's authority, where it is not a public one.
        answer_s: longest wait for one answer.
        patience_s: for how long an episode waits for a server that is away; then it is given up.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    answer_s: float = 10.0
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number up to 65535
            good = False
        if not good:
            raise ConfigError(
                f"--policy-server is {self.url!r:.80}; expected ws://host:port or wss://host:port."
            )
        if self.ca_file is not None and not self._encrypted:
            raise ConfigError(
                f"--policy-ca-file {self.ca_file!r} is for wss://; {self.url!r:.80} is not encrypted and checks no "
                "certificate. Give the server's wss:// address, or leave the file out."
            )
        self.tls()

    @property
    def _encrypted(self) -> bool:
        return urlsplit(self.url).scheme == "wss"  # in lower case, whatever was written

    def tls(self) -> ssl.SSLContext | None:
        """For wss://; ConfigError if the authority's certificates cannot be read."""
        if not self._encrypted:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"--policy-ca-file {self.ca_file!r} cannot be read: {error}. Expected certificates in PEM."
            ) from error


class Connection:
    """One websocket to a policy server, opened when it is first needed and again after it was lost."""

    def __init__(self, options: RemoteOptions) -> None:
        self._options, self._socket = options, None
        self.metadata: dict[str, Any] = {}

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send one message and return its answer.

        Raises:
            ServerAwayError: no server, no answer, or a damaged one; the connection is closed.
            RefusedError: the answer is an error.
            ConfigError: the server does not let us in.
        """
        from websockets.exceptions import WebSocketException

        socket = self._open()
        try:
            socket.send(pack(message))
            frame: str | bytes = socket.recv(timeout=self._options.answer_s)
            answer = unpack(frame) if isinstance(frame, bytes) else None
        except (OSError, TimeoutError, WebSocketException, FrameError) as error:
            self.close()  # an answer that comes late must not be taken for the next one's
            raise ServerAwayError(self._away(error)) from error
        if answer is None:
            raise RefusedError(str(frame))
        return answer

    def close(self) -> None:
        """Close it, if it is open."""
        if self._socket is not None:
            try:
                self._socket.close()
            except Exception as error:  # it is thrown away in any case
                log.debug("policy_server_close_failed cause=%r", str(error))
            self._socket = None

    def _open(self) -> Any:
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> Any:
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise ConfigError("--policy-server needs websockets: pip install 'lwd[remote]'.") from error
        o = self._options
        headers = {"Authorization": f"Bearer {o.token}"} if o.token is not None else None
        try:
            socket: Any = connect(
                o.url,
                additional_headers=headers,
                ssl=o.tls(),
                compression=None,
                max_size=MAX_ANSWER_BYTES,
                close_timeout=2,
            )
            try:
                self.metadata = unpack(socket.recv(timeout=o.answer_s))
            except BaseException:
                socket.close()
                raise
        except InvalidStatus as error:
            if error.response.status_code == 401:
                raise ConfigError(f"the policy server {o.url} refuses this robot's token.") from error
            raise ServerAwayError(self._away(error)) from error
        except (OSError, TimeoutError, WebSocketException, LwdError) as error:
            raise ServerAwayError(self._away(error)) from error
        return socket

    def _away(self, error: Exception) -> str:
        return f"the policy server {self._options.url} is away: {type(error).__name__}: {error!s:.200}"


@dataclass(frozen=True, eq=False)
class RemoteEpisode:
    """The policy of one episode: a snapshot of the server, named when the episode began."""

    number: int
    name: str
    source: RemotePolicies

    def chunk(self, view: View, seed: int, index: int) -> NDArray[np.float32]:
        """An action chunk [H, A] in [-1, 1], computed wholly by snapshot `number`.

        Raises:
            RobotError: the server cannot go on with this episode, or stayed away for too long.
        """
        return self.source.chunk(self, view, seed, index)


class RemotePolicies:
    """Policies of a policy server; `newest` begins an episode on it.

    Args:
        options: the server.
        spec: this robot; a server of another kind of robot is refused.
        telemetry: gets `chunk_answer_seconds`.
        say: told what is waited for, and None when it is over.
        should_stop: ends a wait.
        choices: the snapshots that this robot may run, best first, none before the first release; None for any.
    """

    def __init__(
        self,
        options: RemoteOptions,
        spec: RobotSpec,
        telemetry: Telemetry,
        say: Callable[[str | None], None],
        should_stop: Callable[[], bool],
        choices: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self._options, self._spec, self._telemetry, self._choices = options, spec, telemetry, choices
        self._say, self._should_stop = say, should_stop
        self._connection = Connection(options)
        self.waits_for = f"the policy server {options.url}"

    def newest(self) -> RemoteEpisode | None:
        """A new episode under the server's newest snapshot, or the best that this robot may run and the server has.

        None while the server is away or has none of these; `waits_for` says why.

        Raises:
            ConfigError: the server refuses this robot, or serves another kind of robot.
        """
        if self._choices is None:
            return self._begin({})
        self.waits_for = "the first release"
        for number in self._choices():
            if (begun := self._begin({"lwd/snapshot": number})) is not None:
                return begun
        if self._connection.metadata.get("follow") == "newest":
            self.waits_for += (
                " The server follows the newest snapshot: start lwd serve with --follow releases."
            )
        return None

    def _begin(self, which: Mapping[str, Any]) -> RemoteEpisode | None:
        name = secrets.token_hex(8)
        try:
            answer = self._connection.ask({"lwd/begin": True, "lwd/episode": name, **which})
        except (ServerAwayError, RefusedError) as error:
            self.waits_for = str(error)
            return None
        self._check_spec()
        number = answer.get("snapshot")
        if type(number) is not int:
            raise ConfigError(
                f"{self._options.url} does not name its snapshot; it is no server of lwd serve."
            )
        return RemoteEpisode(number, name, self)

    def behind(self) -> int:
        """0: the server follows the fleet."""
        return 0

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def chunk(self, episode: RemoteEpisode, view: View, seed: int, index: int) -> NDArray[np.float32]:
        """See `RemoteEpisode.chunk`."""
        message = {
            OWN_STATE: np.asarray(view.proprio, np.float32),
            OWN_PROMPT: view.instruction,
            **{self._image_key(camera): jpeg for camera, jpeg in view.images.items()},
            "lwd/episode": episode.name,
            "lwd/snapshot": episode.number,
            "lwd/seed": seed & 0x7FFFFFFF,
            "lwd/chunk": index,
        }
        began = time.monotonic()
        answer = self._patiently(message, began)
        self._telemetry.observe("chunk_answer_seconds", [time.monotonic() - began])
        return self._checked(answer, episode)

    def _patiently(self, message: Mapping[str, Any], began: float) -> dict[str, Any]:
        """Ask until there is an answer; the robot stands still meanwhile, at the end of its last chunk."""
        said = False
        while True:
            try:
                answer = self._connection.ask(message)
            except (ServerAwayError, RefusedError) as error:
                passing = not isinstance(error, RefusedError) or error.code in PASSING
                if not passing or self._should_stop() or time.monotonic() - began > self._options.patience_s:
                    raise RobotError(f"the episode is given up: {error}") from error
                if not said:
                    log.warning("policy_server_away cause=%r", str(error))
                self._say(str(error))
                said = True
                time.sleep(RETRY_S)
                continue
            self._check_spec()  # another server may have taken its place
            if said:
                self._say(None)
            return answer

    def _image_key(self, camera: str) -> str:
        keys: Mapping[str, Any] = self._connection.metadata.get("image_keys") or {}
        return next((key for key, name in keys.items() if name == camera), f"observation/{camera}")

    def _checked(self, answer: Mapping[str, Any], episode: RemoteEpisode) -> NDArray[np.float32]:
        if answer.get("snapshot") != episode.number:
            raise RobotError(
                f"the policy server answered with snapshot {answer.get('snapshot')!r:.40} in an episode of snapshot "
                f"{episode.number}; the chunk was not executed."
            )
        actions, shape = answer.get("actions"), (self._spec.chunk_steps, self._spec.action_dim)
        if not isinstance(actions, np.ndarray) or actions.shape != shape or not np.isfinite(actions).all():
            raise RobotError(f"the policy server's answer is no finite chunk {shape}; it was not executed.")
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def _check_spec(self) -> None:
        keys, spec = self._connection.metadata, self._spec
        expected = {
            "robot_spec": spec.name,
            "proprio_dim": spec.proprio_dim,
            "action_dim": spec.action_dim,
            "action_horizon": spec.chunk_steps,
        }
        for name, value in expected.items():
            if keys.get(name) != value:
                raise ConfigError(
                    f"the policy server {self._options.url} has {name} {keys.get(name)!r:.80}, this robot {value!r}. "
                    "Ask the server of this robot's fleet."
                )
