"""Policies as snapshots: publishing, loading, and checking that a snapshot fits this fleet."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from lwd.config import Experiment
from lwd.errors import SnapshotError
from lwd.fleet.services import Services, encoder, fleet_description
from lwd.learner.method import Acting
from lwd.models.arrays import from_arrays, to_arrays
from lwd.models.mlp import MlpConfig, MlpPolicy, Normalizer
from lwd.snapshot.store import Snapshot

_COMMANDS = {"sft": "lwd train sft", "offline": "lwd train offline", "online": "lwd fleet up"}


def model_config(experiment: Experiment) -> MlpConfig:
    """Sizes of policy and critic for this fleet's robot."""
    spec, _ = fleet_description(experiment)
    return MlpConfig(
        proprio_dim=spec.proprio_dim,
        instruction_dim=experiment.model.instruction_dim,
        chunk_steps=spec.chunk_steps,
        action_dim=spec.action_dim,
        width=experiment.model.width,
        depth=experiment.model.depth,
        heads=experiment.model.heads,
    )


def policy_template(experiment: Experiment) -> MlpPolicy:
    """A flow policy of the right shapes, to read an SFT snapshot into."""
    config = model_config(experiment)
    return MlpPolicy.init(jax.random.key(0), config, Normalizer.identity(config.proprio_dim))


def acting_template(experiment: Experiment, stage: str) -> Acting:
    """What this stage's snapshots hold, of the right shapes: a flow policy, or what the stage's method acts with."""
    policy = policy_template(experiment)
    if stage == "sft":
        return policy
    method = (experiment.offline if stage == "offline" else experiment.online).learner
    return method.acting(method.start(policy, model_config(experiment), jax.random.key(0)))


def publish(
    experiment: Experiment,
    services: Services,
    policy: Acting,
    *,
    stage: str,
    learner_step: int,
    manifest: int | None,
) -> Snapshot:
    """Publish a policy with what a robot must check before it loads it, and announce it."""
    config = model_config(experiment)
    spec, _ = fleet_description(experiment)
    arrays = to_arrays(policy)
    meta: dict[str, Any] = {
        "stage": stage,
        "model": "mlp",
        "acting": type(policy).__name__,
        "width": config.width,
        "depth": config.depth,
        "robot_spec": spec.name,
        "chunk_steps": spec.chunk_steps,
        "instruction_encoder": encoder(experiment).version,
        "flow_steps": experiment.model.flow_steps,
        "normalizer": normalizer_fingerprint(arrays),
    }
    snapshot = services.snapshots.publish(arrays, learner_step, manifest, meta)
    services.channel.announce(snapshot)
    return snapshot


def load_policy(experiment: Experiment, services: Services, number: int) -> tuple[Acting, Snapshot]:
    """A verified snapshot as what robots run.

    Raises:
        SnapshotError: it is missing, not intact, or was made for another robot, model or instruction encoder.
    """
    arrays, snapshot = services.snapshots.load(number)
    spec, _ = fleet_description(experiment)
    expected = {"robot_spec": spec.name, "instruction_encoder": encoder(experiment).version}
    for name, value in expected.items():
        if snapshot.meta.get(name) != value:
            raise SnapshotError(
                f"snapshot {number} has {name} {snapshot.meta.get(name)!r}, this fleet has {value!r}. "
                "Use the recipe that it was made with."
            )
    template = acting_template(experiment, str(snapshot.meta.get("stage")))
    found = snapshot.meta.get("acting", "MlpPolicy")
    if found != type(template).__name__:
        raise SnapshotError(
            f"snapshot {number} holds a {found}, this experiment's {snapshot.meta.get('stage')} stage acts with a "
            f"{type(template).__name__}. Use the recipe that it was made with."
        )
    return from_arrays(template, arrays, f"snapshot {number}"), snapshot


def load_reference(experiment: Experiment, services: Services) -> MlpPolicy:
    """The SFT policy, which is pi_beta.

    Raises:
        SnapshotError: it has not been trained yet.
    """
    reference, _ = load_policy(experiment, services, find_snapshot(services, "sft").number)
    assert isinstance(reference, MlpPolicy)  # acting_template says so
    return reference


def find_snapshot(services: Services, stage: str) -> Snapshot:
    """The newest snapshot of a stage ("sft", "offline", "online").

    Raises:
        SnapshotError: that stage has not published yet.
    """
    found = [s for s in services.snapshots.list() if s.meta.get("stage") == stage]
    if not found:
        raise SnapshotError(
            f"no snapshot of stage {stage!r} in {services.folder.path}. Make it first: {_COMMANDS[stage]}."
        )
    return found[-1]


def normalizer_fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """Twelve hex digits that change with the normaliser's mean or scale."""
    digest = hashlib.sha256()
    for name in sorted(n for n in arrays if "normalizer" in n.split(".")):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:12]
