"""Online in rounds: robots and learner in turn, each round with the policy of the one before, and cut runs go on."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import toy_fleet

from lwd.config import stage_of_round
from lwd.errors import ConfigError
from lwd.fleet import rounds
from lwd.fleet.demo import fleet_totals
from lwd.fleet.folder import open_services
from lwd.fleet.learner_rounds import round_name
from lwd.fleet.offline import last_state, train_offline
from lwd.fleet.online import online
from lwd.fleet.rounds import collection_of
from lwd.recipes.methods import recap

pytestmark = pytest.mark.usefixtures("quick_compilation")

TOY = toy_fleet.experiment()
TOY = replace(
    TOY,
    offline=replace(TOY.offline, critic_steps=4),
    online=replace(TOY.online, control_steps=240),
)
X = recap(TOY)


class CutError(Exception):
    pass


def test_a_round_is_the_offline_stage_again_with_its_part_of_the_learner_steps():
    """0.05 learner steps per control step, four for one, 240 control steps, two rounds: 24 each, 4/14 for the value."""
    stage = stage_of_round(X)
    assert (stage.steps, stage.critic_steps) == (24, 6)
    assert stage.learner == X.online.learner
    assert (stage.mixture, stage.warm_up_mixture) == (X.online.mixture, X.offline.warm_up_mixture)
    assert stage.loop == X.offline.loop
    without_offline = replace(X, offline=replace(X.offline, critic_steps=0, steps=0))
    assert stage_of_round(without_offline).critic_steps == 0


def test_while_robots_collect_nobody_waits_for_the_learner():
    parts = [collection_of(X, number).online for number in (1, 2)]
    assert [part.control_steps for part in parts] == [120, 240]
    for part in parts:
        assert part.rate.fleet_waits_for(0, part.control_steps) is None


def test_a_number_of_rounds_that_cannot_work_is_refused():
    with pytest.raises(ConfigError, match=r"OnlineStage\.rounds must be 0 .* got -1"):
        replace(TOY.online, rounds=-1)


def test_two_rounds_of_which_the_second_is_cut_and_goes_on(trained_copy, console, monkeypatch):
    shutil.rmtree(trained_copy.checkpoints("offline"))  # LWD's; the data and the SFT policy are everyone's
    with open_services(trained_copy) as services:
        offline = train_offline(X, services, console).number
    train_round = rounds.train_round

    def cut_in_round_two(experiment, services, number, console):
        if number == 2:
            raise CutError
        return train_round(experiment, services, number, console)

    with monkeypatch.context() as cut:
        cut.setattr(rounds, "train_round", cut_in_round_two)
        with pytest.raises(CutError):
            online(X, trained_copy, console)
    lines = (trained_copy.path / "episodes.jsonl").read_text().splitlines()
    newest = online(X, trained_copy, console)
    assert (trained_copy.path / "episodes.jsonl").read_text().splitlines() == lines, (
        "nothing is collected twice"
    )

    with open_services(trained_copy) as services:
        rows = services.catalogue.episodes(source="online")
        published = [s for s in services.snapshots.list() if s.meta["stage"] == "online"]
        state = last_state(X, services, X.online.learner, round_name(2))
    assert [s.learner_step for s in published] == [24, 48]
    assert published[0].manifest < published[1].manifest
    assert newest == published[1]
    assert int(state.step) == 24
    # Round one under the offline policy, round two under round one's, each with half of the control steps.
    steps = Counter()
    for row in rows:
        steps[row.snapshot] += row.steps
    assert list(steps) == [offline, published[0].number]
    assert 120 <= steps[offline] < 120 + 4 * 40  # four robots finish what they began
    assert sum(steps.values()) >= 240
    assert len({row.seed for row in rows}) == len(rows)
    assert sum(row.intervention_steps for row in rows) == 0
    # The lines that the costs are added up from.
    assert {json.loads(line)["episode_id"] for line in lines} == {row.episode_id for row in rows}
    totals = fleet_totals(trained_copy.path / "episodes.jsonl")
    assert totals["robot_hours"] == pytest.approx(sum(steps.values()) / 10.0 / 3600)
    assert (totals["interventions"], totals["operator_minutes"]) == (0, 0.0)
