"""Shows that the VLA learns: recipe `scene_vla` end to end, what is read off the run, and the page with its figure.

`python -m tools.vla_learns --out runs/vla` runs (or goes on), writes results/vla/scene_vla.json and draws the page;
`--page` only draws it from the committed file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from lwd.config import Experiment
from lwd.evaluate.jsonfile import write_json
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software
from lwd.evaluate.ranking import chance_above
from lwd.evaluate.records import read_records
from lwd.evaluate.report import draw
from lwd.evaluate.scores import score
from lwd.fleet.demo import METHOD_OF_STAGE, STAGES, all_phases, horizons
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.offline import offline_result
from lwd.fleet.phases import run_phases
from lwd.fleet.traces import read_trace
from lwd.learner.method import Lwd
from lwd.log.codec import decode
from lwd.recipes import recipe

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path("results/vla/scene_vla.json")
PAGE, FIGURE = Path("docs/explanation/vla_learns.md"), Path("docs/assets/results/scene_vla.svg")
LOSS = "policy/flow_matching_loss"
_SHARES = np.linspace(0.0, 1.0, 11)
"""Of an episode's length, at which the value is compared."""


def run(experiment: Experiment, folder: Path, console: Console) -> dict[str, Any]:
    """All stages that are not done yet, and what they show."""
    place = RunFolder(folder)
    timing = run_phases(place, all_phases(experiment, place, console), console)
    return {"minutes": {name: round(s / 60, 2) for name, s in timing.items()}, **read(experiment, place)}


def read(experiment: Experiment, place: RunFolder) -> dict[str, Any]:
    """SFT's loss, success after each stage, and the value along episodes that it was not trained on."""
    rows = [row for row in read_metrics(place.metrics("sft")) if row.get(LOSS) is not None]
    success = {}
    for stage in STAGES:
        found = score(
            read_records(place.path / "evaluations" / f"{METHOD_OF_STAGE[stage]}.json"), horizons(experiment)
        )
        interval = found.average.success
        success[stage] = [round(x, 4) for x in (interval.value, interval.low, interval.high)]
    return {
        "sft_loss": [[int(row["learner_step"]), round(float(row[LOSS]), 4)] for row in rows],
        "success": success,
        "value": _values(experiment, place),
    }


def _values(experiment: Experiment, place: RunFolder) -> dict[str, list[list[float]]]:
    """Outcome -> per online episode without an operator, the offline stage's value along it."""
    learner = experiment.offline.learner
    assert isinstance(learner, Lwd)
    found: dict[str, list[list[float]]] = {"success": [], "failure": []}
    with open_services(place) as services:
        critic = offline_result(experiment, services).critic
        for row in services.catalogue.episodes(source="online"):
            episode = decode(services.objects.get(row.key))
            if episode.interventions.any():
                continue
            trace = read_trace(experiment, critic, episode, learner.divl)
            times = np.asarray(trace["times_s"]) / max(trace["times_s"][-1], 1e-9)
            along = np.interp(_SHARES, times, trace["quantile"])
            found[episode.verdict.outcome.value].append(np.round(along, 4).tolist())
    return found


def area_under_curve(value: Mapping[str, Sequence[Sequence[float]]], share: int) -> float:
    """The chance that the value of a success is above that of a failure, at this entry of the shares; ties count half."""
    return chance_above(*([along[share] for along in value[outcome]] for outcome in ("success", "failure")))


def figure(result: Mapping[str, Any], canvas: Figure) -> None:
    """SFT's loss; the value along successes and failures, median and middle half."""
    left, right = canvas.subplots(1, 2)
    steps, losses = np.asarray(result["sft_loss"], float).T
    draw.curve(left, steps, losses, draw.SFT)
    left.set(xlabel="learner step of SFT", ylabel="flow matching loss", ylim=(0, None))
    for outcome, colour in (("success", draw.SUCCESS), ("failure", draw.FAILURE)):
        low, middle, high = np.quantile(np.asarray(result["value"][outcome]), (0.25, 0.5, 0.75), axis=0)
        right.fill_between(_SHARES, low, high, color=colour, alpha=0.18, linewidth=0)
        right.plot(_SHARES, middle, color=colour, label=outcome)
    right.set(xlabel="share of the episode", ylabel="quantile value")
    right.legend(frameon=False)


def page(result: Mapping[str, Any]) -> str:
    """The page, Markdown."""
    losses, value, success = result["sft_loss"], result["value"], result["success"]
    areas = {share: area_under_curve(value, round(10 * share)) for share in (0.0, 0.5, 1.0)}
    told = "\n".join(
        f"| {name} | {one[0]:.2f} [{one[1]:.2f}, {one[2]:.2f}] |"
        for name, one in zip(("SFT", "LWD offline", "LWD online"), success.values(), strict=True)
    )
    hardware = result["hardware"]
    return f"""# A small VLA learns from pictures

Written by `python -m tools.vla_learns` from `{RESULT}`. One run, seed {result["seed"]}, commit {result["commit"]},
{hardware["cores"]} cores of {hardware["processor"]}, {sum(result["minutes"].values()):.0f} minutes.

The recipe `scene_vla` is the whole loop with the VLA of [the paper's Section 6](../reference/vla_plan.md) at dummy size:
pi0.5's policy and the Gemma 3 critic with random weights, one camera at 56 x 56, two tasks, prompts read as bytes. The robot is
told its own joints only, so where the drawer is and whether the button is lit can only be seen. Everything trains offline, the
action expert alone online. `make test-vla` runs it and checks what this page shows.

![SFT loss and value](../{FIGURE.relative_to("docs")})

Left: the loss of SFT falls from {losses[0][1]:.2f} to {losses[-1][1]:.2f}. Right: the value after the offline stage, read along
{len(value["success"])} successes and {len(value["failure"])} failures of the online stage that no operator touched: episodes
that this value was not trained on; lines are medians, bands the middle half. A success's value is above a failure's with
probability {areas[0.0]:.2f} at the beginning, {areas[0.5]:.2f} half-way and {areas[1.0]:.2f} at the end (0.5 would be chance).

Success on {result["episodes"]} held-out episodes, mean of tasks, 95 % intervals over starts:

| stage | success |
| --- | --: |
{told}

Acting does not get better here: {result["episodes"]} attempts are few, and a policy of this size, trained for minutes from
random weights, says nothing about how well pi0.5 acts. What the run shows is that pictures, prompts, value, critic, adjoint
matching and the frozen backbone work together, and that what the value has learned holds on new episodes.
"""


def main() -> int:
    """Run, read, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/vla"), help="run folder; a cut run goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="only draw the page from the committed result")
    asked = parser.parse_args()
    if not asked.page:
        x = recipe("scene_vla", asked.seed)
        about = {
            "command": f"python -m tools.vla_learns --seed {asked.seed} --out {asked.out}",
            "commit": current_commit(ROOT),
            "seed": asked.seed,
            "episodes": x.evaluate.episodes * len(horizons(x)),
            "hardware": describe_hardware(),
            "software": describe_software(),
        }
        (ROOT / RESULT).parent.mkdir(parents=True, exist_ok=True)
        write_json(ROOT / RESULT, {**about, **run(x, asked.out, Console())})
    result: dict[str, Any] = json.loads((ROOT / RESULT).read_text(encoding="utf-8"))
    (ROOT / FIGURE).parent.mkdir(parents=True, exist_ok=True)
    draw.save(partial(figure, result), (8.8, 2.8), ROOT / FIGURE)
    (ROOT / PAGE).write_text(page(result), encoding="utf-8")
    print(f"wrote {PAGE} and {FIGURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
