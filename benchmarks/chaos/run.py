"""One chaos run: start, inject while episodes come in, heal, drain, stop, judge."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import Injector, NotNowError
from benchmarks.chaos.judge import count, learning, manifest_problems
from benchmarks.chaos.observer import Observer
from benchmarks.chaos.reader import NAME as SECOND
from benchmarks.chaos.recipe import CHECKPOINT_EVERY, PUBLISH_EVERY, experiment
from benchmarks.chaos.schedule import Fault, schedule
from benchmarks.chaos.stack import ROOT, Stack
from benchmarks.chaos.waiting import drain, warm_up
from benchmarks.chaos.witness import Witnessed
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software
from lwd.fleet.services import fleet_description
from lwd.log import manifest as manifests
from lwd.log.catalogue import Catalogue, EpisodeRow
from lwd.log.objects import ObjectStore
from lwd.log.verify import verify
from lwd.replay.store import Store

PROGRESS_S = 5.0
TRIES_S = 45.0
"""How long a fault waits for its target to be up before it is left out, and said so."""
GAP_S = 1.0
"""At least, between two faults."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for; see `benchmarks.chaos.__main__`."""

    folder: Path
    seed: int
    episodes: int
    robots: int
    faults: int
    limit_s: float
    prepared: Path | None = None


@dataclass
class Record:
    """What happened."""

    began: float = field(default_factory=time.monotonic)
    faults: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    left_out: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    manual_restarts: int = 0
    drain_s: float = 0.0

    @property
    def time_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """One line, with the time."""
        print(f"{self.time_s:7.1f} s  {text}", flush=True)


