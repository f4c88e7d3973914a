"""LWD with one thing changed. Each is a function Experiment -> Experiment, for `lwd results`.

Two ablations have no function here: DIVL against a scalar expectile is the method `iql_qam`, and the other end of each
comparison (adaptive tau, n = 10 in both stages, tau_base 0.6 in both, paths from the policy, publishing every 50, sixteen
robots) is LWD itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from lwd.config import Experiment
from lwd.episode import Outcome
from lwd.learner.best_of_n import BestOfNLwd, BestOfNRefitLwd
from lwd.learner.divl import DivlConfig
from lwd.learner.method import Lwd
from lwd.learner.qam import QamConfig
from lwd.learner.refit import RefitLwd
from lwd.recipes.once_more import in_turns, refit_in_turns
from lwd.replay.mixture import Mixture

CONSTANT_TAU = 0.52
"""Where the adaptive tau of the paper's offline stage ends (Table III)."""
PATIENT_STEPS = 100
"""Of `patient_operators`."""


def _offline(x: Experiment) -> Lwd:
    assert isinstance(x.offline.learner, Lwd)  # ablations are of LWD's own settings
    return x.offline.learner


def _online(x: Experiment) -> Lwd:
    assert isinstance(x.online.learner, Lwd)
    return x.online.learner


def _with_offline(
    x: Experiment, *, divl: DivlConfig | None = None, qam: QamConfig | None = None
) -> Experiment:
    lwd = _offline(x)
    lwd = replace(lwd, divl=divl or lwd.divl, qam=qam or lwd.qam)
    return replace(x, offline=replace(x.offline, learner=lwd))


def _with_offline_pool(x: Experiment, change: Callable[[Mixture], Mixture]) -> Experiment:
    warm_up = x.offline.warm_up_mixture
    return replace(
        x,
        offline=replace(
            x.offline,
            mixture=change(x.offline.mixture),
            warm_up_mixture=None if warm_up is None else change(warm_up),
        ),
    )


def constant_tau(x: Experiment) -> Experiment:
    """The quantile level does not follow the entropy. Paper: Table III."""
    return _with_offline(x, divl=replace(_offline(x).divl, tau_base=CONSTANT_TAU, alpha=0.0))


def n_step_1(x: Experiment) -> Experiment:
    """Offline returns look one chunk ahead on long tasks too."""
    return _with_offline_pool(x, lambda mixture: replace(mixture, offline=replace(mixture.offline, n_long=1)))


def n_step_1_online(x: Experiment) -> Experiment:
    """Online returns look one chunk ahead on long tasks too, in both halves of the batch: the paper's setting."""
    mixture = x.online.mixture
    short = replace(
        mixture, offline=replace(mixture.offline, n_long=1), online=replace(mixture.online, n_long=1)
    )
    return replace(x, online=replace(x.online, mixture=short))


def n_step_10_short(x: Experiment) -> Experiment:
    """Offline returns look as far ahead on short tasks as on long ones."""

    def wide(mixture: Mixture) -> Mixture:
        return replace(mixture, offline=replace(mixture.offline, n_short=mixture.offline.n_long))

    return _with_offline_pool(x, wide)


def n_step_10_short_online(x: Experiment) -> Experiment:
    """The same online, in both halves of the batch, after such an offline stage."""
    x = n_step_10_short(x)
    mixture = x.online.mixture
    wide = replace(
        mixture,
        offline=replace(mixture.offline, n_short=mixture.offline.n_long),
        online=replace(mixture.online, n_short=mixture.online.n_long),
    )
    return replace(x, online=replace(x.online, mixture=wide))


def tau_base_online(x: Experiment, tau_base: float) -> Experiment:
    """Another tau_base in the online stage; 0.9 is the paper's."""
    lwd = _online(x)
    learner = replace(lwd, divl=replace(lwd.divl, tau_base=tau_base))
    return replace(x, online=replace(x.online, learner=learner))


def as_the_paper_online(x: Experiment) -> Experiment:
    """Both of the paper's settings of the online stage that the recipes have not: n = 1 and tau_base 0.9 (Eq 18, 19)."""
    return tau_base_online(n_step_1_online(x), tau_base=0.9)


