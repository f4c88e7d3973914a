"""The coordinator's desk: answers robots that join, grants their transfers, keeps what everybody says of itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from lwd import __version__
from lwd.config import Experiment
from lwd.episode import Source
from lwd.errors import LwdError, StoreError
from lwd.fleet.collect import SEEDS_PER_RUN, first_seed
from lwd.fleet.folder import Services
from lwd.fleet.robot_config import NEWEST, Follow, RobotConfig
from lwd.fleet.services import fleet_description
from lwd.fleet.telemetry import Telemetry
from lwd.log.calls import NatsCalls
from lwd.log.checks import integer_in
from lwd.log.grants import Grants
from lwd.log.nats_link import NatsLink
from lwd.log.robots import NotAllowedError, check_active, robots
from lwd.log.signals import NatsSignals
from lwd.log.status import ALL_STATUSES, StatusRow, read_status, record_statuses

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 1.0
GONE_S = 60.0
"""Numbers of who said nothing for so long are not shown any more."""
MAX_STATUSES = 20_000
"""Names that statuses are kept of at most; a thousand robots need a thousand."""


@contextmanager
def registry(
    services: Services,
    link: NatsLink,
    experiments: Sequence[Experiment],
    telemetry: Telemetry,
    *,
    public_objects_url: str | None = None,
    follow: Follow = NEWEST,
) -> Generator[None]:
    """Answer and listen until the block ends.

    Args:
        services: catalogue and objects.
        link: the broker.
        experiments: one per kind of robot.
        telemetry: gets the robots' lag behind the newest snapshot.
        public_objects_url: where robots reach the object store, if not at its endpoint.
        follow: which snapshots the robots run; see `RobotConfig`.
    """
    calls = NatsCalls(link)
    configs = {config.spec.name: config for config in map(robot_config, experiments)}

    def configuration(subject: str, _: Mapping[str, Any]) -> dict[str, Any]:
        robot = subject.split(".")[1]
        try:
            config = configs_for(services, configs, robot)
            newest = services.snapshots.latest(config.spec.name)
            return replace(config, snapshot=newest, follow=follow).to_json()
        except NotAllowedError:
            raise
        except LwdError as error:  # its text names servers that robots need not know
            log.warning("configuration_failed robot=%s cause=%r", robot, str(error))
            raise StoreError("the coordinator cannot look now; ask again later.") from None

    with ExitStack() as stack:
        grants = Grants(services.catalogue, services.objects, public_url=public_objects_url)
        stack.callback(grants.serve(calls).close)
        stack.callback(calls.serve("calls.*.config", configuration).close)
        desk = StatusDesk(services, telemetry)
        stack.callback(NatsSignals(link).listen(ALL_STATUSES, desk.heard).close)
        stack.enter_context(desk.flushing())
        yield


def robot_config(experiment: Experiment) -> RobotConfig:
    """What a robot of this experiment is told."""
    spec, tasks = fleet_description(experiment)
    first = first_seed(experiment, Source.ONLINE)
    return RobotConfig(
        spec=spec,
        tasks=tasks,
        fleet=experiment.fleet.deployed,
        takeover=experiment.online.takeover,
        instruction_dim=experiment.model.instruction_dim,
        first_seed=first,
        last_seed=first + SEEDS_PER_RUN - 1,
        software=__version__,
    )


def configs_for(services: Services, configs: Mapping[str, RobotConfig], robot: str) -> RobotConfig:
    """The configuration of an invited robot; NotAllowedError if it is not one, or of a kind that nobody serves."""
    with services.catalogue.read() as connection:
        spec = check_active(connection, robot).spec
    if spec not in configs:
        raise NotAllowedError(
            f"robot {robot!r} was invited as a {spec!r}, this coordinator serves {', '.join(sorted(configs))}. "
            "Start the coordinator with that robot's recipe too."
        )
    return configs[spec]


class StatusDesk:
    """Collects statuses and writes them down together, once a second."""

    def __init__(self, services: Services, telemetry: Telemetry) -> None:
        self._services, self._telemetry = services, telemetry
        self._rows: dict[str, StatusRow] = {}
        self._shown: dict[str, float] = {}  # when each was heard last, of whom numbers are shown
        self._guard = threading.Lock()
        self._failed: str | None = None

    def heard(self, subject: str, message: Mapping[str, Any]) -> None:
        """Take in one status."""
        row = read_status(subject.partition(".")[2], message)
        with self._guard:
            if row is not None and (row.name in self._rows or len(self._rows) < MAX_STATUSES):
                self._rows[row.name] = row

    @contextmanager
    def flushing(self) -> Generator[None]:
        """Write down what came, until the block ends."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(FLUSH_EVERY_S):
                self._try_flush()

        thread = threading.Thread(target=run, name="lwd-statuses", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(10.0)
            self._try_flush()

    def _try_flush(self) -> None:
        """One status that nobody foresaw must not end those of all others."""
        try:
            self.flush()
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            if cause != self._failed:  # the same one may come again every few seconds
                log.exception("statuses_failed")
            self._failed = cause

    def flush(self) -> None:
        """Write down what came since the last time; what the catalogue refuses now is superseded soon."""
        with self._guard:
            rows, self._rows = list(self._rows.values()), {}
        try:
            known = {robot.name: robot for robot in robots(self._services.catalogue)}
            gone = {name for name, robot in known.items() if robot.revoked_at is not None}
            # Their last words must not bring their row back.
            rows = [row for row in rows if row.name not in gone]
            record_statuses(self._services.catalogue, rows)
            kinds = {row.name: known[row.name].spec if row.name in known else None for row in rows}
            newest = self._newest(set(kinds.values()))
        except StoreError as error:
            log.warning("statuses_not_written count=%d cause=%r", len(rows), str(error))
            return
        for row in rows:
            loaded, number = integer_in(row.payload.get("snapshot"), 0), newest[kinds[row.name]]
            if row.role == "robot" and loaded is not None and number is not None:
                self._telemetry.gauge("snapshot_lag", float(number - loaded), robot=row.name)
            else:
                self._telemetry.drop("snapshot_lag", robot=row.name)
            # Not `process`: that label says whose endpoint this is.
            self._telemetry.gauge("clock_skew_seconds", row.clock_skew_s, of=row.name)
        self._forget(rows, gone)
        self._telemetry.gauge("statuses_at_seconds", time.time())

    def _newest(self, kinds: set[str | None]) -> dict[str | None, int | None]:
        """The newest snapshot of each kind of robot; under None that of all."""
        snapshots = self._services.snapshots
        head = snapshots.newest()
        found = {kind: snapshots.newest_of(kind, head) for kind in kinds if kind and head}
        return dict.fromkeys(kinds) | found | {None: head}

    def _forget(self, rows: Sequence[StatusRow], gone: set[str]) -> None:
        """The last numbers of who left must not stand on pages, and keep alarms alive, until the coordinator restarts."""
        now = time.monotonic()
        self._shown |= {row.name: now for row in rows}
        for name in [name for name, at in self._shown.items() if name in gone or now - at > GONE_S]:
            del self._shown[name]
            self._telemetry.drop("snapshot_lag", robot=name)
            self._telemetry.drop("clock_skew_seconds", of=name)
