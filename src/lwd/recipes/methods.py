"""What LWD is compared with: each a function from LWD's experiment to the method's.

All of them keep the fleet, the offline data, the models, the SFT policy, the evaluation and `online.control_steps`. A method
sets what it learns with, from which data, for how many learner steps, and whether operators take over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from lwd.baselines.awac import Awac
from lwd.baselines.best_of_n import BestOfN
from lwd.baselines.cloning import Cloning
from lwd.baselines.iql import Iql
from lwd.baselines.recap import Recap
from lwd.config import Experiment, OnlineStage
from lwd.episode import Outcome, Source
from lwd.errors import ConfigError
from lwd.fleet.services import fleet_description
from lwd.learner.clone import CloneConfig
from lwd.learner.method import Method
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.state import LearnerConfig
from lwd.replay.mixture import ALL_OUTCOMES, Mixture, Pool

CLONING_PACE, RECAP_PACE = 7, 4
"""Learner steps of flow matching, and of RECAP, for one of Algorithm 2: as much processor time, measured on the scene."""
ROUNDS = 2
"""Of RECAP, as in the paper's comparison."""
WHOLE_EPISODE = 10_000
"""Chunks per return window: more than any episode has, so that a return is a Monte-Carlo return."""


def lwd(x: Experiment) -> Experiment:
    """Learning While Deploying itself."""
    return x


def rft(x: Experiment) -> Experiment:
    """Filtered behaviour cloning: demonstrations and what succeeded, then also the fleet's own successes. Nobody takes over."""
    offline = only(x.online.mixture.offline, (Source.DEMO, Source.ROLLOUT), (Outcome.SUCCESS,))
    own = only(x.online.mixture.online, (Source.ONLINE,), (Outcome.SUCCESS,))
    return replace(
        x,
        name=f"{x.name}_rft",
        offline=replace(
            x.offline,
            learner=fine_tuned_clone(x, x.offline.steps),
            critic_steps=0,
            mixture=Mixture(offline=offline),
            warm_up_mixture=None,
        ),
        online=replace(
            _at_pace(x.online, CLONING_PACE),
            learner=fine_tuned_clone(x, CLONING_PACE * online_steps(x)),
            takeover=None,
            mixture=replace(x.online.mixture, offline=offline, online=own),
        ),
    )


def hg_dagger(x: Experiment) -> Experiment:
    """HG-DAgger: SFT goes online; it imitates demonstrations, the fleet's successes and the operators' corrections."""
    demonstrations = only(x.online.mixture.offline, (Source.DEMO,), (Outcome.SUCCESS,))
    own = only(x.online.mixture.online, (Source.ONLINE,), (Outcome.SUCCESS,))
    learner = fine_tuned_clone(x, CLONING_PACE * online_steps(x))
    return replace(
        x,
        name=f"{x.name}_hg_dagger",
        offline=replace(
            x.offline,
            learner=learner,
            critic_steps=0,
            steps=0,
            mixture=Mixture(offline=demonstrations),
            warm_up_mixture=None,
        ),
        online=replace(
            _at_pace(x.online, CLONING_PACE),
            learner=learner,
            mixture=replace(x.online.mixture, offline=demonstrations, online=replace(own, corrections=True)),
        ),
    )


def recap(x: Experiment) -> Experiment:
    """RECAP: value and advantage-conditioned policy offline, then two rounds of autonomous rollouts."""
    everything = only(x.online.mixture.offline, tuple(Source), ALL_OUTCOMES)
    spec, tasks = fleet_description(x)
    second = max(1, round(spec.control_hz / spec.chunk_steps))  # its advantages look one second ahead
    ahead = Mixture(offline=replace(everything, n_short=second, n_long=second))
    # As many learner steps for the policy as LWD's whole offline stage has, after a value as long in the making as LWD's.
    offline_steps = (x.offline.critic_steps, x.offline.steps)
    round_steps = RECAP_PACE * online_steps(x) // ROUNDS
    value_share = offline_steps[0] / max(sum(offline_steps), 1)

    def learner(steps: int) -> Recap:
        value_steps = round(steps * value_share)
        config = _lwd(x.offline.learner)
        return Recap(
            policy=_fine_tuning(x, steps - value_steps),
            value=lasting(config.critic, value_steps),
            tasks=len(tasks),
            atoms=config.divl.atoms,
            value_low=config.divl.value_low,
            value_high=config.divl.value_high,
            batch=config.batch,
            policy_ema_rate=x.clone.learner.policy_ema_rate,
            guidance=10.0,
        )

    return replace(
        x,
        name=f"{x.name}_recap",
        offline=replace(
            x.offline,
            learner=learner(sum(offline_steps)),
            steps=sum(offline_steps),
            mixture=ahead,
            warm_up_mixture=Mixture(offline=replace(everything, n_short=WHOLE_EPISODE, n_long=WHOLE_EPISODE)),
        ),
        online=replace(
            _at_pace(x.online, RECAP_PACE),
            learner=learner(round_steps),
            rounds=ROUNDS,
            takeover=None,
            mixture=ahead,
        ),
    )