def reference_paths(x: Experiment) -> Experiment:
    """QAM's paths follow the reference, as the paper's text has it, not the current policy."""
    return _with_offline(x, qam=replace(_offline(x).qam, paths_from="reference"))


def temperature(x: Experiment, factor: float) -> Experiment:
    """QAM's offline temperature times a factor."""
    qam = _offline(x).qam
    return _with_offline(x, qam=replace(qam, temperature=qam.temperature * factor))


def temperature_by_kl(x: Experiment, target_kl: float) -> Experiment:
    """QAM's offline temperature follows from the path-space KL that it asks for."""
    return _with_offline(x, qam=replace(_offline(x).qam, target_kl=target_kl))


def flow_steps(x: Experiment, steps: int) -> Experiment:
    """Flow steps of the paths, the adjoint and the acting policy alike; the offline data stays the same."""
    x = _with_offline(x, qam=replace(_offline(x).qam, flow_steps=steps))
    return replace(x, model=replace(x.model, flow_steps=steps))


def constant_rates(x: Experiment) -> Experiment:
    """Offline learning rates stay at their peaks; the recipe lets them fall with a cosine."""
    lwd = _offline(x)
    lwd = replace(
        lwd, policy=replace(lwd.policy, final_share=1.0), critic=replace(lwd.critic, final_share=1.0)
    )
    return replace(x, offline=replace(x.offline, learner=lwd))


def live_policy(x: Experiment) -> Experiment:
    """The policy that acts after the offline stage is the live one, not its average."""
    return replace(x, offline=replace(x.offline, learner=replace(_offline(x), policy_ema_rate=1.0)))


def constant_rates_live_policy(x: Experiment) -> Experiment:
    """Both: neither the cosine nor the average calms the policy that acts."""
    return live_policy(constant_rates(x))


def without_failures(x: Experiment) -> Experiment:
    """Offline RL sees successes only: no play, no failed rollouts."""
    return _with_offline_pool(
        x, lambda mixture: replace(mixture, offline=replace(mixture.offline, outcomes=(Outcome.SUCCESS,)))
    )


def no_interventions(x: Experiment) -> Experiment:
    """Nobody takes over; the fleet learns online from what it does alone."""
    return replace(x, online=replace(x.online, takeover=None))


def patient_operators(x: Experiment) -> Experiment:
    """Operators wait for longer than the scene's expert goes without a milestone (decision record 0033)."""
    takeover = x.online.takeover
    assert takeover is not None
    return replace(x, online=replace(x.online, takeover=replace(takeover, stall_steps=PATIENT_STEPS)))


def takeover_fails(x: Experiment) -> Experiment:
    """A takeover counts as the policy's failure; the paper bootstraps from where the human goes on (decision record 0022)."""
    return replace(x, takeover_fails=True)


def fleet_of(x: Experiment, robots: int) -> Experiment:
    """Another number of robots for the same wall-clock: experience shrinks with the fleet, learner steps do not."""
    share = robots / x.fleet.robots
    online = x.online
    rate = replace(
        online.rate, learner_steps_per_control_step=online.rate.learner_steps_per_control_step / share
    )
    return replace(
        x,
        fleet=replace(x.fleet, robots=robots, workers=min(x.fleet.workers, robots)),
        online=replace(online, control_steps=round(online.control_steps * share), rate=rate),
    )


def publish_every(x: Experiment, learner_steps: int) -> Experiment:
    """Robots get a new policy more or less often. The learner may be a whole block ahead of the fleet, or both would wait."""
    rate = x.online.rate
    rate = replace(rate, learner_slack_steps=max(rate.learner_slack_steps, learner_steps))
    return replace(x, online=replace(x.online, publish_every_learner_steps=learner_steps, rate=rate))


def refitted_reference(x: Experiment) -> Experiment:
    """The reference goes on learning online, from successes and corrections, at the policy's peak rate of the SFT stage."""
    lwd = _online(x)
    clone = x.clone.learner
    schedule = replace(
        clone.policy,
        decay_steps=lwd.policy.decay_steps,
        warmup_steps=lwd.policy.warmup_steps,
        final_share=0.1,
    )
    reference = replace(clone, policy=schedule, batch=lwd.batch)
    return replace(x, online=replace(x.online, learner=RefitLwd(**vars(lwd), reference=reference)))


