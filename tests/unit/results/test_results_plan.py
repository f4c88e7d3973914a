"""The plan: every row has its seeds, and finds what it goes on from."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import toy_fleet
import toy_plan

from lwd.config import stage_of_round
from lwd.episode import Outcome
from lwd.errors import ConfigError, UnknownNameError
from lwd.fleet.rounds import collection_of
from lwd.learner.best_of_n import BestOfNRefitLwd
from lwd.learner.refit import RefitLwd
from lwd.recipes import ablations, recipe
from lwd.recipes.methods import METHODS
from lwd.recipes.once_more import LONGER, ONCE_MORE
from lwd.results.plan import AGAIN, BENCHMARKS, chosen, plain, plan, rows, rows_of
from lwd.results.settings import agree, differences, settings

EVIDENCE = partial(plain, "metaworld")
X = toy_fleet.experiment()


def by_name(found):
    return {row.name: row for row in found}


# ---- rows and cells --------------------------------------------------------------------------------------------------


def test_every_method_and_ablation_has_rows():
    names = set(by_name(rows(EVIDENCE)))
    assert {"sft", "lwd_offline", "lwd_online"} <= names
    assert {f"{name}_online" for name in METHODS} <= names
    assert (set(ablations.OFFLINE_ABLATIONS) | set(ablations.ONLINE_ABLATIONS)) <= names


def test_five_seeds_for_sft_and_lwd_three_for_the_rest():
    for name, row in by_name(rows(EVIDENCE)).items():
        seeds = {**dict.fromkeys(("sft", "lwd_offline", "lwd_online"), 5), "lwd_refitted_once_more": 1}
        assert row.seeds == seeds.get(name, 3), name


def test_a_method_that_learns_nothing_offline_goes_on_from_sft():
    found = by_name(rows(EVIDENCE))
    assert "hg_dagger_offline" not in found
    assert (found["hg_dagger_online"].parent, found["hg_dagger_online"].stages) == (
        "sft",
        ("offline", "online"),
    )
    assert (found["lwd_online"].parent, found["lwd_online"].stages) == ("lwd_offline", ("online",))


def test_learning_once_more_goes_on_from_a_run_with_a_fleet_and_changes_that_stage_alone():
    found = by_name(rows_of("metaworld"))
    for name, (parent, _) in ONCE_MORE.items():
        row, before = found[name], found[parent]
        assert (row.parent, row.stages) == (parent, ("consolidated",))
        assert before.stages[-1] == "online"
        x, plain = recipe("metaworld"), before.change(recipe("metaworld"))
        assert {path.split(".")[0] for path in differences(plain, row.change(x))} == {"consolidated"}


def test_more_hours_go_on_with_the_online_stage_of_another_row_as_it_was():
    """So that what the shorter run did is what the longer one would have done."""
    found = by_name(rows_of("scene_hours"))
    row, before = found["refitted_in_six_turns"], found["refitted_in_turns"]
    assert (row.parent, row.stages, row.seeds) == ("refitted_in_turns", ("online",), 3)
    short, long = (one.change(plain("scene_hours", 0)) for one in (before, row))
    assert differences(short, long) == {"online.control_steps": "1300000 (650000)", "online.rounds": "6 (3)"}
    assert stage_of_round(long) == stage_of_round(short)
    first, third = (collection_of(short, number).online for number in (1, 3))
    assert [collection_of(long, number).online.control_steps for number in (1, 3)] == [
        first.control_steps,
        third.control_steps,
    ]


def test_wide_windows_online_follow_an_offline_stage_that_has_them():
    found = by_name(rows_of("metaworld"))
    offline, online, best = (
        found[f"n_step_10_short{end}"].change(plain("metaworld", 0)) for end in ("", "_online", "_best_of_16")
    )
    assert [found[f"n_step_10_short{end}"].parent for end in ("_online", "_best_of_16")] == [
        "n_step_10_short"
    ] * 2
    assert differences(offline, online) == {
        "online.mixture.offline.n_short": "10 (1)",
        "online.mixture.online.n_short": "10 (1)",
    }
    assert settings(offline, "offline") == settings(online, "offline") == settings(best, "offline")
    assert differences(online, best) == {"online.learner": "BestOfNLwd (Lwd)"}


def test_turns_with_a_frozen_reference_are_those_with_a_refitted_one_but_for_the_reference():
    x = plain("metaworld_hours", 0)
    frozen, refitted = (ablations.BEYOND_THE_PAPER[f"{how}_in_turns"](x) for how in ("frozen", "refitted"))
    assert differences(frozen, refitted) == {"online.learner": "RefitLwd (Lwd)"}
    assert refitted.online.learner == RefitLwd(
        **vars(frozen.online.learner), reference=refitted.online.learner.reference
    )


def test_turns_with_robots_that_choose_differ_in_that_alone_and_combine_with_wide_windows():
    x = plain("metaworld", 0)
    refitted, choosing = (
        ablations.BEYOND_THE_PAPER[f"{how}_in_turns"](x) for how in ("refitted", "choosing")
    )
    assert differences(refitted, choosing) == {"online.learner": "BestOfNRefitLwd (RefitLwd)"}
    assert choosing.online.learner == BestOfNRefitLwd(**vars(refitted.online.learner), n=16)
    found = by_name(rows_of("metaworld"))
    assert found["choosing_in_turns"].parent == "lwd_offline"
    wide = found["n_step_10_short_choosing_in_turns"]
    assert wide.parent == "n_step_10_short"
    assert differences(found["n_step_10_short_online"].change(x), wide.change(x)) == differences(x, choosing)


def test_what_a_takeover_says_is_a_setting_of_the_online_stage():
    x = plain("scene_evidence", 0)
    fails = ablations.takeover_fails(x)
    assert differences(x, fails) == {"takeover_fails": "True (False)"}
    assert settings(x, "offline") == settings(fails, "offline"), "no offline episode has a takeover"
    written = settings(x, "online")
    del written["takeover_fails"]  # as run files had it before it was one
    assert agree(written, x, "online")
    assert not agree(written, fails, "online")


def test_cells_come_seed_by_seed_with_parents_first():
    planned = plan("metaworld")
    ids = [cell.id for cell in planned]
    assert len(ids) == len(set(ids)) == sum(row.seeds for row in rows(EVIDENCE))
    for index, cell in enumerate(planned):
        assert cell.parent is None or cell.parent in ids[:index]
    assert [cell.seed for cell in planned] == sorted(cell.seed for cell in planned)
    assert all(cell.experiment.seed == cell.seed for cell in planned)


def test_the_fast_tier_runs_everything_the_scene_every_method_and_the_generalist_lwd_alone():
    scene, eight, fifty = (by_name(rows_of(name)) for name in ("scene_evidence", "metaworld", "metaworld50"))
    assert {f"{name}_online" for name in METHODS} < set(scene) - {"temperature_2x"} < set(eight)
    on_both = {"takeover_fails", "takeover_fails_in_turns", "best_of_16_acting", "n_step_10_short"}
    beyond = {*ablations.BEYOND_THE_PAPER, *ONCE_MORE} - on_both
    of_lwd = {*ablations.OFFLINE_ABLATIONS, *ablations.ONLINE_ABLATIONS, *ablations.WIDE_WINDOWS}
    assert set(eight) - set(scene) == {*of_lwd, *beyond, AGAIN} - on_both
    assert set(scene) - set(eight) == {"temperature_2x"}
    assert {name: row.seeds for name, row in fifty.items()} == {
        "sft": 3,
        "lwd_offline": 3,
        "lwd_online": 3,
    }
    for of in (scene, eight):
        assert {name for name, row in of.items() if row.seeds == 5} == set(fifty)
    once = ({name for name, row in of.items() if row.seeds == 1} for of in (scene, eight))
    assert list(once) == [{"takeover_fails_in_turns"}, {"lwd_refitted_once_more"}]
    assert {len(cell.experiment.fleet.deployed.tasks) for cell in plan("metaworld50")} == {50}


def test_what_is_superseded_names_a_benchmark_that_is_not():
    old = {name: scope.superseded_by for name, scope in BENCHMARKS.items() if scope.superseded_by}
    assert old == {"scene_hours": "scene_evidence"}
    assert not BENCHMARKS["scene_evidence"].superseded_by
    assert {name for name, scope in BENCHMARKS.items() if not scope.wanted} == {*old, "metaworld_hours"}


def test_hours_are_the_fast_tier_with_ten_times_the_online_budget():
    found = differences(plain("metaworld", 0), plain("metaworld_hours", 0))
    assert found == {
        "online.control_steps": "640000 (64000)",
        "online.learner.policy.decay_steps": "64000 (6400)",
        "online.learner.critic.decay_steps": "64000 (6400)",
    }
    assert {row.name for row in rows_of("metaworld_hours")} < {row.name for row in rows_of("metaworld")}


VARIED = {
    "metaworld_shifted": {"demonstrated.starts"},
    "metaworld_no_hurry": {"deployed.time_limits"},
    "metaworld_shifted_no_hurry": {"deployed.time_limits", "demonstrated.starts"},
    "scene_no_hurry": {"deployed.time_limits"},
    "scene_unshifted": {"deployed.conditions"},
}


@pytest.mark.parametrize("benchmark", VARIED)
def test_conditions_of_the_deployment_are_all_that_differs_from_the_benchmark_that_is_varied(benchmark):
    varied, x = plain(BENCHMARKS[benchmark].varies, 0), plain(benchmark, 0)
    found = {".".join(path.split(".")[:3]) for path in differences(varied, x)}
    assert found == {f"fleet.{changed}" for changed in VARIED[benchmark]}
    assert set(VARIED) == {name for name, scope in BENCHMARKS.items() if scope.varies}
    deployed, demonstrated = x.fleet.deployed, x.fleet.demonstrated
    less_time = deployed.time_limits != demonstrated.time_limits
    other_starts = (deployed.conditions, deployed.starts) != (demonstrated.conditions, demonstrated.starts)
    words = {"other starts": other_starts, "less time": less_time}
    told = ", ".join(word for word, holds in words.items() if holds) or "nothing else"
    assert BENCHMARKS[benchmark].conditions == told
    for task, limit in deployed.time_limits.items():
        assert limit <= demonstrated.time_limits[task]


@pytest.mark.parametrize("benchmark", ["metaworld", "scene_evidence"])
def test_what_is_varied_says_its_own_conditions_too(benchmark):
    x = plain(benchmark, 0)
    other = x.fleet.deployed.conditions != x.fleet.demonstrated.conditions
    assert x.fleet.deployed.time_limits != x.fleet.demonstrated.time_limits
    assert BENCHMARKS[benchmark].conditions == ("other starts, less time" if other else "less time")


def test_the_evidence_on_the_scene_is_the_demo_with_a_converged_clone_and_twice_the_experience():
    assert differences(plain("scene", 0), plain("scene_evidence", 0)) == {
        "model.policy_width": "512 (None)",
        "clone.steps": "60000 (30000)",
        "clone.learner.policy.learning_rate": "0.0015 (0.003)",
        "clone.learner.policy.decay_steps": "60000 (30000)",
        "online.control_steps": "260000 (130000)",
        "online.takeover.stall_steps": "80 (60)",
        "online.rate.learner_steps_per_control_step": "0.06 (0.1)",
        "online.rate.learner_slack_steps": "250 (200)",
        "online.learner.policy.learning_rate": "0.001 (0.0003)",
        "online.learner.critic.learning_rate": "0.0015 (0.0006)",
        "online.learner.policy.decay_steps": "15600 (13000)",
        "online.learner.critic.decay_steps": "15600 (13000)",
    }


def test_the_scenes_hours_are_five_times_the_demos_experience_at_the_offline_learning_rates():
    assert differences(plain("scene", 0), plain("scene_hours", 0)) == {
        "online.control_steps": "650000 (130000)",
        "online.rate.learner_steps_per_control_step": "0.04 (0.1)",
        "online.rate.learner_slack_steps": "250 (200)",
        "online.learner.policy.learning_rate": "0.001 (0.0003)",
        "online.learner.critic.learning_rate": "0.0015 (0.0006)",
        "online.learner.policy.decay_steps": "26000 (13000)",
        "online.learner.critic.decay_steps": "26000 (13000)",
    }


@pytest.mark.parametrize("benchmark", list(BENCHMARKS))
def test_a_cell_has_one_core_so_one_worker(benchmark):
    assert {cell.experiment.fleet.workers for cell in plan(benchmark)} == {1}


@pytest.mark.parametrize("benchmark", ["scene_evidence", "scene_hours", "metaworld"])
def test_the_protocol_is_the_same_for_all_methods(benchmark):
    for cell in plan(benchmark):
        x, plain = cell.experiment, cell.plain
        assert (x.collect, x.clone, x.evaluate, x.fleet.deployed) == (
            plain.collect,
            plain.clone,
            plain.evaluate,
            plain.fleet.deployed,
        ), cell.id
        if cell.method in LONGER:
            assert x.online.control_steps == 2 * plain.online.control_steps
        elif not cell.method.startswith("fleet_"):
            assert x.online.control_steps == plain.online.control_steps, cell.id


def test_a_pattern_may_name_a_whole_id_or_a_part():
    planned = toy_plan.plan()
    assert [c.id for c in chosen(planned, "toy/lwd_o*/seed_0")] == [
        "toy/lwd_offline/seed_0",
        "toy/lwd_online/seed_0",
    ]
    assert {c.seed for c in chosen(planned, "seed_1")} == {1}
    with pytest.raises(UnknownNameError, match="unknown cell"):
        chosen(planned, "toy/lwd_onlin/*")
    with pytest.raises(UnknownNameError, match="Did you mean 'scene_evidence'"):
        plan("scene_evidense")


# ---- ablations -------------------------------------------------------------------------------------------------------


CONSTANT_RATES = {
    "offline.learner.policy.final_share": "1.0 (0.1)",
    "offline.learner.critic.final_share": "1.0 (0.2)",
}
LIVE_POLICY = {"offline.learner.policy_ema_rate": "1.0 (0.005)"}
CHANGED = {
    "constant_tau": {
        "offline.learner.divl.tau_base": "0.52 (0.6)",
        "offline.learner.divl.alpha": "0.0 (0.3)",
    },
    "n_step_1": {"offline.mixture.offline.n_long": "1 (10)"},
    "n_step_10_short": {"offline.mixture.offline.n_short": "10 (1)"},
    "reference_paths": {"offline.learner.qam.paths_from": "'reference' ('policy')"},
    "temperature_0.1x": {"offline.learner.qam.temperature": "0.004 (0.04)"},
    "temperature_0.3x": {"offline.learner.qam.temperature": "0.012 (0.04)"},
    "temperature_3x": {"offline.learner.qam.temperature": "0.12 (0.04)"},
    "temperature_10x": {"offline.learner.qam.temperature": "0.4 (0.04)"},
    "temperature_by_kl": {"offline.learner.qam.target_kl": "1.0 (None)"},
    "flow_steps_3": {"offline.learner.qam.flow_steps": "3 (10)", "model.flow_steps": "3 (10)"},
    "flow_steps_5": {"offline.learner.qam.flow_steps": "5 (10)", "model.flow_steps": "5 (10)"},
    "constant_rates": CONSTANT_RATES,
    "live_policy": LIVE_POLICY,
    "constant_rates_live_policy": {**CONSTANT_RATES, **LIVE_POLICY},
    "without_failures": {"offline.mixture.offline.outcomes": "SUCCESS"},
    "n_step_1_online": {
        "online.mixture.offline.n_long": "1 (10)",
        "online.mixture.online.n_long": "1 (10)",
    },
    "tau_base_0.9_online": {"online.learner.divl.tau_base": "0.9 (0.6)"},
    "as_the_paper_online": {
        "online.mixture.offline.n_long": "1 (10)",
        "online.mixture.online.n_long": "1 (10)",
        "online.learner.divl.tau_base": "0.9 (0.6)",
    },
    "no_interventions": {"online.takeover": "None (TakeoverRule)"},
    "fleet_1": {
        "fleet.robots": "1 (16)",
        "online.control_steps": "4000 (64000)",
        "online.rate.learner_steps_per_control_step": "1.6 (0.1)",
    },
    "fleet_4": {
        "fleet.robots": "4 (16)",
        "online.control_steps": "16000 (64000)",
        "online.rate.learner_steps_per_control_step": "0.4 (0.1)",
    },
    "publish_10": {"online.publish_every_learner_steps": "10 (50)"},
    "publish_250": {
        "online.publish_every_learner_steps": "250 (50)",
        "online.rate.learner_slack_steps": "250 (100)",  # a learner must be able to be a block ahead
    },
}
"""What each ablation changes, and from which value: LWD's own is always one of the variants."""
CHANGES = {**ablations.OFFLINE_ABLATIONS, **ablations.ONLINE_ABLATIONS}


