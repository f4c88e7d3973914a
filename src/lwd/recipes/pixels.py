"""The demo's tasks through a camera: nobody tells the robot where the objects are.

`scene_vla` is the whole loop with a vision-language-action policy small enough for two cores. `scene_pixels` has the demo's
robots and pictures at 224, and the MLP of `ModelConfig`, which sees none of them: replace its `model` by a `VlaModel` and give
it a GPU.
"""

from __future__ import annotations

from dataclasses import replace

from lwd.config import CollectConfig, EvaluateConfig, Experiment, FleetConfig
from lwd.learner.augment import AugmentConfig
from lwd.learner.clone import CloneConfig
from lwd.learner.method import Lwd
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.stages import LoopConfig
from lwd.learner.trainable import Trainable
from lwd.models.vla.config import DUMMY
from lwd.models.vla.networks import VlaModel
from lwd.recipes.sim import scene
from lwd.replay.rate import RateLimit
from lwd.spec import CameraSpec

FRONT = CameraSpec(name="front_pixels", height=224, width=224)
BATCH = 32
LOOP = LoopConfig(block_steps=4, checkpoint_every_blocks=250)
"""A block's pictures are drawn ahead as a whole: 4 steps of 32 transitions at 224 are 39 MB a camera and group."""


def scene_pixels(seed: int = 0) -> Experiment:
    """Eight tasks of the scene by one camera at 224; fewer demonstrations than the demo, since drawing takes its time."""
    x = scene(seed)
    fleet = x.fleet
    assert isinstance(x.offline.learner, Lwd)
    assert isinstance(x.online.learner, Lwd)
    sight = AugmentConfig()
    return replace(
        x,
        name="scene_pixels",
        fleet=FleetConfig(
            deployed=replace(fleet.deployed, cameras=(FRONT,)),
            demonstrated=replace(fleet.demonstrated, cameras=(FRONT,)),
        ),
        collect=CollectConfig(demos={"leisurely": 24}, play=2, rollouts=12, rollout_noise=0.3),
        model=replace(x.model, image_side=224),
        clone=replace(x.clone, learner=replace(x.clone.learner, batch=BATCH, augment=sight), loop=LOOP),
        offline=replace(
            x.offline,
            learner=replace(x.offline.learner, batch=BATCH, policy_batch=8, augment=sight),
            loop=LOOP,
        ),
        online=replace(
            x.online,
            learner=replace(x.online.learner, batch=BATCH, policy_batch=8, augment=sight),
            publish_every_learner_steps=4,
        ),
        evaluate=EvaluateConfig(episodes=20),
    )


def scene_pixels_quick(seed: int = 0) -> Experiment:
    """The same robots with small pictures, two short tasks and hardly any steps: shows that pictures pass through the loop."""
    x = scene_pixels(seed)
    return replace(
        x,
        name="scene_pixels_quick",
        fleet=_two_tasks(x.fleet, side=64, robots=4),
        collect=replace(x.collect, demos={"leisurely": 2}, play=1, rollouts=1),
        model=replace(x.model, image_side=64),
        clone=replace(x.clone, steps=40),
        offline=replace(x.offline, critic_steps=20, steps=40),
        online=replace(x.online, control_steps=400),
        evaluate=EvaluateConfig(episodes=1),
    )


def scene_vla(seed: int = 0) -> Experiment:
    """The dummy-size VLA through the whole loop: two short tasks by a camera at 56, about half an hour on two cores.

    As in the paper, everything trains offline and only the action expert online. It shows that the networks learn from pictures
    and prompts, not how well a policy of this size can act.
    """
    x = scene_pixels(seed)
    loop = LoopConfig(block_steps=20, checkpoint_every_blocks=25)
    policy = OptimizerConfig(learning_rate=1e-3, decay_steps=1_500, final_share=0.1)
    critic = OptimizerConfig(learning_rate=1e-3, decay_steps=900, final_share=0.2)
    learner = Lwd(
        policy=replace(policy, learning_rate=3e-4, decay_steps=300),
        critic=critic,
        qam=QamConfig(temperature=0.1, flow_steps=5),  # the demo's is 0.03; a young critic is followed less
        batch=BATCH,
        policy_batch=8,
        augment=AugmentConfig(),
    )
    expert = replace(learner, trainable=Trainable(policy="expert"))
    return replace(
        x,
        name="scene_vla",
        fleet=_two_tasks(x.fleet, side=56, robots=8),
        collect=CollectConfig(demos={"leisurely": 40}, play=4, rollouts=20, rollout_noise=0.3),
        model=VlaModel(policy=replace(DUMMY, prompt_tokens=160), flow_steps=5),  # bytes, so prompts are long
        clone=replace(
            x.clone,
            learner=CloneConfig(policy=policy, batch=BATCH, policy_ema_rate=0.005, augment=AugmentConfig()),
            steps=policy.decay_steps,
            loop=loop,
        ),
        offline=replace(x.offline, learner=learner, critic_steps=600, steps=900, loop=loop),
        online=replace(
            x.online,
            learner=expert,
            control_steps=4_000,
            rate=RateLimit(learner_steps_per_control_step=0.05, learner_slack_steps=40, actor_slack_steps=40),
            publish_every_learner_steps=20,
        ),
        evaluate=EvaluateConfig(episodes=50),
    )


def _two_tasks(fleet: FleetConfig, side: int, robots: int) -> FleetConfig:
    """A smaller fleet with smaller pictures, on two short tasks."""
    eye, tasks = replace(FRONT, height=side, width=side), ("press_button", "open_drawer")
    return replace(
        fleet,
        deployed=replace(fleet.deployed, cameras=(eye,), tasks=tasks),
        demonstrated=replace(fleet.demonstrated, cameras=(eye,), tasks=tasks),
        robots=robots,
        workers=2,
    )
