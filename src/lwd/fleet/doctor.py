"""`lwd doctor`: finds what keeps a fleet from working and says what to do about it. No JAX."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lwd import __version__
from lwd.errors import LwdError
from lwd.fleet.credential import Credential, load_credential
from lwd.fleet.folder import RunFolder, check_catalogue, check_objects
from lwd.log.calls import CallRefusedError, NatsCalls
from lwd.log.catalogue import Catalogue
from lwd.log.objects import ObjectStore
from lwd.log.status import statuses
from lwd.robot.guard_limits import load_limits

CONNECT_S = 8.0
LOW_DISK_BYTES = 2 * 2**30
SKEW_S = 5.0
EXPIRES_SOON_S = 14 * 86400.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is good, what was found, what to do."""

    what: str
    good: bool
    found: str
    do: str = ""


def examine(credential: Path | None, folder: RunFolder | None, guard: Path | None = None) -> list[Finding]:
    """Look at everything that is reachable from here; never raises for what it finds."""
    findings: list[Finding] = []
    if guard is not None:
        findings.append(_guard(guard))
    if credential is not None:
        findings += _credential(credential)
    if folder is not None:
        findings += [_disk(folder.path), _catalogue(folder), *_versions(folder), _objects(folder)]
    return findings


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """One line per finding, and what to do below it."""
    for finding in findings:
        mark = "[green]good[/green]" if finding.good else "[red]bad [/red]"
        console.print(f"{mark}  {finding.what}: {escape(finding.found)}", highlight=False)
        if not finding.good and finding.do:
            console.print(f"      {escape(finding.do)}", highlight=False)


def _credential(path: Path) -> list[Finding]:
    try:
        credential = load_credential(path)
    except LwdError as error:
        return [Finding("credential", False, str(error), "Get a new one: lwd fleet invite NAME --replace.")]
    left = credential.expires_at - time.time()
    if left <= 0:
        return [
            Finding(
                "credential",
                False,
                f"it expired {-left / 86400:.0f} days ago.",
                "lwd fleet invite NAME --replace",
            )
        ]
    found = [Finding("credential", left > EXPIRES_SOON_S, f"{credential.role} {credential.name!r} of fleet "
                     f"{credential.fleet!r}, {left / 86400:.0f} days left",
                     "It expires soon: lwd fleet invite NAME --replace.")]  # fmt: skip
    try:
        return found + _broker(credential)
    except (LwdError, OSError, ValueError) as error:  # a damaged certificate, an address that is none
        return [
            *found,
            Finding("broker", False, str(error), "Get a new one: lwd fleet invite NAME --replace."),
        ]


def _broker(credential: Credential) -> list[Finding]:
    with credential.link() as link:
        deadline = time.monotonic() + CONNECT_S
        while not link.connected and time.monotonic() < deadline:
            time.sleep(0.05)
        where = ", ".join(credential.servers)
        if not link.connected:
            return [
                Finding(
                    "broker", False, f"no connection to {where}: {link.cause}",
                    "Check that nats-server runs there, that the address can be reached from here, and that this "
                    "credential was not revoked (lwd fleet invite NAME --replace makes a new one).",
                )
            ]  # fmt: skip
        findings = [Finding("broker", True, f"connected to {where}")]
        if credential.role == "robot":
            findings.append(_coordinator(credential, NatsCalls(link)))
        return findings


def _coordinator(credential: Credential, calls: NatsCalls) -> Finding:
    try:
        answer = calls.call(f"calls.{credential.name}.config", {"software": __version__})
    except CallRefusedError as error:
        return Finding("coordinator", False, str(error), "The register refuses this robot; see the text.")
    except LwdError as error:
        return Finding(
            "coordinator",
            False,
            str(error),
            "Start lwd coordinator; recording goes on meanwhile, nothing is lost.",
        )
    theirs = answer.get("software")
    return Finding(
        "coordinator",
        theirs == __version__,
        f"answers, version {theirs}, ours {__version__}",
        "Install the same lwd version on both.",
    )


def _guard(path: Path) -> Finding:
    def look() -> str:
        load_limits(path)
        return f"{path} holds limits; whether they are this robot's, lwd robot join checks before its first episode"

    return _try(
        "guard", look, "Mend the file, see docs/how-to/add_a_robot.md; a robot does not join with it."
    )


def _disk(path: Path) -> Finding:
    where = path
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    return Finding(
        "disk",
        free > LOW_DISK_BYTES,
        f"{free / 2**30:.1f} GiB free at {where}",
        "Make room, or lower the spool's and the retention's budgets; a full disk stops recording.",
    )


def _catalogue(folder: RunFolder) -> Finding:
    def look() -> str:
        check_catalogue(folder.catalogue)
        began = time.monotonic()
        with Catalogue(folder.catalogue) as catalogue:
            newest = catalogue.newest_seq()
        return f"answers in {1000 * (time.monotonic() - began):.0f} ms, newest episode {newest}"

    return _try(
        "catalogue", look, "Start the database, check --catalogue; lwd log migrate if its version is older."
    )


def _objects(folder: RunFolder) -> Finding:
    def look() -> str:
        check_objects(folder.objects)
        store = ObjectStore(folder.objects)
        with contextlib.suppress(StopIteration):
            next(iter(store.list("episodes")))
        return f"{folder.objects} can be read"

    return _try("objects", look, "Start the object store, check --objects and AWS_ACCESS_KEY_ID.")


def _versions(folder: RunFolder) -> list[Finding]:
    """Version and clock skew of whoever reported."""
    try:
        check_catalogue(folder.catalogue)
        with Catalogue(folder.catalogue) as catalogue:
            rows = statuses(catalogue)
    except LwdError:
        return []  # said by `_catalogue`
    others = {
        f"{row.name} {row.payload.get('version')}"
        for row in rows
        if row.payload.get("version") != __version__
    }
    skewed = {f"{row.name} {row.clock_skew_s:+.0f} s" for row in rows if abs(row.clock_skew_s) > SKEW_S}
    return [
        Finding(
            "versions",
            not others,
            ", ".join(sorted(others)) or f"all {__version__}",
            "Install the same version everywhere.",
        ),
        Finding("clocks", not skewed, ", ".join(sorted(skewed)) or "agree", "Set the clocks by NTP."),
    ]


def _try(what: str, look: Callable[[], str], do: str) -> Finding:
    try:
        return Finding(what, True, look())
    except LwdError as error:
        return Finding(what, False, str(error), do)
