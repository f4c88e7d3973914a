"""Collecting: how many of what, under which seeds; play that succeeds by accident is no play; a cut collection goes on."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import toy_fleet
from rich.console import Console

from lwd.episode import Source
from lwd.errors import ConfigError, SnapshotError
from lwd.fleet import collect as collecting
from lwd.fleet.collect import check_operators, collect, first_seed
from lwd.fleet.demo import Demo
from lwd.fleet.evaluator import plan as evaluation_plan
from lwd.fleet.folder import RunFolder, open_services
from lwd.log.codec import decode
from lwd.log.writer import EdgeClient
from lwd.robot.sim.fleet_spec import FleetSpec

PLANS = collecting._PLANS


def test_demonstrations_are_planned_per_style_and_long_tasks_more_often():
    plan = PLANS[Source.DEMO](toy_fleet.experiment())
    # 2 by the expert and 1 by the slow one; the long task twice as often.
    assert Counter((a.task, a.operator) for a in plan) == {
        ("near", "expert"): 2,
        ("far", "expert"): 4,
        ("near", "slow"): 1,
        ("far", "slow"): 2,
    }
    assert all((a.driver, a.source) == ("operator", Source.DEMO) for a in plan)
    assert plan[0].task == "far", "long ones first, so that no robot is left with one at the end"


def test_play_and_rollouts_are_planned_per_task():
    x = toy_fleet.experiment()
    play, rollouts = PLANS[Source.PLAY](x), PLANS[Source.ROLLOUT](x)
    assert Counter(a.task for a in play) == {"near": 3, "far": 6}
    assert {(a.driver, a.operator) for a in play} == {("operator", "play")}
    assert Counter(a.task for a in rollouts) == {"near": 2, "far": 4}
    assert {a.driver for a in rollouts} == {"policy"}


def test_operators_that_the_robots_lack_are_refused_before_a_folder_is_claimed(tmp_path, console):
    x, sources = toy_fleet.experiment(), (Source.DEMO, Source.PLAY)
    check_operators(x, sources)
    wrong = replace(x, collect=replace(x.collect, demos={"near": 1}))
    with pytest.raises(
        ConfigError,
        match=r"asks for operator 'near', but .* have 'expert', 'play', 'slow': .* operators, not tasks",
    ):
        Demo(wrong, RunFolder(tmp_path / "run"), console, "lwd demo").run()
    assert list(tmp_path.iterdir()) == []
    check_operators(wrong, (Source.PLAY, Source.ROLLOUT))
    metaworld = FleetSpec(tier="metaworld")
    idle = replace(x, fleet=replace(x.fleet, deployed=metaworld, demonstrated=metaworld))
    with pytest.raises(ConfigError, match=r"set `CollectConfig\.play` to 0"):
        check_operators(idle, (Source.PLAY,))
    check_operators(replace(idle, collect=replace(idle.collect, play=0)), (Source.PLAY,))


@pytest.mark.parametrize("weight", [0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_weight_of_the_long_tasks_counts_exactly(weight, count):
    x = toy_fleet.experiment()
    x = replace(x, collect=replace(x.collect, play=count, long_task_weight=weight))
    assert Counter(a.task for a in PLANS[Source.PLAY](x)) == Counter(
        {"near": count, "far": round(count * weight)}
    )


def test_half_of_the_rollouts_are_clean_and_the_others_noisy_up_to_the_limit():
    x = toy_fleet.experiment()
    x = replace(x, collect=replace(x.collect, rollouts=100, rollout_noise=0.3))
    noise = [a.action_noise for a in PLANS[Source.ROLLOUT](x)]
    assert noise == [a.action_noise for a in PLANS[Source.ROLLOUT](x)]
    assert all(0.0 <= n <= 0.3 for n in noise)
    assert max(noise) > 0.25
    # 300 fair coins: within 5 standard deviations (1 in 2 million).
    assert abs(sum(n == 0.0 for n in noise) - 150) < 44


def test_no_two_sources_no_two_runs_and_no_evaluation_share_a_seed():
    seeds = set()
    total = 0
    for run in (0, 1, 19):
        x = toy_fleet.experiment(seed=run)
        for source, plan in PLANS.items():
            mine = [a.seed for a in plan(x)]
            assert mine[0] == first_seed(x, source)
            seeds.update(mine)
            total += len(mine)
    assert len(seeds) == total
    x = toy_fleet.experiment(seed=19)
    end_of_online = first_seed(x, Source.ONLINE) + collecting.SEEDS_PER_RUN
    held_out = {a.seed for a in evaluation_plan(x, 1)}
    assert not held_out & seeds
    assert min(held_out) >= end_of_online
    starts = [first_seed(toy_fleet.experiment(seed=run), s) for run in range(20) for s in Source]
    assert min(b - a for a, b in pairwise(sorted(starts))) >= collecting.SEEDS_PER_RUN


@pytest.mark.parametrize("seed", [-1, 20])
def test_a_run_seed_without_room_for_its_episodes_is_refused(seed):
    with pytest.raises(ConfigError, match="laid out for runs 0 to 19"):
        first_seed(toy_fleet.experiment(seed=seed), Source.DEMO)


def test_an_evaluation_is_the_same_for_every_policy():
    x = toy_fleet.experiment()
    one, two = evaluation_plan(x, 1), evaluation_plan(x, 2)
    assert [replace(a, snapshot=2) for a in one] == two
    assert Counter(a.task for a in one) == {"near": 2, "far": 2}
    assert all(a.takeover is None and a.action_noise == 0.0 for a in one)


def test_what_was_planned_is_in_the_log(trained):
    x = toy_fleet.experiment()
    rows = trained.catalogue.episodes()
    for source in (Source.DEMO, Source.PLAY, Source.ROLLOUT):
        planned = {(a.task, a.seed) for a in PLANS[source](x)}
        low = first_seed(x, source)
        found = {(r.task, r.seed) for r in rows if low <= r.seed < low + collecting.SEEDS_PER_RUN}
        assert found == planned, source
    assert trained.catalogue.quarantined() == []


def test_an_accidental_success_at_play_is_filed_as_a_rollout(trained):
    """The toy's player walks to the goal where the seed is a multiple of three."""
    x = toy_fleet.experiment()
    play = {a.seed for a in PLANS[Source.PLAY](x)}
    rows = [row for row in trained.catalogue.episodes() if row.seed in play]
    assert {row.seed % 3 == 0 for row in rows} == {True, False}
    for row in rows:
        expected = ("rollout", "success") if row.seed % 3 == 0 else ("play", "failure")
        assert (row.source, row.outcome) == expected, row.seed


