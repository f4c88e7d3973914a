"""Run files: what is written is read back, and what cannot be trusted is refused with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import made_up
import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.evaluate.jsonfile import ResultError
from lwd.evaluate.report.run import FleetEpisode, Metrics, on_one_clock
from lwd.results.gather import coarse, fleet_curve, learner_curves
from lwd.results.runfile import check_alike, read_run_file, write_run_file

HERE = Path("runs/scene_evidence/lwd_offline/seed_2.json")


@pytest.fixture
def path(tmp_path):
    return tmp_path / HERE


def test_a_run_file_is_read_back_as_it_was_written(path):
    run = made_up.rich("lwd_offline", 2, 0.7, episodes=3)
    write_run_file(path, run)
    found = read_run_file(path)
    assert (found.id, found.wall_s, found.settings, found.costs) == (run.id, 90.0, run.settings, run.costs)
    assert sorted(found.records, key=repr) == sorted(run.records, key=repr)
    assert found.learner == run.learner
    assert [(t.task, t.outcome) for t in found.traces] == [("rearrange", "success"), ("rearrange", "failure")]
    assert np.allclose(found.traces[0].probabilities, run.traces[0].probabilities, atol=1e-4)
    fleet = made_up.rich("lwd_online", 2, 0.7, episodes=3)
    write_run_file(path.parents[1] / "lwd_online" / "seed_2.json", fleet)
    assert read_run_file(path.parents[1] / "lwd_online" / "seed_2.json").fleet == fleet.fleet


def test_a_run_file_that_would_not_be_read_back_takes_no_others_place(path):
    run = made_up.run("lwd_offline", 2)
    write_run_file(path, run)
    good = path.read_bytes()
    with pytest.raises(ResultError, match=r"evaluation\.far: expected columns of one length, at least 1"):
        write_run_file(path, replace(run, records=made_up.records({"near": [1, 0]})))
    assert path.read_bytes() == good
    assert list(path.parent.iterdir()) == [path]


def test_columns_stand_on_one_line(path):
    write_run_file(path, made_up.run("lwd_offline", 2))
    assert '"success": [1, 0],' in path.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=2), r"schema: expected 1, got 2"),
        (lambda c: c.update(sed=1), r"sed: unknown field. Is 'seed' meant\?"),
        (lambda c: c.pop("costs"), r"costs: is missing"),
        (lambda c: c.update(wall_s=1), r"wall_s: is not the sum of timing"),
        (
            lambda c: c["tasks"]["near"].update(horizon="tall"),
            r"expected the horizon short or long, got 'tall'",
        ),
        (
            lambda c: c["evaluation"]["near"].update(steps=[1]),
            r"evaluation\.near: expected columns of one length",
        ),
        (lambda c: c["evaluation"]["near"].update(seed=[7, 7]), r"two episodes with the same seed"),
        (lambda c: c["evaluation"]["near"].update(success=[1, 0.5]), r"near\.success: expected 0 or 1"),
        (
            lambda c: c["evaluation"]["near"].update(stage_score=[2, 0]),
            r"stage_score\.0: expected a number in \[0, 1\]",
        ),
        (lambda c: c["evaluation"].pop("far"), r"evaluation\.far: is missing"),
        (lambda c: c["costs"].update(interventions=1.5), r"costs\.interventions: expected a whole number"),
        (lambda c: c["learner"].update(tau={"x": [1], "y": []}), r"learner\.tau: has 1 x and 0 y"),
        (lambda c: c.update(seed=3), r"its place is runs/scene_evidence/lwd_offline/seed_3\.json"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_with_its_place(path, change, message):
    write_run_file(path, made_up.run("lwd_offline", 2))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=message) as caught:
        read_run_file(path)
    assert str(path) in str(caught.value)


def test_seeds_that_were_not_made_alike_are_not_averaged():
    runs = [made_up.run(seed=0), made_up.run(seed=1)]
    check_alike(runs)
    with pytest.raises(ConfigError, match="seed_1 and scene_evidence/sft/seed_0 differ in settings"):
        check_alike([runs[0], made_up.run(seed=1, settings={"gamma": "0.5"})])
    with pytest.raises(ConfigError, match="differ"):
        check_alike([runs[0], made_up.run(seed=1, successes={"near": [1], "far": [1]})])


# ---- from a run folder -----------------------------------------------------------------------------------------------


def episode(n: int, *, done: bool, takeovers: int = 0, source: str = "online") -> FleetEpisode:
    return FleetEpisode(
        episode_id=str(n),
        robot="r",
        task="near",
        source=source,
        snapshot=1,
        outcome="success" if done else "failure",
        stage_score=1.0,
        steps=10,
        intervention_steps=5 * takeovers,
        takeovers=takeovers,
        started_s=float(n),
        ended_s=n + 1.0,
        cycle_time_s=36.0,
    )


def test_a_helped_success_is_none_of_the_policys_own():
    # 16 episodes of 0.01 h in two groups of 8: first half 4 alone, 2 helped, 2 failed; second half 8 alone.
    first = [episode(n, done=n < 6, takeovers=int(n in (4, 5))) for n in range(8)]
    second = [episode(n, done=True) for n in range(8, 16)]
    found = fleet_curve([*second, *first, episode(99, done=False, source="demo")])
    assert found is not None
    assert found.alone == [0.5, 1.0]
    assert found.helped == [0.75, 1.0]
    assert found.human == [0.125, 0.0]
    assert found.robot_hours == [0.045, 0.125]
    assert fleet_curve([episode(0, done=True, source="demo")]) is None


def test_the_fleets_curve_is_in_the_order_in_which_episodes_began():
    # Successes are short: of 16 that ran side by side, the 8 that end first are the successes, begun 2nd, 4th, ...
    ran = [replace(episode(n, done=n % 2 == 1), ended_s=100.0 - 50 * (n % 2) + n) for n in range(16)]
    found = fleet_curve(sorted(ran, key=lambda e: e.ended_s))
    assert found is not None
    assert found.alone == [0.5, 0.5]


def test_a_clock_that_begins_again_goes_on():
    first, second = [episode(n, done=False) for n in range(8)], [episode(n, done=True) for n in range(8)]
    joined = on_one_clock([*first, *second])
    assert [e.started_s for e in joined] == [*range(8), *range(8, 16)]
    assert joined[-1].ended_s == 16.0
    found = fleet_curve(joined)
    assert found is not None
    assert found.alone == [0.0, 1.0]


def test_curves_are_thinned_and_of_the_stage_only():
    rows = [{"stage": "offline", "learner_step": n, "value/tau": 0.5, "critic/loss": 1.0} for n in range(100)]
    found = learner_curves(
        Metrics([*rows, {"stage": "online", "learner_step": 1, "value/tau": 9.0}]), "offline"
    )
    assert list(found) == ["value/tau"]
    assert len(found["value/tau"].x) == 40
    assert set(found["value/tau"].y) == {0.5}


def test_a_coarser_distribution_still_sums_to_one():
    atoms = np.linspace(-0.1, 1.1, 201)
    probabilities = np.full((3, 201), 1 / 201)
    trace = made_up.trace("success")
    fields = {name: getattr(trace, name)[:3] for name in ("times_s", "quantile", "entropy", "tau")}
    found = coarse(
        type(trace)(task="t", outcome="success", probabilities=probabilities, atoms=atoms, **fields)
    )
    assert found.probabilities.shape == (3, 51)
    assert np.allclose(found.probabilities.sum(axis=1), 1)
    assert (np.diff(found.atoms) > 0).all()
