"""The root of every run: one frozen description of an experiment. The parts are defined beside their code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lwd.errors import ConfigError
from lwd.fleet.serve.observation import ObservationKeys
from lwd.learner.clone import CloneConfig
from lwd.learner.method import Method
from lwd.learner.stages import LoopConfig
from lwd.models.mlp import MlpConfig
from lwd.models.vla.networks import VlaModel
from lwd.replay.mixture import Mixture, demonstrations, offline_rl, online_rl
from lwd.replay.rate import RateLimit
from lwd.robot.operator import TakeoverRule
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.spec import RobotSpec


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """The simulated fleet.

    Attributes:
        deployed: the robots as they are deployed and evaluated.
        demonstrated: the same robots under the conditions, and with the patience, of the demonstrations.
        robots, workers: how many robots, in how many worker processes.
    """

    deployed: FleetSpec
    demonstrated: FleetSpec
    robots: int = 16
    workers: int = 2

    def __post_init__(self) -> None:
        if self.deployed.tier != self.demonstrated.tier:
            raise ConfigError("FleetConfig: deployed and demonstrated must be robots of the same tier.")
        if self.deployed.tasks != self.demonstrated.tasks:
            raise ConfigError("FleetConfig: deployed and demonstrated must name the same tasks.")
        if self.deployed.cameras != self.demonstrated.cameras:
            raise ConfigError("FleetConfig: deployed and demonstrated must have the same cameras.")
        if not 1 <= self.workers <= self.robots:
            raise ConfigError(
                f"FleetConfig: need 1 <= workers <= robots, got {self.workers} and {self.robots}."
            )


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """How much offline data of each source is made (paper, Table IV), in episodes per task.

    Attributes:
        demos: per demonstrator, episodes per task; the names are styles of the demonstrated fleet.
        play: human-led exploration of failure modes.
        rollouts: of the SFT policy, half of them clean and half with action noise up to `rollout_noise`.
        long_task_weight: factor on the numbers of the long tasks.
        rollout_noise: largest standard deviation of the noise on a weaker policy's actions.
    """

    demos: Mapping[str, int]
    play: int
    rollouts: int
    long_task_weight: float = 1.0
    rollout_noise: float = 0.4


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the MLP policy and critic, and of the instruction's embedding.

    Attributes:
        width, depth, heads, policy_width: of the networks (`MlpConfig`).
        instruction_dim: of the embedded instruction.
        flow_steps: with which robots integrate the flow; QAM's own paths follow `QamConfig.flow_steps`.
        image_side: networks see pictures of [side, side, 3], resized with padding; None: as recorded. The MLPs see none.
    """

    width: int = 256
    depth: int = 3
    heads: int = 2
    instruction_dim: int = 32
    flow_steps: int = 10
    image_side: int | None = None
    policy_width: int | None = None

    def for_robot(self, spec: RobotSpec) -> MlpConfig:
        """Sizes for this robot."""
        return MlpConfig(
            proprio_dim=spec.proprio_dim,
            instruction_dim=self.instruction_dim,
            chunk_steps=spec.chunk_steps,
            action_dim=spec.action_dim,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            policy_width=self.policy_width,
        )


@dataclass(frozen=True, kw_only=True)
class CloneStage:
    """Stage 1 of Algorithm 1: behaviour cloning of the reference."""

    learner: CloneConfig
    steps: int
    mixture: Mixture = field(default_factory=demonstrations)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True, kw_only=True)
class OfflineStage:
    """Stage 2: value and critic alone for `critic_steps`, then the whole update up to `steps` learner steps in all.

    Attributes:
        learner: the method; LWD's settings are `Lwd(...)`.
        warm_up_mixture: what the first `critic_steps` draw from, None for `mixture`.
    """

    learner: Method
    critic_steps: int
    steps: int
    mixture: Mixture = field(default_factory=offline_rl)
    warm_up_mixture: Mixture | None = None
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.critic_steps <= self.steps:
            raise ConfigError(
                f"OfflineStage: need 0 <= critic_steps <= steps, got {self.critic_steps} and {self.steps}."
            )


