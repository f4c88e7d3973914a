"""The whole loop on one machine: collect, SFT, LWD offline, LWD online, each evaluated, and a report of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lwd.config import Experiment
from lwd.episode import Episode, Source
from lwd.evaluate.jsonfile import write_json
from lwd.evaluate.jsonl import read_jsonl
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software
from lwd.evaluate.ranking import value_rank
from lwd.evaluate.records import read_records, write_records
from lwd.evaluate.scores import Scores, score
from lwd.evaluate.summary import Summary, summarise, write_summary
from lwd.evaluate.table import print_results
from lwd.fleet.collect import check_operators, collect
from lwd.fleet.dataset import print_dataset, write_dataset
from lwd.fleet.evaluator import evaluate
from lwd.fleet.folder import RunFolder, Services
from lwd.fleet.metrics_log import MetricsLog
from lwd.fleet.offline import offline_result, train_consolidated, train_offline, train_sft
from lwd.fleet.online import online
from lwd.fleet.phases import Phases, claim, run_phases
from lwd.fleet.policies import find_snapshot
from lwd.fleet.services import fleet_description
from lwd.fleet.traces import value_along, value_traces
from lwd.learner.method import Lwd
from lwd.learner.refit import RefitLwd

METHOD_OF_STAGE = {
    "sft": "sft",
    "offline": "lwd_offline",
    "online": "lwd_online",
    "consolidated": "lwd_consolidated",
}
"""Stage -> name of its evaluation's file."""
STAGES = ("sft", "offline", "online")
"""Those of Algorithm 1, which the demo runs."""
FLEET_EPISODES = "episodes.jsonl"
RANKED_AT = {"start": 0.0, "quarter": 0.25, "half": 0.5}
"""Shares of an episode at which the value is asked how it will end."""
_WHEN = {"start": "at the start", "quarter": "after a quarter", "half": "half-way"}


class Demo:
    """All phases of Algorithm 1 on one folder, and the summary of what they reached."""

    def __init__(self, experiment: Experiment, folder: RunFolder, console: Console, command: str) -> None:
        self._x, self._folder, self._console, self._command = experiment, folder, console, command

    def run(self) -> Summary:
        """All phases that are not done yet; the summary is written and printed at the end.

        Raises:
            ConfigError: the folder belongs to another experiment, or the robots lack an operator.
        """
        check_operators(self._x, (Source.DEMO, Source.PLAY))
        claim(self._folder.path, repr(self._x), self._command, self._x.seed)
        phases = all_phases(self._x, self._folder, self._console)
        summary = self._summarise(run_phases(self._folder, phases, self._console))
        print_results(self._console, summary)
        return summary

    def _summarise(self, timing: Mapping[str, float]) -> Summary:
        fleet = fleet_totals(self._folder.path / FLEET_EPISODES)
        methods = {}
        for stage in STAGES:
            method = METHOD_OF_STAGE[stage]
            records = read_records(self._folder.path / "evaluations" / f"{method}.json")
            cost: dict[str, Any] = (
                fleet
                if stage == "online"
                else {"robot_hours": 0.0, "interventions": 0, "operator_minutes": 0.0}
            )
            methods[method] = summarise(score(records, horizons(self._x)), **cost)
        summary = Summary(
            seed=self._x.seed,
            wall_s=float(sum(timing.values())),
            tasks=horizons(self._x),
            commit=current_commit(Path(__file__).parent),
            hardware=describe_hardware(),
            software=describe_software(),
            command=self._command,
            methods=methods,
        )
        write_summary(self._folder.path / "summary.json", summary)
        return summary


def all_phases(experiment: Experiment, folder: RunFolder, console: Console) -> Phases:
    """Algorithm 1, each stage evaluated."""
    asked = (experiment, folder, console)
    return {**sft_phases(*asked), **offline_phases(*asked), **online_phases(*asked)}


def sft_phases(experiment: Experiment, folder: RunFolder, console: Console) -> Phases:
    """The offline data, and the SFT policy that is trained on its demonstrations and collects its rollouts."""

    def collect_rollouts(services: Services) -> None:
        collect(experiment, services, (Source.ROLLOUT,), console)
        print_dataset(console, write_dataset(experiment, services))

    return {
        "collect demonstrations and play": lambda s: collect(
            experiment, s, (Source.DEMO, Source.PLAY), console
        ),
        "train SFT": lambda s: train_sft(experiment, s, console),
        "collect rollouts": collect_rollouts,
        "evaluate SFT": lambda s: run_evaluation(experiment, s, "sft", console),
    }


