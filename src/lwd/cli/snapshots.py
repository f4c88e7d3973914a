"""Commands about published policies: which there are, the way back to one, and how many of them keep their bytes."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lwd.cli.options import Read, Stored, check_limit, print_json, print_rows


@dataclass(frozen=True, kw_only=True)
class SnapshotLs(Read):
    """List published policies, newest last.

    Attributes:
        limit: how many of the newest; 0 for none.
    """

    limit: int = 50

    def run(self) -> None:
        """Run it."""
        from lwd.snapshot.store import snapshots

        check_limit(self.limit)
        with self.opened_catalogue() as catalogue:
            rows = [
                asdict(s) | {"stage": s.meta.get("stage"), "sha256": s.sha256[:12]}
                for s in snapshots(catalogue, limit=self.limit)
            ]
        columns = [
            "number",
            "stage",
            "parent",
            "learner_step",
            "manifest",
            "sha256",
            "size",
            "status",
            "reason",
        ]
        print_rows(rows, columns, self.json)


@dataclass(frozen=True, kw_only=True)
class SnapshotRollback(Stored):
    """Send an earlier policy to the robots again, as the newest snapshot. Shows what it would do; does it with --yes.

    For when what the learner published does worse, where robots follow the newest snapshot. Stop the learner first: it would
    publish over it. It runs where the learner does, since it needs the key that signs snapshots (OUT/keys/snapshot.pem).

    Attributes:
        number: of the snapshot to go back to; `lwd snapshot ls` lists them.
        credential: the learner's credential file, in a networked fleet; it names the broker that tells the robots.
        bus: address of a broker without credentials (nats://host:port), for a closed network.
        newest: the robots follow the newest snapshot, although there are releases from before (`lwd snapshot releases`).
        yes: do it.
    """

    number: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="NUMBER")]
    credential: Path | None = None
    bus: str | None = None
    newest: bool = False
    yes: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.fleet.folder import RunFolder, open_services
        from lwd.fleet.rollback import check_key, earlier, roll_back

        self.check_catalogue()
        where = RunFolder(
            self.out.absolute(), self.catalogue, self.objects, bus_url=self.bus, credential=self.credential
        )
        check_key(where)
        with open_services(where) as services:
            wanted, newest = earlier(services, self.number, newest_followed=self.newest)
            print(
                f"robots load snapshot {newest.number} (learner step {newest.learner_step}, manifest {newest.manifest})"
            )
            if self.yes:
                done = roll_back(services, self.number, newest_followed=self.newest)
                print(f"now snapshot {done.number}, which is snapshot {self.number} again")
            else:
                print(
                    f"they would load snapshot {self.number} (learner step {wanted.learner_step}, manifest {wanted.manifest})"
                )
        if not self.yes:
            print("nothing was published; add --yes to publish it again", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class SnapshotRetain(Read):
    """Keep the newest snapshots and remove the bytes of others. Shows what stays and why; removes the others with --yes.

    Besides the newest stay the newest of each stage and kind of robot, what a release names, what a process last said that it
    drives, serves or evaluates, and what is named. The row of a removed one stays, with status "removed".

    Attributes:
        keep: how many of the newest stay. More than are published while the slowest robot downloads one.
        also: further numbers that stay, such as one that `lwd serve --snapshot` serves.
        yes: do it.
    """

    keep: int
    also: tuple[int, ...] = ()
    yes: bool = False

    def run(self) -> None:
        """Run it."""
        from lwd.snapshot import retention

        with self.opened() as (catalogue, objects):
            plan = retention.plan(catalogue, self.keep, self.also)
            if self.yes:
                plan = retention.apply(catalogue, objects, plan)
        rows: list[dict[str, Any]] = [
            {
                "number": snapshot.number,
                "stage": snapshot.meta.get("stage"),
                "size": snapshot.size,
                "stays": why,
            }
            for snapshot, why in plan.stay
        ]
        if self.json:
            removed = [snapshot.number for snapshot in plan.remove]
            print_json({"stay": rows, "remove": removed, "freed": plan.freed})
        else:
            print_rows(rows, ["number", "stage", "size", "stays"], False)
            print(f"{len(plan.remove)} {'removed' if self.yes else 'would go'}, {plan.freed} bytes")
        if not self.yes:
            print("nothing was removed; add --yes to remove", file=sys.stderr)