def run(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """The numbers for `chaos.json`, and what does not hold."""
    record = Record()
    with Stack(settings.folder, settings.robots, settings.prepared) as stack:
        record.say(f"starting database and store; everything is in {settings.folder}")
        stack.start_servers()
        record.say("demonstrations, clone, rollouts, offline policy")
        stack.prepare()
        stack.start_fleet()
        skipped = {} if stack.small_disk else {"full_disk": "no small file system could be mounted"}
        record.say(f"{len(stack.names)} processes")
        witnessed = Witnessed(stack.witness)
        with Observer(stack.direct.catalogue) as observer:
            record.problems += warm_up(stack, record.say)
            _chaos(settings, stack, witnessed, observer, record, skipped)
            record.say("all healed; draining")
            began = time.monotonic()
            record.problems += drain(stack, witnessed, record.say)
            record.drain_s = time.monotonic() - began
            # Who does not run by now would have to be started by hand.
            away = sorted(set(stack.names) - set(stack.pids))
            record.manual_restarts = len(away)
            record.problems += [f"{name} did not come back by itself" for name in away]
        restarts = stack.restarts
        stack.stop_fleet()
        record.say("stopped; counting")
        observer.look()
        record.problems += observer.violations
        result = _judge(stack, witnessed, record)
    kinds = Counter(fault["kind"] for fault in record.faults)
    result |= {
        "manual_restarts": record.manual_restarts,
        "seed": settings.seed,
        "robots": settings.robots,
        "faults_by_kind": dict(sorted(kinds.items())),
        "skipped_kinds": skipped,
        "left_out": record.left_out,
        "supervisor_restarts": restarts,
        "observations": observer.looks,
        "wall_s": round(record.time_s, 1),
        "drain_s": round(record.drain_s, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": current_commit(ROOT),
        "hardware": describe_hardware(),
        "software": describe_software(),
        "fault_list": record.faults,
    }
    return result, record.problems


def _chaos(
    settings: Settings,
    stack: Stack,
    witnessed: Witnessed,
    observer: Observer,
    record: Record,
    skipped: dict[str, str],
) -> None:
    """Faults, spread evenly over the episodes, until there are enough of both."""
    injector, faults = Injector(stack, witnessed), schedule(settings.seed, settings.robots, skipped)
    waiting, since, last, shown = next(faults), time.monotonic(), 0.0, 0.0
    first = len(witnessed.ids())
    between = max(settings.episodes - first, settings.faults) / (settings.faults + 1)
    while True:
        injector.heal_due()
        finished, now = len(witnessed.ids()), time.monotonic()
        done = len(record.faults)
        if done >= settings.faults and finished >= settings.episodes and not injector.active:
            break
        if record.time_s > settings.limit_s:
            record.problems.append(f"not done after {settings.limit_s:.0f} s")
            break
        # Each fault has its place between the first and the last episode, so their density does not depend on the machine.
        if done < settings.faults and finished >= first + (done + 1) * between and now - last >= GAP_S:
            if _try(injector, waiting, record):
                waiting, since, last = next(faults), now, now
            elif now - since > TRIES_S:
                record.left_out.append(str(waiting))
                waiting, since = next(faults), now
        else:
            since = now
        if now - shown >= PROGRESS_S:
            shown = now
            record.say(
                f"finished {finished}, catalogued {observer.episodes}, faults {done} ({injector.active} active), "
                f"running {len(stack.pids)} of {len(stack.names)}, restarts {stack.restarts}"
            )
        time.sleep(0.3)
    injector.heal()


def _try(injector: Injector, fault: Fault, record: Record) -> bool:
    at = record.time_s
    try:
        hit = injector.inject(fault)
    except NotNowError:
        return False
    record.faults.append(
        {
            "number": len(record.faults) + 1,
            "at_s": round(at, 1),
            "kind": fault.kind,
            "target": fault.target,
            "seconds": fault.seconds,
            "amount": fault.amount,
            "hit": hit,
        }
    )
    record.say(f"FAULT {len(record.faults)}: {fault}: {hit}")
    return True


def _judge(stack: Stack, witnessed: Witnessed, record: Record) -> dict[str, Any]:
    """Everything is stopped; catalogue and store are read directly."""
    objects = ObjectStore(stack.direct.objects)
    finished = {one: hashlib.sha256(path.read_bytes()).digest() for one, path in witnessed.copies().items()}
    with Catalogue(stack.direct.catalogue) as catalogue:
        rows, quarantined = catalogue.episodes(), catalogue.quarantined()
        all_manifests, damaged = manifests.manifests(catalogue), verify(catalogue, objects).problems
    online = [row for row in rows if row.source == "online"]
    counted = count(finished, online, lambda row: objects.get(row.key))
    learned = learning(stack.log("learner").read_text(errors="replace"), CHECKPOINT_EVERY, PUBLISH_EVERY)
    record.problems += counted.problems + learned.problems
    record.problems += manifest_problems(all_manifests, rows)
    record.problems += [f"in quarantine: {row.episode_id} {row.reason} {row.detail}" for row in quarantined]
    record.problems += [f"damaged: {one}" for one in damaged]
    record.problems += _replay_problems(stack, rows)
    spooled = [path.name for name in stack.robot_names for path in stack.spool(name).glob("*.[mp][ca]*")]
    record.problems += [f"left in a spool: {name}" for name in spooled]
    killed = sum(fault["kind"] == "kill_learner" for fault in record.faults)
    if killed and not learned.resumed:
        record.problems.append(f"the learner was killed {killed} times and never resumed from a checkpoint")
    return {
        "faults": len(record.faults),
        "episodes_finished": counted.finished,
        "episodes_catalogued": counted.catalogued,
        "episodes_identical": counted.identical,
        "duplicates": counted.duplicates,
        "episodes_cut_off": sum(row.outcome == "unjudged" for row in online),
        "bytes": sum(row.size for row in online),
        "quarantined": len(quarantined),
        "manifests": len(all_manifests),
        "learner_resumed": learned.resumed,
        "learner_steps_done_again_at_most": learned.redone,
    }


def _replay_problems(stack: Stack, rows: list[EpisodeRow]) -> list[str]:
    """Both hosts hold the log's episodes in the log's order; the second reader all of them."""
    spec, tasks = fleet_description(experiment())
    expected = [row.episode_id for row in rows]
    problems: list[str] = []
    for name in ("learner", SECOND):
        store = Store(stack.run / "replay" / name, spec, list(tasks.values()))
        try:
            held = [one.decode() for one in store.episodes["episode_id"]]
        finally:
            store.close()
        if held != expected[: len(held)]:
            problems.append(f"the replay {name} does not hold the log's episodes in the log's order")
        if name == SECOND and len(held) != len(expected):
            problems.append(f"the replay {name} holds {len(held)} of {len(expected)} episodes")
    return problems
