"""The command line: nouns, then verbs; `--json` on everything that only reads."""

from __future__ import annotations

import logging
import os
import select
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from lwd.cli import (
    evidence,
    fleet,
    interchange,
    log,
    plan,
    promotion,
    services,
    snapshots,
    stages,
    upkeep,
    weights,
)
from lwd.errors import LwdError

COMMANDS: Mapping[str, type[Any]] = {
    "demo": stages.Demo,
    "collect": stages.Collect,
    "train sft": stages.TrainSft,
    "train offline": stages.TrainOffline,
    "train consolidated": stages.TrainConsolidated,
    "fleet up": fleet.FleetUp,
    "fleet init": fleet.FleetInit,
    "fleet invite": fleet.FleetInvite,
    "fleet revoke": fleet.FleetRevoke,
    "status": fleet.Status,
    "dashboard": fleet.Dashboard,
    "doctor": fleet.Doctor,
    "coordinator": services.CoordinatorCommand,
    "learner": services.LearnerCommand,
    "promoter": promotion.PromoterCommand,
    "evaluator": services.EvaluatorCommand,
    "serve": services.ServeCommand,
    "robot join": services.RobotJoin,
    "site-cache": upkeep.SiteCacheCommand,
    "evaluate": stages.Evaluate,
    "report": stages.Report,
    "log ls": log.LogLs,
    "log show": log.LogShow,
    "log verify": log.LogVerify,
    "log import": interchange.LogImport,
    "log export": interchange.LogExport,
    "log quarantine": upkeep.LogQuarantine,
    "log retain": upkeep.LogRetain,
    "log delete": upkeep.LogDelete,
    "log backup": upkeep.LogBackup,
    "log restore": upkeep.LogRestore,
    "log rescan": upkeep.LogRescan,
    "log migrate": upkeep.LogMigrate,
    "snapshot ls": snapshots.SnapshotLs,
    "snapshot rollback": snapshots.SnapshotRollback,
    "snapshot promote": promotion.SnapshotPromote,
    "snapshot pin": promotion.SnapshotPin,
    "snapshot unpin": promotion.SnapshotUnpin,
    "snapshot releases": promotion.SnapshotReleases,
    "snapshot retain": snapshots.SnapshotRetain,
    "weights import": weights.WeightsImport,
    "weights import-critic": weights.WeightsImportCritic,
    "weights inspect": weights.WeightsInspect,
    "weights export": weights.WeightsExport,
    "plan": plan.PlanCommand,
    "results run": evidence.ResultsRun,
    "results together": evidence.ResultsTogether,
    "results status": evidence.ResultsStatus,
    "results table": evidence.ResultsTable,
    "results figures": evidence.ResultsFigures,
    "show": stages.Show,
}

_CLOSED_PIPE = 141
"""What a shell reports of a program that SIGPIPE ended."""


def parse(arguments: Sequence[str]) -> Any:
    """The command that these arguments name, ready to run; prints help and exits where they name none."""
    commands, program, rest = COMMANDS, "lwd", list(arguments)
    group = rest[0] if rest else ""
    if any(name.startswith(f"{group} ") for name in COMMANDS):
        commands = {name.split()[1]: made for name, made in COMMANDS.items() if name.startswith(f"{group} ")}
        program, rest = f"lwd {group}", rest[1:]
    return tyro.extras.subcommand_cli_from_dict(
        dict(commands),
        prog=program,
        description="Robots that learn while they are deployed. Every command works on a run folder, --out.",
        args=rest,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def main() -> None:
    """Entry point of `lwd`. Where nobody reads its output any more, as after `| head`, it ends as other programs do."""
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # now and not when the interpreter ends, which cannot handle it
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):  # which rich answers with an exit of its own
            raise
        raise SystemExit(_CLOSED_PIPE) from None
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_CLOSED_PIPE) from None


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that was closed at the other end; a service's socket may break too, and that is an error."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def _run() -> None:
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    try:
        parse(sys.argv[1:]).run()
    except LwdError as error:
        print(f"lwd: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("lwd: stopped; run the same command again to go on.", file=sys.stderr)
        raise SystemExit(130) from None