def test_every_ablation_is_listed_here():
    assert set(CHANGED) == set(CHANGES)


@pytest.mark.parametrize("benchmark", ["scene_evidence", "metaworld"])
def test_no_ablation_is_lwd_itself(benchmark):
    for cell in plan(benchmark):
        if cell.method in {**ablations.OFFLINE_ABLATIONS, **ablations.ONLINE_ABLATIONS}:
            assert differences(cell.plain, cell.experiment), cell.id


@pytest.mark.parametrize("name", list(CHANGES))
def test_an_ablation_changes_one_thing(name):
    found = differences(EVIDENCE(0), CHANGES[name](EVIDENCE(0)))
    if name == "without_failures":
        assert list(found) == list(CHANGED[name])
        assert found["offline.mixture.offline.outcomes"].startswith("(<Outcome.SUCCESS")
        return
    inner = {path for path in found if path.startswith("online.takeover.")}
    assert {path: value for path, value in found.items() if path not in inner} == CHANGED[name]


def test_robots_act_with_as_many_flow_steps_as_the_policy_learns_with():
    for cell in plan("scene_evidence"):
        stages = (cell.experiment.offline, cell.experiment.online)
        steps = {stage.learner.qam.flow_steps for stage in stages if hasattr(stage.learner, "qam")}
        if cell.stage == "offline":
            steps = {stage.learner.qam.flow_steps for stage in stages[:1] if hasattr(stage.learner, "qam")}
        assert steps <= {cell.experiment.model.flow_steps}, cell.id