def best_of_n(x: Experiment, n: int) -> Experiment:
    """Robots execute the best of several chunks of the trained policy, as the critic sees it."""
    return replace(x, online=replace(x.online, learner=BestOfNLwd(**vars(_online(x)), n=n)))


def takeover_fails_in_turns(x: Experiment) -> Experiment:
    """Both: robots and learner in turns, the reference refitted in each, and a takeover counts as the policy's failure."""
    return takeover_fails(refit_in_turns(x))


def choosing_in_turns(x: Experiment, n: int) -> Experiment:
    """Robots and learner in turns, the reference refitted in each; from the second turn robots choose among chunks."""
    x = refit_in_turns(x)
    lwd = x.online.learner
    assert isinstance(lwd, RefitLwd)
    return replace(x, online=replace(x.online, learner=BestOfNRefitLwd(**vars(lwd), n=n)))


OFFLINE_ABLATIONS: Mapping[str, Callable[[Experiment], Experiment]] = {
    "constant_tau": constant_tau,
    "n_step_1": n_step_1,
    "n_step_10_short": n_step_10_short,
    "reference_paths": reference_paths,
    "temperature_0.1x": partial(temperature, factor=0.1),
    "temperature_0.3x": partial(temperature, factor=0.3),
    "temperature_3x": partial(temperature, factor=3.0),
    "temperature_10x": partial(temperature, factor=10.0),
    "temperature_by_kl": partial(temperature_by_kl, target_kl=1.0),
    "flow_steps_3": partial(flow_steps, steps=3),
    "flow_steps_5": partial(flow_steps, steps=5),
    "constant_rates": constant_rates,
    "live_policy": live_policy,
    "constant_rates_live_policy": constant_rates_live_policy,
    "without_failures": without_failures,
}
"""They end at the offline stage. Ten flow steps are the fast tier's own."""

SCENE_OFFLINE: Mapping[str, Callable[[Experiment], Experiment]] = {
    "temperature_2x": partial(temperature, factor=2.0),
    "n_step_10_short": n_step_10_short,
}
"""What the scene looks at besides: its short tasks lose in the offline stage."""

ONLINE_ABLATIONS: Mapping[str, Callable[[Experiment], Experiment]] = {
    "n_step_1_online": n_step_1_online,
    "tau_base_0.9_online": partial(tau_base_online, tau_base=0.9),
    "as_the_paper_online": as_the_paper_online,
    "no_interventions": no_interventions,
    "fleet_1": partial(fleet_of, robots=1),
    "fleet_4": partial(fleet_of, robots=4),
    "publish_10": partial(publish_every, learner_steps=10),
    "publish_250": partial(publish_every, learner_steps=250),
}
"""They change the online stage only, and go on from LWD's own offline result."""

WIDE_WINDOWS: Mapping[str, tuple[str, Callable[[Experiment], Experiment]]] = {
    "n_step_10_short_online": ("n_step_10_short", n_step_10_short_online),
    "n_step_10_short_best_of_16": (
        "n_step_10_short",
        lambda x: best_of_n(n_step_10_short_online(x), n=16),
    ),
    "n_step_10_short_choosing_in_turns": (
        "n_step_10_short",
        lambda x: choosing_in_turns(n_step_10_short_online(x), n=16),
    ),
}
"""Row -> the offline row that it goes on from, and the whole of its change."""

BEYOND_THE_PAPER: Mapping[str, Callable[[Experiment], Experiment]] = {
    "refitted_reference": refitted_reference,
    "frozen_in_turns": in_turns,
    "refitted_in_turns": refit_in_turns,
    "takeover_fails": takeover_fails,
    "takeover_fails_in_turns": takeover_fails_in_turns,
    "best_of_16_acting": partial(best_of_n, n=16),
    "choosing_in_turns": partial(choosing_in_turns, n=16),
}
"""What might beat LWD as published, else like the online ablations. Decision records 0021, 0022, 0027 and 0032."""
