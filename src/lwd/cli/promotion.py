"""Commands about releases, which say which robot may run which policy: the process that makes them, and making them by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lwd.cli.options import Read, Stored, check_limit, experiment, print_rows
from lwd.cli.services import Service, serving

if TYPE_CHECKING:
    from lwd.fleet.folder import Services
    from lwd.fleet.releasing import Change
    from lwd.snapshot.promotion import Release


@dataclass(frozen=True, kw_only=True)
class PromoterCommand(Service):
    """The promoter: tests new snapshots on a few robots before all run them, and goes back if they do worse. One per kind.

    For robots that follow releases (`lwd coordinator --follow releases`). It runs where the key that signs snapshots is
    (OUT/keys/snapshot.pem).

    Attributes:
        canaries: how many robots run a candidate, 64 at most.
        named: the robots that may be canaries; all by default.
        least: episodes of a candidate at the first look, judged or not.
        most: at the last one. Who is not found as good by then is rejected.
        looks: how many there are.
        margin: how much smaller a candidate's shares of successes without help and of verdicts may be, and larger that of
            takeovers.
        error: probability that a candidate that is worse by the margin is promoted, and that one as good is found worse.
        distance: largest RMS of a candidate's chunks minus the stable policy's.
        saturated_more: how much larger its share of action coordinates at the end of their range may be.
        patience_s: seconds after which a test ends with a rejection, and a watch without.
    """

    canaries: int = 2
    named: tuple[str, ...] = ()
    least: int = 20
    most: int = 200
    looks: int = 5
    margin: float = 0.1
    error: float = 0.05
    distance: float = 0.5
    saturated_more: float = 0.2
    patience_s: float = 86400.0

    def run(self) -> None:
        """Run it."""
        from lwd.evaluate.canary import TrialPlan
        from lwd.fleet.gates import GateLimits
        from lwd.fleet.promoter import PromoterOptions, run_promoter

        plan = TrialPlan(
            least=self.least,
            most=self.most,
            looks=self.looks,
            margin=self.margin,
            promote_error=self.error,
            reject_error=self.error,
        )
        options = PromoterOptions(
            canaries=self.canaries,
            named=self.named,
            plan=plan,
            gates=GateLimits(distance=self.distance, saturated_more=self.saturated_more),
            patience_s=self.patience_s,
        )
        chosen = experiment(self)
        with serving(self, "promoter") as (context, run_folder):
            run_promoter(context, chosen, run_folder, options)


@dataclass(frozen=True, kw_only=True)
class ByHand(Stored):
    """Options of the commands that make a release.

    Attributes:
        credential: the promoter's credential file, in a networked fleet; it names the broker that tells the robots. Without it
            a promoter that runs tells them.
        bus: address of a broker without credentials (nats://host:port), for a closed network.
        yes: do it.
    """

    credential: Path | None = None
    bus: str | None = None
    yes: bool = False

    def change(self, plan: Callable[[Services], Change]) -> None:
        """Show what holds and what would; do it if told to."""
        from lwd.fleet.folder import RunFolder, open_services
        from lwd.fleet.releasing import carry_out
        from lwd.fleet.rollback import check_key

        self.check_catalogue()
        where = RunFolder(
            self.out.absolute(), self.catalogue, self.objects, bus_url=self.bus, credential=self.credential
        )
        check_key(where)
        with open_services(where) as services:
            change = plan(services)
            print(f"now:   {_in_words(change.before)}")
            if self.yes:
                print(f"since: {_in_words(carry_out(services, change))}")
                if services.link is None:
                    print("a promoter that runs tells the robots", file=sys.stderr)
            else:
                print(f"then:  {_in_words(change.after)}")
        if not self.yes:
            print("nothing was done; add --yes to do it", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class SnapshotPromote(ByHand):
    """Have all robots of its kind run this snapshot, also an earlier one. Shows what it would do; does it with --yes.

    For robots that follow releases. A test that goes on ends, and its candidate is rejected unless it is this snapshot; pinned
    robots keep what they are pinned to. It runs where the promoter does, since it needs the key that signs snapshots
    (OUT/keys/snapshot.pem).

    Attributes:
        number: of the snapshot; `lwd snapshot ls` lists them.
    """

    number: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="NUMBER")]

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.releasing import promoted

        self.change(lambda services: promoted(services, self.number))


@dataclass(frozen=True, kw_only=True)
class SnapshotPin(ByHand):
    """Have one robot run this snapshot, whatever is promoted meanwhile. Shows what it would do; does it with --yes.

    It runs where the promoter does, since it needs the key that signs snapshots (OUT/keys/snapshot.pem).

    Attributes:
        robot: its name.
        number: of the snapshot.
    """

    robot: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ROBOT")]
    number: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="NUMBER")]

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.releasing import pinned

        self.change(lambda services: pinned(services, self.robot, self.number))


@dataclass(frozen=True, kw_only=True)
class SnapshotUnpin(ByHand):
    """Have one robot run what all others do again. Shows what it would do; does it with --yes.

    Attributes:
        robot: its name.
    """

    robot: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ROBOT")]

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.releasing import unpinned

        self.change(lambda services: unpinned(services, self.robot))


@dataclass(frozen=True, kw_only=True)
class SnapshotReleases(Read):
    """List releases, newest last: which robots run what, since when, and why. The last of each kind holds.

    Attributes:
        limit: how many of the newest; 0 for none.
    """

    limit: int = 50

    def run(self) -> None:
        """Run it."""
        from lwd.snapshot.releases import releases

        check_limit(self.limit)
        with self.opened_catalogue() as catalogue:
            rows = [_row(release) for release in releases(catalogue, limit=self.limit)]
        columns = ["kind", "edition", "stable", "candidate", "canaries", "pins", "at", "reason"]
        print_rows(rows, columns, self.json)


def _in_words(release: Release | None) -> str:
    return "no release" if release is None else release.in_words()


def _row(release: Release) -> dict[str, Any]:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(release.created_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return {**vars(release), "canaries": list(release.canaries), "pins": dict(release.pins), "at": at}