@dataclass(frozen=True, kw_only=True)
class OnlineStage:
    """Stage 3: learner and robots at the same time, or in turn.

    Attributes:
        learner: the method with its online settings (tau_base 0.9 for LWD); the state comes from the offline stage.
        control_steps: fleet experience after which no new episode begins.
        rounds: 0 for learner and robots at the same time. Else they take turns, this many times: an equal part of
            `control_steps` is collected, then the offline stage is repeated on everything there is (`lwd.fleet.rounds`).
            Robots of a networked fleet do not wait, and the turns go on (`lwd.fleet.learner_rounds`).
        publish_every_learner_steps: the policy is sent to the robots this often (50 in the paper).
        rate: learner steps per new control step.
        takeover: when the operator takes over, None for never; a `GatingOperator` decides alone, unless None.
        mixture: offline and online halves, 1:1 by default.
        checkpoint_every_learner_steps: its state is saved this often, after the block that passes a multiple of it.
    """

    learner: Method
    control_steps: int
    rate: RateLimit
    publish_every_learner_steps: int = 50
    takeover: TakeoverRule | None = field(default_factory=TakeoverRule)
    mixture: Mixture = field(default_factory=online_rl)
    checkpoint_every_learner_steps: int = 1000
    rounds: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rounds <= self.control_steps:
            raise ConfigError(
                f"OnlineStage.rounds must be 0 (learner and robots at the same time) or a number of turns up to "
                f"control_steps, got {self.rounds}."
            )
        if self.control_steps < 1 or self.publish_every_learner_steps < 1:
            raise ConfigError(
                "OnlineStage: control_steps and publish_every_learner_steps must be at least 1."
            )
        if self.checkpoint_every_learner_steps < 1:
            raise ConfigError("OnlineStage.checkpoint_every_learner_steps must be at least 1.")
        if self.publish_every_learner_steps > self.rate.learner_slack_steps:
            raise ConfigError(
                f"OnlineStage: the learner works in blocks of {self.publish_every_learner_steps} learner steps "
                f"(publish_every_learner_steps) but may be only {self.rate.learner_slack_steps} ahead "
                "(rate.learner_slack_steps), so learner and fleet could wait for each other for ever. "
                "Raise learner_slack_steps or publish more often."
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation on starts that training never sees: `episodes` per task, seeds from `first_seed` on."""

    episodes: int = 40
    first_seed: int = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run depends on; `lwd.recipes` holds the named ones.

    Attributes:
        model: sizes of the networks, MLP or VLA; `model.for_robot(spec)` makes either.
        consolidated: learning once more after the online stage, on everything recorded; None, as in the paper, for none.
            It begins with the SFT policy, as the offline stage does (decision record 0028).
        gamma: discount per control step.
        takeover_fails: whether an operator's takeover counts as the policy's failure (decision record 0022); the paper
            bootstraps from the state that the human takes over in.
        seed: of everything random.
        serve: the keys under which clients of `lwd serve` send observations.
    """

    name: str
    fleet: FleetConfig
    collect: CollectConfig
    model: ModelConfig | VlaModel
    clone: CloneStage
    offline: OfflineStage
    online: OnlineStage
    consolidated: OfflineStage | None = None
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gamma: float = 0.998
    takeover_fails: bool = False
    seed: int = 0
    serve: ObservationKeys = field(default_factory=ObservationKeys)


def stage_of_round(experiment: Experiment) -> OfflineStage:
    """The offline stage again with the online learner and mixture, for a round's part of rate * control_steps learner steps.

    The value alone gets the share of them that it got offline.
    """
    offline, online = experiment.offline, experiment.online
    budget = online.rate.learner_steps_per_control_step * online.control_steps
    steps = round(budget / online.rounds)
    critic_steps = steps * offline.critic_steps // max(offline.steps, 1)
    return replace(
        offline, learner=online.learner, mixture=online.mixture, critic_steps=critic_steps, steps=steps
    )
