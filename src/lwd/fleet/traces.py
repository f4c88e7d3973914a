"""What the value thought along an episode: the data behind the paper's Figures 6 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lwd.config import Experiment
from lwd.episode import Episode
from lwd.evaluate.ranking import ValueAlong
from lwd.fleet.policies import prompts_of
from lwd.fleet.services import encoder, fleet_description
from lwd.image import prepare_all
from lwd.learner.divl import DivlConfig, read_value
from lwd.models.protocols import Value
from lwd.transition import Observation

_PADDED_TO = 32
"""Chunks of an episode are padded to a multiple of it."""


def value_traces(
    experiment: Experiment, critic: Value, episodes: Sequence[Episode], config: DivlConfig
) -> list[dict[str, Any]]:
    """One success and one failure of the same long task, of median length each, value read at every chunk boundary."""
    pair = _pair(experiment, episodes)
    return [read_trace(experiment, critic, episode, config) for episode in pair]


def value_along(
    experiment: Experiment, critic: Value, episodes: Sequence[Episode], config: DivlConfig
) -> list[ValueAlong]:
    """The adaptive quantile along every episode, by share of its length."""
    found: list[ValueAlong] = []
    for episode in episodes:
        trace = read_trace(experiment, critic, episode, config)
        times = np.asarray(trace["times_s"], float)
        shares = times / max(times[-1], 1e-9)
        found.append(
            ValueAlong(episode.header.task, episode.success, shares, np.asarray(trace["quantile"], float))
        )
    return found


def _pair(experiment: Experiment, episodes: Sequence[Episode]) -> list[Episode]:
    _, tasks = fleet_description(experiment)
    for name in sorted(tasks, key=lambda n: (tasks[n].horizon != "long", -len(tasks[n].milestones))):
        here = [e for e in episodes if e.header.task == name]
        wins, losses = [e for e in here if e.success], [e for e in here if not e.success]
        if wins and losses:
            return [_typical(wins), _typical(losses)]
    return list(episodes[:1])


def _typical(episodes: list[Episode]) -> Episode:
    """The one of median length."""
    return sorted(episodes, key=lambda e: e.steps)[len(episodes) // 2]


@eqx.filter_jit
def _read(
    critic: Value, observations: Observation, config: DivlConfig
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    logits = jax.vmap(lambda o: critic.value_logits(critic.encode(o)))(observations)
    quantile, tau, entropy = jax.vmap(read_value, (0, None))(logits, config)
    return quantile, tau, entropy, jax.nn.softmax(logits)


def read_trace(experiment: Experiment, critic: Value, episode: Episode, config: DivlConfig) -> dict[str, Any]:
    """The value at every chunk boundary of an episode, as the report's value_traces.json holds it."""
    spec, _ = fleet_description(experiment)
    boundaries = np.arange(0, episode.steps, spec.chunk_steps)
    count = len(boundaries)
    rows = np.pad(boundaries, (0, -count % _PADDED_TO), mode="edge")  # few lengths, so few compilations
    text = encoder(experiment)(episode.header.instruction)
    proprio = np.asarray(episode.proprio[rows], np.float32)
    prompts = prompts_of(experiment, critic)
    ids = None if prompts is None else prompts([episode.header.instruction] * len(rows), proprio)
    texts = np.tile(text, (len(rows), 1))
    seen = {
        camera.name: prepare_all(
            [episode.images[camera.name][int(row)] for row in rows], camera, experiment.model.image_side
        )
        for camera in spec.cameras
    }
    observations = jax.tree.map(jnp.asarray, Observation(proprio, texts, seen, ids))
    found = _read(critic, observations, config)
    quantile, tau, entropy, probabilities = (np.asarray(array)[:count] for array in found)
    return {
        "task": episode.header.task,
        "outcome": episode.verdict.outcome.value,
        "times_s": episode.times_s[boundaries].tolist(),
        "quantile": quantile.tolist(),
        "entropy": entropy.tolist(),
        "tau": tau.tolist(),
        "probabilities": np.round(probabilities, 5).tolist(),
        "atoms": np.asarray(config.support()).tolist(),
    }
