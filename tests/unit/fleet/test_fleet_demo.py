"""The demo's bookkeeping: phases that are done are not done again, and a folder belongs to one experiment."""

import json

import pytest
import toy_fleet

from lwd.errors import ConfigError
from lwd.fleet import demo as demos
from lwd.fleet.demo import Demo, fleet_totals
from lwd.fleet.folder import RunFolder

PHASES = [
    "collect demonstrations and play",
    "train SFT",
    "collect rollouts",
    "evaluate SFT",
    "train offline",
    "evaluate offline",
    "online",
    "evaluate online",
]


class InterruptedPhaseError(Exception):
    pass


@pytest.fixture
def calls(monkeypatch):
    """Every phase only notes that it ran; the one named in `calls.cut` is interrupted."""

    class Calls(list):
        cut = None

    made = Calls()

    def note(name):
        if name == made.cut:
            raise InterruptedPhaseError
        made.append(name)

    def noted_collect(x, services, sources, console):
        note("rollouts" if "rollout" in [s.value for s in sources] else "demonstrations")

    monkeypatch.setattr(demos, "collect", noted_collect)
    monkeypatch.setattr(demos, "train_sft", lambda *a: note("sft"))
    monkeypatch.setattr(demos, "train_offline", lambda *a: note("offline"))
    monkeypatch.setattr(demos, "online", lambda *a: note("online"))
    monkeypatch.setattr(demos, "run_evaluation", lambda x, s, stage, c: note(f"evaluate {stage}"))
    monkeypatch.setattr(demos, "print_results", lambda console, summary: None)
    monkeypatch.setattr(Demo, "_summarise", lambda self, timing: dict(timing))
    return made


ORDER = [
    "demonstrations",
    "sft",
    "rollouts",
    "evaluate sft",
    "offline",
    "evaluate offline",
    "online",
    "evaluate online",
]


@pytest.fixture(autouse=True)
def _without_type_check(monkeypatch):
    """The stand-ins above return no summaries."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


def demo(tmp_path, console, seed=0):
    return Demo(toy_fleet.experiment(seed=seed), RunFolder(tmp_path / "run"), console, "lwd demo")


def test_the_phases_run_in_the_order_of_algorithm_1(tmp_path, console, calls):
    timing = demo(tmp_path, console).run()
    assert calls == ORDER
    assert list(timing) == PHASES
    assert json.loads((tmp_path / "run" / "timing.json").read_text()).keys() == timing.keys()


@pytest.mark.parametrize("cut", ["demonstrations", "offline", "evaluate online"])
def test_a_run_that_was_cut_goes_on_with_the_phase_that_it_was_cut_in(tmp_path, console, calls, cut):
    calls.cut = cut
    with pytest.raises(InterruptedPhaseError):
        demo(tmp_path, console).run()
    before, calls.cut = list(calls), None
    calls.clear()
    demo(tmp_path, console).run()
    assert before + calls == ORDER
    calls.clear()
    demo(tmp_path, console).run()
    assert calls == [], "all is done"


def test_a_folder_of_another_experiment_is_refused_and_left_alone(tmp_path, console, calls):
    demo(tmp_path, console).run()
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    calls.clear()
    with pytest.raises(
        ConfigError, match=r"holds a run of another experiment or seed\. Choose another --out"
    ):
        demo(tmp_path, console, seed=1).run()
    assert calls == []
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == run
    assert (run["seed"], run["command"]) == (0, "lwd demo")


@pytest.mark.parametrize("name", ["run.json", "timing.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "b"}'])
def test_a_damaged_file_of_the_run_is_named_and_left_alone(tmp_path, console, calls, name, text):
    demo(tmp_path, console).run()
    (tmp_path / "run" / name).write_text(text)
    with pytest.raises(ConfigError, match=f"{name}' is damaged"):
        demo(tmp_path, console).run()
    assert (tmp_path / "run" / name).read_text() == text


def test_what_the_fleet_cost_is_added_up_by_hand(tmp_path):
    path = tmp_path / "episodes.jsonl"
    lines = [
        {"cycle_time_s": 1800.0, "steps": 100, "intervention_steps": 50, "takeovers": 2},
        {"cycle_time_s": 900.0, "steps": 100, "intervention_steps": 20, "takeovers": 1},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert fleet_totals(path) == {"robot_hours": 0.75, "interventions": 3, "operator_minutes": 18.0}


def test_a_fleet_that_never_ran_cost_nothing(tmp_path):
    assert fleet_totals(tmp_path / "none.jsonl") == {
        "robot_hours": 0.0,
        "interventions": 0,
        "operator_minutes": 0.0,
    }


def test_a_line_that_a_killed_actor_left_half_is_not_counted(tmp_path):
    path = tmp_path / "episodes.jsonl"
    whole = json.dumps({"cycle_time_s": 3600.0, "steps": 10, "intervention_steps": 0, "takeovers": 0})
    path.write_text(whole + "\n" + whole[:20])
    assert fleet_totals(path)["robot_hours"] == 1.0
