"""The promoter process: a candidate goes through gates, then to canaries, then to all robots, and is watched there.

All that it knows is in the catalogue: the release that holds, the snapshots and the episodes. So it can be killed at any
point and goes on from there, and a release that somebody makes by hand meanwhile is simply what holds.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lwd.config import Experiment
from lwd.errors import ConfigError, LwdError, SnapshotError
from lwd.evaluate.canary import Finding, TrialPlan, judge
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.gates import GateLimits, examine, observations
from lwd.fleet.promotion_evidence import BEFORE, Evidence
from lwd.fleet.rollback import check_key
from lwd.fleet.service import Context
from lwd.fleet.services import encoder, fleet_description
from lwd.instruction import InstructionEncoder
from lwd.snapshot.keys import load_private_key
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.promotion import MAX_CANARIES, Release
from lwd.snapshot.releases import OvertakenError, ReleaseStore
from lwd.snapshot.store import PUBLISHED, Snapshot
from lwd.spec import RobotSpec

log = logging.getLogger(__name__)

POLL_S = 1.0
FLUSH_S = 5.0


@dataclass(frozen=True, kw_only=True)
class PromoterOptions:
    """How candidates are tested.

    Attributes:
        canaries: how many robots run a candidate, 1 to `MAX_CANARIES`; at least one of several goes on under the
            stable policy.
        named: the robots that may be canaries; all for none.
        plan: of the test; the watch after a promotion looks at the same numbers of episodes.
        gates: what a candidate keeps to before it meets a robot.
        patience_s: a candidate about which nothing is found in so long is rejected; a watch ends then.
    """

    canaries: int = 2
    named: tuple[str, ...] = ()
    plan: TrialPlan = field(default_factory=TrialPlan)
    gates: GateLimits = field(default_factory=GateLimits)
    patience_s: float = 86400.0

    def __post_init__(self) -> None:
        if not 1 <= self.canaries <= MAX_CANARIES:
            raise ConfigError(
                f"PromoterOptions: {self.canaries} canaries; expected 1 to {MAX_CANARIES}, as many as a release can name. "
                "Start the promoter with --canaries in this range, or the fleet with --promote-with."
            )
        if not self.patience_s > 0:
            raise ConfigError(
                f"PromoterOptions: a patience_s of {self.patience_s}; expected more than 0. Start the promoter with a longer "
                "--patience-s."
            )


def run_promoter(
    context: Context, experiment: Experiment, folder: RunFolder, options: PromoterOptions
) -> None:
    """The promoter process, until it is told to stop.

    Args:
        context: when to stop, and who is told.
        experiment: the fleet's: its kind of robot.
        folder: log and snapshots, and the key that signs them.
        options: how candidates are tested.

    Raises:
        ConfigError: the key is not here, or there is no broker.
    """
    check_key(folder)
    stop = threading.Event()
    context.stop_sets(stop)
    spec, _ = fleet_description(experiment)
    with open_services(folder) as services:
        if services.link is None:
            raise ConfigError(
                "a promoter needs the fleet's broker: --credential FILE, or --bus nats://host:port."
            )
        key = load_private_key(folder.snapshot_key)
        channel = NatsReleases(services.link, key.public_key(), spec.name)
        try:
            Promoter(context, spec, encoder(experiment), services, key, channel, options).run(stop)
            channel.flush(FLUSH_S)  # what was decided last
        finally:
            channel.close()


class Promoter:
    """Promotes policies for one kind of robot.

    Args:
        context: who is told where it is.
        spec: the kind of robot.
        encoder: its instruction encoder.
        services: catalogue, objects, snapshots.
        key: signs releases.
        channel: announces them; None where nobody listens (tests).
        options: how candidates are tested.
    """

    def __init__(
        self,
        context: Context,
        spec: RobotSpec,
        encoder: InstructionEncoder,
        services: Services,
        key: Ed25519PrivateKey,
        channel: NatsReleases | None,
        options: PromoterOptions,
    ) -> None:
        self._context, self._spec, self._encoder = context, spec, encoder
        self._services, self._channel, self._options = services, channel, options
        self._evidence = Evidence(services.catalogue, spec.name)
        self._releases = ReleaseStore(services.catalogue, services.snapshots, key)
        self._announced = 0
        self._watched: int | None = None  # the snapshot that was watched for long enough

    def run(self, stop: threading.Event) -> None:
        """Step after step, until `stop` is set. What cannot be reached now is tried again."""
        said = ""
        while not stop.is_set():
            try:
                self.step()
                said = ""
            except OvertakenError as error:
                log.info("promoter_looks_again cause=%r", str(error))
            except LwdError as error:
                if str(error) != said:
                    log.warning("promoter_waits cause=%r", str(error))
                said = str(error)
                self._context.say(state="waits", waits_for=f"an error to pass: {said:.300}")
            stop.wait(POLL_S)

    def step(self) -> None:
        """Look once, and do what follows.

        Raises:
            OvertakenError: somebody else made a release just now.
            SnapshotError: the release that holds, or its stable policy, cannot be believed or loaded.
            StoreError: catalogue or store cannot be reached.
        """
        held = self._releases.newest(self._spec.name)
        if held is None:
            self._found()
            return
        forgotten = self._forgotten(held)
        if forgotten is not None:
            why = f"once more: robots know another release {forgotten}, which the catalogue has forgotten"
            self._issue(replace(held, reason=why), held)
            return
        self._announce(held)
        if held.candidate is not None:
            self._test(held, held.candidate)
        elif held.previous is None or held.stable == self._watched or self._watch(held, held.previous):
            self._choose(held)

    def _forgotten(self, held: Release) -> int | None:
        """The edition of a release that robots follow rather than the one that holds; None if there is none.

        It is higher, or was made of the same number before the catalogue was restored from a backup.
        """
        if self._channel is None:
            return None
        known = (self._channel.held(), self._channel.rival())
        others = [one.release for one in known if one is not None and one.release.signature != held.signature]
        return max((one.edition for one in others if one.edition >= held.edition), default=None)

    def _found(self) -> None:
        """The first release: what is newest is the stable policy, if it loads and moves."""
        newest = self._newest()
        if newest is None:
            self._say(None, "waits", "no snapshot yet", waits_for="the first snapshot")
        elif self._passes(newest, None):
            kind, stable = self._spec.name, newest.number
            self._issue(
                Release(edition=1, kind=kind, stable=stable, reason="the first release", created_at=0.0), None
            )

    def _choose(self, held: Release) -> None:
        """Take the newest snapshot for a candidate, if there is one that was not judged yet and canaries to test it."""
        newest = self._newest()
        if newest is None or newest.number <= held.stable:
            self._say(held, "rests", "nothing newer than the stable snapshot is left to test")
            return
        least = self._options.plan.least
        known = sum(trial.judged for trial in self._evidence.trials(held.stable, limit=BEFORE))
        if known < least:
            self._say(held, "rests", f"{known} of {least} episodes of the stable snapshot to compare with")
            return
        canaries = self._evidence.canaries(held, self._options.canaries, self._options.named)
        if not canaries:
            self._say(held, "waits", "no canaries", waits_for="robots that follow releases")
        elif self._passes(newest, held.stable):
            what = f"snapshot {newest.number} is tested beside {held.stable}"
            self._issue(
                replace(held, candidate=newest.number, canaries=canaries, previous=None, reason=what), held
            )

    def _test(self, held: Release, candidate: int) -> None:
        """Compare the canaries' episodes with those under the stable policy, and promote or reject."""
        trials = self._evidence.trials(candidate)
        found = judge(trials, self._evidence.beside(held.stable, trials), self._options.plan)
        began = self._evidence.candidate_since(held)
        rest = replace(held, candidate=None, canaries=(), previous=None)
        if found.finding is Finding.NOT_WORSE:
            why = f"promoted, not worse: {found.reason}"
            self._issue(replace(rest, stable=candidate, previous=held.stable, reason=why), held)
        elif found.finding is not Finding.OPEN:
            self._reject(rest, held, candidate, f"{found.finding.value} on canaries: {found.reason}")
        elif time.time() - began > self._options.patience_s:
            why = f"nothing found in {self._options.patience_s:g} s: {found.reason}"
            self._reject(rest, held, candidate, why)
        else:
            canaries = self._evidence.canaries(held, self._options.canaries, self._options.named)
            fewer = len(canaries) < len(held.canaries)  # who is away may come back
            if canaries != held.canaries and not fewer:
                self._issue(replace(held, canaries=canaries, reason="other canaries"), held)
            self._say(held, "tests", found.reason, episodes=len(trials))

    def _watch(self, held: Release, previous: int) -> bool:
        """Look whether what was promoted does worse on all robots than the stable policy before; whether that is over."""
        began = self._evidence.stable_since(held)
        trials = self._evidence.trials(held.stable, after=began)
        before = self._evidence.trials(previous, limit=BEFORE)
        found = judge(trials, before, self._options.plan, only_worse=True)
        if found.finding is Finding.WORSE:
            why = f"worse after its promotion: {found.reason}"
            self._reject(replace(held, stable=previous, previous=None), held, held.stable, why)
            return False
        if found.finding is Finding.OPEN and time.time() - began <= self._options.patience_s:
            self._say(held, "watches", found.reason, episodes=len(trials))
            return False
        log.info("watch_ended snapshot=%d found=%r", held.stable, found.reason)
        self._watched = held.stable
        return True

    def _reject(self, release: Release, held: Release, number: int, why: str) -> None:
        """All robots run the stable policy of `release` again, and the snapshot is marked."""
        text = f"snapshot {number} rejected, {why}"
        self._issue(replace(release, reason=text), held, number, why)
        self._context.telemetry.count("snapshots_rejected_total")

    def _issue(
        self, release: Release, held: Release | None, rejected: int | None = None, why: str = ""
    ) -> None:
        known = None if self._channel is None else self._channel.newest()
        marks = {} if rejected is None else {rejected: why}
        self._announce(self._releases.issue(release, after=held, above=known, rejected=marks))

    def _announce(self, release: Release) -> None:
        """Tell the robots, once per edition; also what another process made, and what died before it was announced."""
        if release.edition > self._announced:
            if self._channel is not None:
                self._channel.announce(self._releases.notice(release))
            self._announced = release.edition

    def _passes(self, candidate: Snapshot, stable: int | None) -> bool:
        """Put a snapshot through the gates; what does not pass is marked."""
        snapshots, limits = self._services.snapshots, self._options.gates
        before = None if stable is None else snapshots.load(stable)
        seen = observations(self._services.catalogue, self._services.objects, self._spec, limits)
        try:
            content = snapshots.load(candidate.number)
        except SnapshotError as error:
            refused, said = str(error), "whether it is intact"
        else:
            found = examine(content, before, self._spec, self._encoder, seen, limits)
            refused, said = found.refused, found.said
        log.info("gates_passed=%s snapshot=%d looked_at=%r", refused is None, candidate.number, said)
        self._context.say(gates=f"snapshot {candidate.number}: {said}: {refused or 'passed'}"[:300])
        if refused is not None:
            self._releases.reject(candidate.number, f"gates: {refused}"[:500])
            self._context.telemetry.count("snapshots_rejected_total")
        return refused is None

    def _newest(self) -> Snapshot | None:
        """The newest snapshot of this kind, None if it was rejected: those before it are skipped for good."""
        newest = self._services.snapshots.latest(self._spec.name)
        return newest if newest is not None and newest.status == PUBLISHED else None

    def _say(
        self, held: Release | None, state: str, about: str, *, episodes: int = 0, waits_for: str | None = None
    ) -> None:
        self._context.say(
            state=state,
            about=about,
            waits_for=waits_for,
            edition=held.edition if held else 0,
            snapshot=held.stable if held else None,
            candidate=(held and held.candidate) or 0,
            canaries=", ".join(held.canaries) if held else "",
            tested_episodes=episodes,
        )