def offline_phases(experiment: Experiment, folder: RunFolder, console: Console) -> Phases:
    """The method's offline stage."""
    return {
        "train offline": lambda s: train_offline(experiment, s, console),
        "evaluate offline": lambda s: run_evaluation(experiment, s, "offline", console),
    }


def online_phases(experiment: Experiment, folder: RunFolder, console: Console) -> Phases:
    """The method's online stage, on the fleet."""
    return {
        "online": lambda s: online(experiment, folder, console),
        "evaluate online": lambda s: run_evaluation(experiment, s, "online", console),
    }


def consolidated_phases(experiment: Experiment, folder: RunFolder, console: Console) -> Phases:
    """Learning once more after the fleet's hours, where the experiment has that."""
    return {
        "train consolidated": lambda s: train_consolidated(experiment, s, console),
        "evaluate consolidated": lambda s: run_evaluation(experiment, s, "consolidated", console),
    }


def run_evaluation(experiment: Experiment, services: Services, stage: str, console: Console) -> Scores:
    """Evaluate the newest snapshot of a stage; records, an evaluation point and (for SFT) episodes for the figures stay."""
    snapshot = find_snapshot(services, stage, experiment)
    result = evaluate(experiment, services, snapshot.number, console, stage)
    folder = services.folder
    write_records(folder.path / "evaluations" / f"{METHOD_OF_STAGE[stage]}.json", result.records)
    scores = score(result.records, horizons(experiment))
    ranks = _look_at_value(experiment, services, result.episodes) if stage == "offline" else {}
    with MetricsLog(folder.metrics(f"evaluate_{stage}")) as log:
        log.write(
            stage=stage,
            learner_step=snapshot.learner_step,
            time_s=0.0,
            **{
                "evaluate/success": scores.average.success.value,
                "evaluate/success_low": scores.average.success.low,
                "evaluate/success_high": scores.average.success.high,
                **{f"evaluate/value_rank_{name}": rank for name, rank in ranks.items()},
            },
        )
    console.print(_sentence(stage, snapshot.number, scores))
    if ranks:
        told = ", ".join(f"{rank:.2f} {_WHEN[name]}" for name, rank in ranks.items())
        console.print(f"the value of a success is above that of a failure with probability {told}")
    return scores


def _look_at_value(
    experiment: Experiment, services: Services, episodes: Sequence[Episode]
) -> dict[str, float]:
    """Write the traces of LWD's value on these episodes, which it has not seen; how well it ranks them, by place."""
    method = experiment.offline.learner
    if not isinstance(method, Lwd | RefitLwd):
        return {}
    critic = offline_result(experiment, services).critic
    traces = value_traces(experiment, critic, episodes, method.divl)
    write_json(services.folder.path / "value_traces.json", traces)
    return value_rank(value_along(experiment, critic, episodes, method.divl), RANKED_AT)


def horizons(experiment: Experiment) -> dict[str, Any]:
    """Task name -> "short" or "long"."""
    return {name: task.horizon for name, task in fleet_description(experiment)[1].items()}


def fleet_totals(path: Path) -> dict[str, Any]:
    """What the online stage cost: robot-hours, takeovers, minutes that a human commanded."""
    lines: list[Any] = list(read_jsonl(path)) if path.exists() else []
    seconds = sum(line["cycle_time_s"] for line in lines)
    human = sum(line["cycle_time_s"] * line["intervention_steps"] / max(line["steps"], 1) for line in lines)
    return {
        "robot_hours": seconds / 3600.0,
        "interventions": sum(line["takeovers"] for line in lines),
        "operator_minutes": human / 60.0,
    }


def _sentence(stage: str, number: int, scores: Scores) -> str:
    average = scores.average.success
    parts = [
        f"{stage} (snapshot {number}): success {average.value:.2f} [{average.low:.2f}, {average.high:.2f}]"
    ]
    for name, part in (("short", scores.short), ("long", scores.long)):
        if part is not None:
            parts.append(f"{name} {part.success.value:.2f}")
    return ", ".join(parts)
