"""Learning once more, on everything that was recorded: when the fleet's hours are over, or several times in between.

Not in the paper. On the scene a deployment's data is worth more than the policy that the learner beside it ends with; on the
fast tier it is not (decision record 0028).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lwd.config import Experiment, OfflineStage, stage_of_round
from lwd.episode import Outcome, Source
from lwd.learner.method import Lwd
from lwd.learner.refit import RefitLwd
from lwd.recipes.evidence import scene_hours
from lwd.recipes.methods import METHODS, fine_tuned_clone, lasting, online_steps, only
from lwd.recipes.sim import scene

TURNS = 3
"""Of `refit_in_turns`."""


def clone_once_more(x: Experiment) -> Experiment:
    """Clone demonstrations, the fleet's successes and the operators' corrections, 1:1: HG-DAgger's learner and mixture.

    As many learner steps as the first clone had, at its rate.
    """
    both, steps = x.online.mixture, x.clone.steps
    demonstrations = only(both.offline, (Source.DEMO,), (Outcome.SUCCESS,))
    own = replace(only(both.online, (Source.ONLINE,), (Outcome.SUCCESS,)), corrections=True)
    return replace(
        x,
        consolidated=OfflineStage(
            learner=fine_tuned_clone(x, steps),
            critic_steps=0,
            steps=steps,
            mixture=replace(both, offline=demonstrations, online=own),
            loop=x.clone.loop,
        ),
    )


def scene_once_more(seed: int = 0) -> Experiment:
    """The demo's experiment with a last clone: `lwd train consolidated` goes on from a finished demo with it."""
    return replace(clone_once_more(scene(seed)), name="scene_once_more")


def offline_once_more(x: Experiment) -> Experiment:
    """The offline stage again, from its beginning, on offline and online data 1:1."""
    return replace(x, consolidated=replace(x.offline, mixture=x.online.mixture, warm_up_mixture=None))


def refit_once_more(x: Experiment) -> Experiment:
    """LWD on offline and online data 1:1, against a reference that has first been refitted on what is worth imitating.

    The reference learns for as many learner steps as the first clone had, beside a new value and critic; then Algorithm 2 tilts
    it for as many as in the offline stage, while it goes on.
    """
    alone, tilting = x.clone.steps, x.offline.steps - x.offline.critic_steps
    return replace(
        x,
        consolidated=replace(
            x.offline,
            learner=_refitting(x, alone, tilting),
            critic_steps=alone,
            steps=alone + tilting,
            mixture=x.online.mixture,
            warm_up_mixture=None,
        ),
    )


def refit_in_turns(x: Experiment) -> Experiment:
    """Robots and learner in turns: `refit_once_more` after every third of the fleet's hours; the robots go on under the result.

    Each turn goes on from the one before, and divides its learner steps as the offline stage does; together they are as many as
    LWD's online stage and `refit_once_more` after it.
    """
    x = in_turns(x)
    turn = stage_of_round(x)
    learner = _refitting(x, turn.critic_steps, turn.steps - turn.critic_steps)
    return replace(x, online=replace(x.online, learner=learner))


def in_turns(x: Experiment) -> Experiment:
    """The same turns and learner steps with the paper's frozen reference: what the refitting adds to taking turns."""
    once = refit_once_more(x).consolidated
    assert once is not None
    steps = online_steps(x) + once.steps
    rate = replace(x.online.rate, learner_steps_per_control_step=steps / x.online.control_steps)
    x = replace(x, online=replace(x.online, rate=rate, rounds=TURNS))
    turn = stage_of_round(x)
    learner = _lasting(x, turn.critic_steps, turn.steps - turn.critic_steps)
    return replace(x, online=replace(x.online, learner=learner))


def refit_in_six_turns(x: Experiment) -> Experiment:
    """`refit_in_turns` for twice the fleet's hours: three turns more, like the first three."""
    x = refit_in_turns(x)
    return replace(
        x, online=replace(x.online, control_steps=2 * x.online.control_steps, rounds=2 * x.online.rounds)
    )


def scene_in_turns(seed: int = 0) -> Experiment:
    """The scene's nine robot-hours, robots and learner in turns."""
    return replace(refit_in_turns(scene_hours(seed)), name="scene_in_turns")


def _refitting(x: Experiment, alone: int, tilting: int) -> RefitLwd:
    """`_lasting` with a reference that learns as the first clone did."""
    lwd, clone = _lasting(x, alone, tilting), x.clone.learner
    reference = replace(clone, policy=lasting(clone.policy, alone + tilting), batch=lwd.batch)
    return RefitLwd(**vars(lwd), reference=reference)


def _lasting(x: Experiment, alone: int, tilting: int) -> Lwd:
    """The offline stage's LWD with schedules of that many learner steps, the first ones of the value alone."""
    lwd = x.offline.learner
    assert isinstance(lwd, Lwd)  # the recipe's own
    return replace(lwd, policy=lasting(lwd.policy, tilting), critic=lasting(lwd.critic, alone + tilting))


def scene_refitted_once_more(seed: int = 0) -> Experiment:
    """The demo's experiment with LWD once more against a refitted reference at the end, run like `scene_once_more`."""
    return replace(refit_once_more(scene(seed)), name="scene_refitted_once_more")


def _hg_dagger_once_more(x: Experiment) -> Experiment:
    return clone_once_more(METHODS["hg_dagger"](x))


ONCE_MORE: Mapping[str, tuple[str, Callable[[Experiment], Experiment]]] = {
    "lwd_cloned_once_more": ("lwd_online", clone_once_more),
    "lwd_offline_once_more": ("lwd_online", offline_once_more),
    "lwd_refitted_once_more": ("lwd_online", refit_once_more),
    "hg_dagger_cloned_once_more": ("hg_dagger_online", _hg_dagger_once_more),
}
"""Row -> the row whose run it goes on from, and its change. The last tells what LWD's fleet adds to cloning alone."""

LONGER: Mapping[str, tuple[str, Callable[[Experiment], Experiment]]] = {
    "refitted_in_six_turns": ("refitted_in_turns", refit_in_six_turns)
}
"""Row -> the row whose online stage it goes on with, and the whole of its change. Not at equal budget."""
