"""The demo's tasks through a camera: nobody tells the robot where the objects are.

Collection, log and replay are complete. The learner's part is sized for a vision-language-action policy and waits for one: the
MLP of `ModelConfig` sees no pictures, so what it learns here is what can be done blind.
"""

from __future__ import annotations

from dataclasses import replace

from lwd.config import CollectConfig, EvaluateConfig, Experiment, FleetConfig
from lwd.learner.augment import AugmentConfig
from lwd.learner.method import Lwd
from lwd.learner.stages import LoopConfig
from lwd.recipes.sim import scene
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
    eye = replace(FRONT, height=64, width=64)
    tasks = ("press_button", "open_drawer")

    return replace(
        x,
        name="scene_pixels_quick",
        fleet=FleetConfig(
            deployed=replace(x.fleet.deployed, cameras=(eye,), tasks=tasks),
            demonstrated=replace(x.fleet.demonstrated, cameras=(eye,), tasks=tasks),
            robots=4,
            workers=2,
        ),
        collect=replace(x.collect, demos={"leisurely": 2}, play=1, rollouts=1),
        model=replace(x.model, image_side=64),
        clone=replace(x.clone, steps=40),
        offline=replace(x.offline, critic_steps=20, steps=40),
        online=replace(x.online, control_steps=400),
        evaluate=EvaluateConfig(episodes=1),
    )