def test_rollouts_name_the_sft_snapshot_that_drove_them(trained):
    x = toy_fleet.experiment()
    seeds = {a.seed for a in PLANS[Source.ROLLOUT](x)}
    assert {row.snapshot for row in trained.catalogue.episodes() if row.seed in seeds} == {1}
    assert trained.snapshots.read(1).meta["stage"] == "sft"


def test_rollouts_before_a_policy_say_what_to_run_first(tmp_path):
    with (
        open_services(RunFolder(tmp_path / "run")) as services,
        pytest.raises(SnapshotError, match="lwd train sft"),
    ):
        collect(toy_fleet.experiment(), services, (Source.ROLLOUT,), Console(quiet=True))


def with_demonstrations(count):
    """The toy experiment with so many demonstrations per task."""
    x = toy_fleet.experiment()
    return replace(x, collect=replace(x.collect, demos={"expert": count}))


def test_a_collection_that_was_cut_makes_only_what_is_missing(tmp_path, console):
    x, few = toy_fleet.experiment(), with_demonstrations(2)
    with open_services(RunFolder(tmp_path / "run")) as services:
        collect(few, services, (Source.DEMO,), console)
        before = services.catalogue.episodes()
        collect(x, services, (Source.DEMO,), console)
        after = services.catalogue.episodes()
        collect(x, services, (Source.DEMO,), console)
        assert services.catalogue.episodes() == after
    assert after[: len(before)] == before
    assert Counter(row.seed for row in after) == Counter(a.seed for a in PLANS[Source.DEMO](x))


def test_episodes_that_wait_in_spools_are_not_made_again(tmp_path, console):
    """What a killed collection had finished and not delivered."""
    x = with_demonstrations(1)
    with open_services(RunFolder(tmp_path / "whole")) as services:
        collect(x, services, (Source.DEMO,), console)
        made = services.catalogue.episodes()
        episodes = [decode(services.objects.get(row.key)) for row in made]
    with open_services(RunFolder(tmp_path / "cut")) as services:
        for episode in episodes:
            name = episode.header.robot
            spool = tmp_path / "cut" / "spool" / name
            with EdgeClient(spool, services.objects, services.bus, name) as robot:
                robot.submit(episode)  # and never delivered
        collect(x, services, (Source.DEMO,), console)
        rows = services.catalogue.episodes()
    assert Counter(row.episode_id for row in rows) == Counter(row.episode_id for row in made)


def test_another_kind_of_robots_episodes_are_not_taken_for_ones_own(tmp_path, console):
    x = with_demonstrations(1)
    other = FleetSpec(tier="toy_fleet:other_line")
    elsewhere = replace(x, fleet=replace(x.fleet, deployed=other, demonstrated=other))
    with open_services(RunFolder(tmp_path / "run")) as services:
        for one in (x, elsewhere):
            collect(one, services, (Source.DEMO,), console)
        kinds = Counter(row.spec for row in services.catalogue.episodes())
    assert kinds == {"line": 3, "other-line": 3}