def iql_qam(x: Experiment) -> Experiment:
    """LWD with a scalar expectile in place of DIVL; tau is LWD's tau_base of each stage."""
    return _with_learner(
        x, "iql_qam", lambda c: Iql(**_settings(replace(c, divl=replace(c.divl, alpha=0.0))))
    )


def awac(x: Experiment) -> Experiment:
    """LWD with advantage-weighted flow matching in place of QAM."""
    return _with_learner(x, "awac", lambda c: Awac(**_settings(c), beta=0.02))


def best_of_n(x: Experiment) -> Experiment:
    """LWD without QAM: the critic chooses among chunks of the reference."""
    return _with_learner(x, "best_of_n", lambda c: BestOfN(**_settings(c)))


METHODS: Mapping[str, Callable[[Experiment], Experiment]] = {
    "lwd": lwd,
    "rft": rft,
    "hg_dagger": hg_dagger,
    "recap": recap,
    "iql_qam": iql_qam,
    "awac": awac,
    "best_of_n": best_of_n,
}


# ---- parts -----------------------------------------------------------------------------------------------------------


def _with_learner(x: Experiment, name: str, change: Callable[[LearnerConfig], Method]) -> Experiment:
    """The same stages, data and learner steps with another method in them."""
    return replace(
        x,
        name=f"{x.name}_{name}",
        offline=replace(x.offline, learner=change(_lwd(x.offline.learner))),
        online=replace(x.online, learner=change(_lwd(x.online.learner))),
    )


def _lwd(learner: Method) -> LearnerConfig:
    if not isinstance(learner, LearnerConfig):
        raise ConfigError(
            f"methods are made from LWD's experiment, this one learns with {type(learner).__name__}. "
            "Begin with the recipe itself."
        )
    return learner


def _settings(config: LearnerConfig) -> dict[str, Any]:
    """Algorithm 2's settings by name, without what a subclass adds to them."""
    return {field.name: getattr(config, field.name) for field in fields(LearnerConfig)}


def only(pool: Pool, sources: tuple[Source, ...], outcomes: tuple[Outcome, ...]) -> Pool:
    """A pool balanced like this one, of these sources and outcomes."""
    weights = {source: weight for source, weight in pool.source_weights.items() if source in sources}
    return replace(pool, sources=sources, outcomes=outcomes, source_weights=weights)


def online_steps(x: Experiment) -> int:
    """Learner steps of LWD's online stage."""
    return round(x.online.rate.learner_steps_per_control_step * x.online.control_steps)


def _at_pace(online: OnlineStage, pace: int) -> OnlineStage:
    """That many times the learner steps for the same experience; as many snapshots, as much slack in control steps."""
    rate = online.rate
    return replace(
        online,
        publish_every_learner_steps=pace * online.publish_every_learner_steps,
        checkpoint_every_learner_steps=pace * online.checkpoint_every_learner_steps,
        rate=replace(
            rate,
            learner_steps_per_control_step=pace * rate.learner_steps_per_control_step,
            learner_slack_steps=pace * rate.learner_slack_steps,
            actor_slack_steps=pace * rate.actor_slack_steps,
        ),
    )


def fine_tuned_clone(x: Experiment, steps: int) -> Cloning:
    """The SFT stage's flow matching, going on from its policy with this many learner steps."""
    settings: dict[str, Any] = {
        field.name: getattr(x.clone.learner, field.name) for field in fields(CloneConfig)
    }
    settings["policy"] = _fine_tuning(x, steps)
    return Cloning(**settings)


def _fine_tuning(x: Experiment, steps: int) -> OptimizerConfig:
    """The SFT stage's optimiser for this many learner steps. A gentler restart, 0.3 or 0.1 of its rate, learned less."""
    return lasting(x.clone.learner.policy, steps)


def lasting(optimizer: OptimizerConfig, steps: int) -> OptimizerConfig:
    """The same optimiser with a schedule of this many learner steps; a short one warms up for at most a tenth of it."""
    steps = max(steps, 1)
    return replace(optimizer, decay_steps=steps, warmup_steps=min(optimizer.warmup_steps, steps // 10))
