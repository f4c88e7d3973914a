"""Policies as snapshots: publishing, loading, and checking that a snapshot fits this fleet."""

from __future__ import annotations

import hashlib
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from lwd.config import Experiment
from lwd.errors import ConfigError, SnapshotError
from lwd.fleet.folder import Services
from lwd.fleet.services import encoder, fleet_description
from lwd.learner.best_of_n import BestOfNPolicy
from lwd.learner.clone import init_clone
from lwd.learner.method import Acting, Method
from lwd.models.arrays import from_arrays, to_arrays
from lwd.models.networks import MakePrompts, Networks
from lwd.models.normalizer import Normalizer
from lwd.models.protocols import LearnedPolicy
from lwd.models.vla.lora import merged
from lwd.snapshot.store import Snapshot

_COMMANDS = {
    "sft": "lwd train sft",
    "offline": "lwd train offline",
    "online": "lwd fleet up",
    "consolidated": "lwd train consolidated",
}


def model_config(experiment: Experiment) -> Networks:
    """Sizes of policy and critic for this fleet's robot."""
    spec, _ = fleet_description(experiment)
    return experiment.model.for_robot(spec)


def prompts_of(experiment: Experiment, network: Any) -> MakePrompts | None:
    """What makes the prompts that this network reads, under its own statistics; None for an MLP."""
    return model_config(experiment).prompts(network)


def acting_template(experiment: Experiment, stage: str) -> Acting:
    """What this stage's snapshots hold, as shapes: a flow policy, or what the stage's method acts with."""
    networks = model_config(experiment).without_weights()
    spec, _ = fleet_description(experiment)

    def made(key: PRNGKeyArray) -> Acting:
        policy = networks.make_policy(key, Normalizer.identity(spec.proprio_dim))
        cloned = merged(init_clone(experiment.clone.learner, policy).acting_policy)
        if stage == "sft":
            return cloned
        method = learner_of(experiment, stage)
        return method.acting(method.start(cloned, networks, key))

    return eqx.filter_eval_shape(made, jax.random.key(0))


def learner_of(experiment: Experiment, stage: str) -> Method:
    """What learns in a stage after SFT.

    Raises:
        ConfigError: the experiment has no such stage.
    """
    stages = {
        "offline": experiment.offline,
        "online": experiment.online,
        "consolidated": experiment.consolidated,
    }
    found = stages.get(stage)
    if found is None:
        raise ConfigError(
            f"{experiment.name} has no stage {stage!r}, it has {', '.join(s for s in stages if stages[s])}. "
            "Use the recipe that the snapshot was made with, or set Experiment.consolidated."
        )
    return found.learner


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
    arrays, meta = content_of(experiment, policy, stage)
    known = services.channel.newest()  # more than the catalogue knows after a restore
    snapshot = services.snapshots.publish(arrays, learner_step, manifest, meta, above=known)
    services.channel.announce(snapshot)
    return snapshot


def content_of(
    experiment: Experiment, policy: Acting, stage: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A snapshot's arrays and metadata."""
    spec, _ = fleet_description(experiment)
    arrays = to_arrays(policy)
    meta: dict[str, Any] = {
        "stage": stage,
        **model_config(experiment).describe(),
        "acting": type(policy).__name__,
        "robot_spec": spec.name,
        "chunk_steps": spec.chunk_steps,
        "action_dim": spec.action_dim,
        "instruction_encoder": encoder(experiment).version,
        "flow_steps": experiment.model.flow_steps,
        "normalizer": normalizer_fingerprint(arrays),
    }
    if isinstance(policy, BestOfNPolicy):
        meta["chunks"] = policy.n
    return arrays, meta


def announce_newest(experiment: Experiment, services: Services) -> None:
    """Once more, for a broker that lost its disk or an announcement that died with its learner."""
    newest = services.snapshots.latest(fleet_description(experiment)[0].name)
    if newest is not None:
        services.channel.announce(newest)


def newest_announced(services: Services, kind: str) -> int | None:
    """The newest number of one kind of robot; asks the catalogue only where something was announced since."""
    head = services.channel.newest()
    return None if head is None else services.snapshots.newest_of(kind, head)


def load_policy(experiment: Experiment, services: Services, number: int) -> tuple[Acting, Snapshot]:
    """A verified snapshot as what robots run.

    Raises:
        SnapshotError: it is missing, not intact, or was made for another robot, model, statistics or instruction encoder,
            or in a stage that this experiment does not have.
    """
    arrays, snapshot = services.snapshots.load(number)
    spec, _ = fleet_description(experiment)
    expected = {"robot_spec": spec.name, "instruction_encoder": encoder(experiment).version}
    described = model_config(experiment).describe()
    expected |= {name: described[name] for name in ("cameras", "statistics") if name in described}
    expected["normalizer"] = normalizer_fingerprint(arrays)
    for name, value in expected.items():
        if snapshot.meta.get(name) != value:
            raise SnapshotError(
                f"snapshot {number} has {name} {snapshot.meta.get(name)!r}, this fleet has {value!r}. "
                "Use the recipe that it was made with."
            )
    try:
        template = acting_template(experiment, str(snapshot.meta.get("stage")))
    except ConfigError as error:  # a stage that this experiment does not have
        raise SnapshotError(f"snapshot {number}: {error}") from error
    found = snapshot.meta.get("acting", "MlpPolicy")
    if found != type(template).__name__:
        raise SnapshotError(
            f"snapshot {number} holds a {found}, this experiment's {snapshot.meta.get('stage')} stage acts with a "
            f"{type(template).__name__}. Use the recipe that it was made with."
        )
    return from_arrays(template, arrays, f"snapshot {number}"), snapshot


def load_reference(experiment: Experiment, services: Services) -> LearnedPolicy:
    """The SFT policy, which is pi_beta.

    Raises:
        SnapshotError: it has not been trained yet.
    """
    reference, _ = load_policy(experiment, services, find_snapshot(services, "sft", experiment).number)
    assert isinstance(reference, LearnedPolicy)  # acting_template says so
    return reference


def find_snapshot(services: Services, stage: str, experiment: Experiment | None = None) -> Snapshot:
    """The newest snapshot of a stage ("sft", "offline", "online", "consolidated"), of this experiment's kind of robot.

    Raises:
        SnapshotError: that stage has not published yet.
    """
    kind = None if experiment is None else fleet_description(experiment)[0].name
    found = snapshots_of(services, kind, stage)
    if not found:
        whose = "" if kind is None else f" for robots of kind {kind!r}"
        raise SnapshotError(
            f"no snapshot of stage {stage!r}{whose} in {services.catalogue.shown}. Make it first: {_COMMANDS[stage]}. If "
            "it was made, name the --out, --catalogue and --objects that it was made with."
        )
    return found[-1]


def snapshots_of(services: Services, kind: str | None = None, stage: str | None = None) -> list[Snapshot]:
    """Snapshots of one kind of robot and one stage, oldest first; None for any. A fleet of several kinds has one sequence."""
    return [
        snapshot
        for snapshot in services.snapshots.list()
        if kind in (None, snapshot.meta.get("robot_spec")) and stage in (None, snapshot.meta.get("stage"))
    ]


def normalizer_fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """Twelve hex digits that change with the normaliser's mean or scale."""
    digest = hashlib.sha256()
    for name in sorted(n for n in arrays if "normalizer" in n.split(".")):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:12]