def test_the_schedules_end_with_the_online_stage():
    for name, method in METHODS.items():
        online = method(EVIDENCE(0)).online
        steps = round(online.control_steps * online.rate.learner_steps_per_control_step)
        if name == "recap":  # two rounds, each with the whole of its schedules
            continue
        assert online.learner.policy.decay_steps == steps, name


def test_a_smaller_fleet_has_the_same_wall_clock():
    x = EVIDENCE(0)
    small = ablations.fleet_of(x, 4)
    assert small.fleet.robots == 4
    assert small.online.control_steps / 4 == x.online.control_steps / 16
    steps = [o.control_steps * o.rate.learner_steps_per_control_step for o in (x.online, small.online)]
    assert steps[0] == pytest.approx(steps[1])


def test_without_failures_the_warm_up_has_none_either():
    x = replace(
        EVIDENCE(0), offline=replace(EVIDENCE(0).offline, warm_up_mixture=EVIDENCE(0).offline.mixture)
    )
    changed = ablations.without_failures(x).offline
    assert changed.warm_up_mixture is not None
    for mixture in (changed.mixture, changed.warm_up_mixture):
        assert mixture.offline.outcomes == (Outcome.SUCCESS,)


# ---- settings --------------------------------------------------------------------------------------------------------


def test_a_result_agrees_with_its_own_settings_whatever_the_seed_and_the_later_stages():
    written = settings(X, "offline")
    assert agree(written, X, "offline")
    assert agree(written, replace(X, seed=3, name="other"), "offline")
    assert agree(written, replace(X, online=replace(X.online, control_steps=5)), "offline")
    assert not agree(written, replace(X, gamma=0.5), "offline")
    assert not agree(settings(X, "online"), replace(X, online=replace(X.online, control_steps=5)), "online")


def test_an_option_that_is_new_agrees_at_its_default_only():
    written = settings(X, "online")
    older = {path: value for path, value in written.items() if path != "online.takeover.max_takeovers"}
    assert agree(older, X, "online")
    rule = replace(X.online.takeover, max_takeovers=7)
    assert not agree(older, replace(X, online=replace(X.online, takeover=rule)), "online")
    assert not agree({**written, "offline.gone": "1"}, X, "online")


def test_differences_name_another_class_once():
    found = differences(X, METHODS["awac"](X))
    assert found["offline.learner"] == "Awac (Lwd)"
    assert not any(path.startswith("offline.learner.") for path in found)
    assert differences(X, X) == {}


def test_settings_that_say_nothing_are_refused():
    nameless = replace(X.fleet.deployed, tier="<function at 0x7f>:f")
    with pytest.raises(ConfigError, match="settings must be plain values"):
        settings(replace(X, fleet=replace(X.fleet, deployed=nameless, demonstrated=nameless)), "sft")
