"""`lwd status`: what the catalogue knows of the fleet. When the loop stalls, it says who waits for what."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lwd.log import manifest, tables
from lwd.log.catalogue import Catalogue
from lwd.log.checks import LAST_TIME, integer_in, number_in
from lwd.log.robots import robots as register
from lwd.log.status import StatusRow, statuses
from lwd.snapshot.promotion import Release
from lwd.snapshot.releases import holding
from lwd.snapshot.store import Snapshot, latest

SILENT_S = 15.0
"""A process that said nothing for so long is shown as silent."""
MAX_SHOWN = 1e300
"""Numbers beyond it are shown as text."""
NO_FLEET = "no fleet of services ran here; an embedded run (lwd demo) has no processes to show. For one, start lwd coordinator."
"""What is said where no process ever reported."""
SKEW_S = 5.0
"""A clock that is off by more is worth a word."""
_ELSEWHERE = ("version", "pid", "up_s", "stopping", "snapshot", "waits_for", "spool", "numbers")
"""What of a status has a place of its own, or is for its own machine only."""


def fleet_status(catalogue: Catalogue) -> dict[str, Any]:
    """Counts, heads, and every process with its last word.

    Returns:
        `episodes`, `quarantined`, `manifest` (number, episodes), `snapshot` (number, learner step, age in s), `robots`
        (working, silent), `processes` (a list; `behind` says how many numbers a robot's snapshot is behind the newest of
        its kind, or how many editions its release is, if it follows releases; `troubles` what keeps it from working
        ("silent", "waits", "no link", "clock off"), `said` whatever else it reported), `releases` (lines: what robots run
        that follow releases), `stalls` (sentences, empty when nothing stalls).
    """
    now = time.time()
    rows = statuses(catalogue)
    kinds = {robot.name: robot.spec for robot in register(catalogue)}
    of_kind = {kind: latest(catalogue, kind) for kind in {kinds.get(row.name) for row in rows}}
    releases = {release.kind: release for release in holding(catalogue)}
    newest = manifest.latest(catalogue)
    with catalogue.read() as connection:
        count = sa.select(sa.func.count())
        episodes = connection.execute(count.select_from(tables.episodes)).scalar_one()
        quarantined = connection.execute(count.select_from(tables.quarantine)).scalar_one()
        query = sa.select(tables.snapshots).order_by(tables.snapshots.c.number.desc()).limit(1)
        snapshot = connection.execute(query).mappings().first()

    def behind(row: StatusRow) -> int | None:
        kind = kinds.get(row.name)
        return _behind(row, of_kind[kind], releases.get(kind or ""))

    robots = [row for row in rows if row.role == "robot"]
    silent = [row.name for row in robots if _silent(row, now)]
    return {
        "episodes": episodes,
        "quarantined": quarantined,
        "manifest": None if newest is None else {"number": newest.number, "episodes": newest.episodes},
        "snapshot": None
        if snapshot is None
        else {
            "number": snapshot["number"],
            "learner_step": snapshot["learner_step"],
            "manifest": snapshot["manifest"],
            "age_s": now - snapshot["created_at"],
        },
        "robots": {"working": len(robots) - len(silent), "silent": silent},
        "processes": [_process(row, now, behind(row)) for row in rows],
        "releases": [release.in_words() for release in releases.values()],
        "stalls": stalls(rows, now),
    }


def stalls(rows: Sequence[StatusRow], now: float) -> list[str]:
    """What keeps the loop from turning, one sentence each; services first, since many robots wait for one of them."""
    ordered = sorted(rows, key=lambda row: row.role == "robot")
    found = [sentence for row in ordered for sentence in _troubles(row, now).values()]
    if not any(row.role == "coordinator" for row in rows):
        found.append("no coordinator ever reported; start lwd coordinator." if rows else NO_FLEET)
    return found


def _troubles(row: StatusRow, now: float) -> dict[str, str]:
    """What keeps one process from its part in the loop: a sentence by kind; nothing of one that was told to stop."""
    found: dict[str, str] = {}
    if row.payload.get("stopping"):
        return found
    if _silent(row, now):
        found["silent"] = (
            f"{row.name} said nothing for {now - row.received_at:.0f} s; look at its machine and its log."
        )
    elif waits_for := _text(row.payload.get("waits_for")):
        found["waits"] = f"{row.name} waits for {waits_for}."
    if warning := _text(row.payload.get("warning")):
        found["warns"] = f"{row.name} {warning}."
    if row.payload.get("link") is False:
        found["no link"] = f"{row.name} has no link to the broker."
    if abs(row.clock_skew_s) > SKEW_S:
        found["clock off"] = f"{row.name}'s clock is off by {row.clock_skew_s:.0f} s; set it by NTP."
    return found


def print_status(console: Console, found: Mapping[str, Any]) -> None:
    """As a table."""
    snapshot, newest = found["snapshot"], found["manifest"]
    console.print(
        f"episodes {found['episodes']} ({found['quarantined']} in quarantine), "
        f"manifest {newest['number'] if newest else '-'}, "
        f"snapshot {snapshot['number'] if snapshot else '-'}"
        + (f" ({snapshot['age_s']:.0f} s old, learner step {snapshot['learner_step']})" if snapshot else ""),
        highlight=False,
    )
    table = Table("process", "role", "snapshot", "behind", "seen", "waits for", "numbers")
    for process in found["processes"]:
        numbers = "  ".join(f"{name} {shown(value)}" for name, value in process["numbers"].items())
        table.add_row(
            process["name"],
            process["role"],
            escape(_text(process["snapshot"])),
            "" if process["behind"] is None else str(process["behind"]),
            "silent" if process["silent"] else f"{process['seen_s']:.0f} s ago",
            escape(_text(process["waits_for"])),
            escape(numbers),
        )
    console.print(table)
    for sentence in found["releases"]:
        console.print(escape(sentence), highlight=False)
    for sentence in found["stalls"]:
        console.print(f"[yellow]{escape(sentence)}", highlight=False)


def _behind(row: StatusRow, newest: Snapshot | None, release: Release | None) -> int | None:
    """How far a robot is behind; the newest snapshot says nothing to one that follows releases."""
    loaded, edition = (integer_in(row.payload.get(name), 0) for name in ("snapshot", "edition"))
    if row.role != "robot" or loaded is None:
        return None
    if release is not None and edition is not None:
        return release.edition - edition
    return None if newest is None else newest.number - loaded


def _process(row: StatusRow, now: float, behind: int | None) -> dict[str, Any]:
    payload, numbers = row.payload, row.payload.get("numbers")
    return {
        "name": row.name,
        "role": row.role,
        "seen_s": now - row.received_at,
        "silent": _silent(row, now),
        "stopping": bool(payload.get("stopping")),
        "troubles": list(_troubles(row, now)),
        "version": payload.get("version"),
        "snapshot": integer_in(payload.get("snapshot"), 0),
        "behind": behind,
        "waits_for": payload.get("waits_for"),
        "spool": payload.get("spool"),
        "clock_skew_s": row.clock_skew_s,
        "numbers": cast(dict[str, Any], numbers) if isinstance(numbers, dict) else {},
        "said": {name: value for name, value in payload.items() if name not in _ELSEWHERE},
    }


def _silent(row: StatusRow, now: float) -> bool:
    return now - row.received_at > SILENT_S


def shown(value: object) -> str:
    """A number of a process, which may have sent anything."""
    if isinstance(value, Mapping):
        said = cast(Mapping[str, object], value)
        p50, p99 = (number_in(said.get(name), 0, LAST_TIME) for name in ("p50_s", "p99_s"))
        return "-" if p50 is None or p99 is None else f"P50 {p50:.2f} s P99 {p99:.2f} s"
    number = number_in(value, -MAX_SHOWN, MAX_SHOWN)
    return _text(value) if number is None else f"{number:g}"


def _text(value: object) -> str:
    return "" if value is None else f"{value!s:.200}"
