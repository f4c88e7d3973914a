"""A learner step of the VLA made of the learner's own losses, with random weights and pictures.

The seam: `learner_step` and `start` stand in for `lwd.learner.update` and `lwd.learner.state` until those take a VLA; what
`bench_vla_step` and the tests of `lwd plan` measure goes through these two alone.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lwd.learner import divl, qam
from lwd.learner.flow import flow_matching_loss
from lwd.learner.optimizers import OptimizerConfig, ema, make_optimizer
from lwd.learner.plan.networks import Stage
from lwd.models.mlp import Normalizer
from lwd.models.vla.config import PiConfig, VlaCriticConfig
from lwd.models.vla.critic import VlaCritic
from lwd.models.vla.pi05 import PiPolicy
from lwd.transition import Observation, Transition

OPTIMIZER = OptimizerConfig(learning_rate=2e-5, decay_steps=40_000)
EMA_RATE = 0.005


class State(eqx.Module):
    """What changes in a learner step; the SFT stage has no critic."""

    policy: PiPolicy
    policy_opt: Any
    average: PiPolicy
    critic: VlaCritic | None = None
    value_opt: Any = None
    critic_opt: Any = None
    target: VlaCritic | None = None


def trained_policy(policy: PiPolicy, stage: Stage) -> Any:
    """True where a leaf trains: everything but the statistics, online the action expert."""
    mask = jax.tree.map(eqx.is_inexact_array, policy)
    frozen = (
        ["normalizer", "vision", "project", "tokens", "language"] if stage == "online" else ["normalizer"]
    )
    for name in frozen:
        mask = eqx.tree_at(
            lambda m, name=name: getattr(m, name), mask, jax.tree.map(lambda _: False, getattr(policy, name))
        )
    return mask


def trained_critic(critic: VlaCritic, *, value: bool) -> Any:
    """True for the backbone with the value head, or with the critic's heads."""
    mask = jax.tree.map(lambda _: False, critic)
    names = ["backbone", "value"] if value else ["backbone", "pool", "heads"]
    for name in names:
        part = jax.tree.map(eqx.is_inexact_array, getattr(critic, name))
        mask = eqx.tree_at(lambda m, name=name: getattr(m, name), mask, part)
    return mask


def start(policy: PiPolicy, critic: VlaCritic, stage: Stage) -> State:
    """Optimisers at their beginning, averages equal to what they follow."""
    optimizer = make_optimizer(OPTIMIZER)

    def fresh(module: Any, mask: Any) -> Any:
        return optimizer.init(eqx.filter(module, mask))

    def copied(module: Any) -> Any:
        return jax.tree.map(jnp.copy, module)

    state = State(policy, fresh(policy, trained_policy(policy, stage)), copied(policy))
    if stage == "sft":
        return state
    return State(
        *(state.policy, state.policy_opt, state.average),
        critic=critic,
        value_opt=fresh(critic, trained_critic(critic, value=True)),
        critic_opt=fresh(critic, trained_critic(critic, value=False)),
        target=copied(critic),
    )


def learner_step(
    state: State,
    reference: PiPolicy,
    batch: Transition,
    key: jax.Array,
    *,
    stage: Stage,
    flow_steps: int,
) -> tuple[State, dict[str, jax.Array]]:
    """One learner step: flow matching, or Algorithm 2 on the whole batch."""
    if stage == "sft":
        return _policy_step(state, stage, lambda policy: (sft_loss(policy, batch, key), {}))
    state, metrics = _critic_steps(state, batch)
    config = qam.QamConfig(flow_steps=flow_steps)

    def loss(policy: PiPolicy) -> tuple[jax.Array, Any]:
        shape = batch.chunk.shape[-2:]
        return qam.policy_loss(policy, reference, state.target, batch.observation, shape, key, config)

    state, policy_metrics = _policy_step(state, stage, loss)
    return state, {**metrics, **policy_metrics}


def sft_loss(policy: PiPolicy, batch: Transition, key: jax.Array) -> jax.Array:
    """Flow matching over a batch, mean."""
    keys = jax.random.split(key, batch.reward.shape[0])
    losses = jax.vmap(flow_matching_loss, (None, 0, 0, 0, 0))(
        policy, batch.observation, batch.chunk, batch.valid, keys
    )
    return jnp.mean(losses)


def descend(module: Any, mask: Any, opt_state: Any, loss: Any) -> tuple[Any, Any, dict[str, jax.Array]]:
    """One optimiser step on the trained leaves; the others are constants of the gradient."""
    trained, frozen = eqx.partition(module, mask)
    (_, metrics), gradients = eqx.filter_value_and_grad(
        lambda trained: loss(eqx.combine(trained, frozen)), has_aux=True
    )(trained)
    updates, opt_state = make_optimizer(OPTIMIZER).update(gradients, opt_state, trained)
    return eqx.combine(optax.apply_updates(trained, updates), frozen), opt_state, metrics


def random_batch(policy: PiConfig, critic: VlaCriticConfig, size: int, prompt_tokens: int) -> Transition:
    """Pictures of every camera and full prompts, so that no token is padding."""
    rng = np.random.default_rng(0)
    steps, action_dim, side = critic.chunk_steps, critic.action_dim, policy.vision.image
    lengths = {critic.prompt: (prompt_tokens, critic.vocabulary)}
    lengths |= {policy.prompt: (policy.prompt_tokens, policy.vocabulary)}

    def observation() -> Observation:
        return Observation(
            proprio=rng.normal(size=(size, critic.proprio_dim)).astype(np.float32),
            instruction=np.zeros((size, 1), np.float32),
            images={
                camera: rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8)
                for camera in policy.cameras
            },
            prompts={
                name: rng.integers(1, vocabulary, (size, length)).astype(np.int32)
                for name, (length, vocabulary) in lengths.items()
            },
        )

    return Transition(
        observation=observation(),
        chunk=rng.uniform(-1, 1, (size, steps, action_dim)).astype(np.float32),
        valid=np.ones((size, steps), np.bool_),
        reward=np.zeros(size, np.float32),
        discount=np.full(size, 0.99, np.float32),
        next_observation=observation(),
        intervention=np.zeros(size, np.bool_),
        exemplary=np.ones(size, np.bool_),
        task=np.zeros(size, np.int32),
    )


def make_policy(config: PiConfig, proprio_dim: int) -> PiPolicy:
    """Random weights, made on the device."""
    return eqx.filter_jit(PiPolicy.init)(jax.random.key(0), config, Normalizer.identity(proprio_dim))


def make_critic(config: VlaCriticConfig) -> VlaCritic:
    """Random weights, made on the device."""
    return eqx.filter_jit(VlaCritic.init)(jax.random.key(1), config, Normalizer.identity(config.proprio_dim))


def _policy_step(state: State, stage: Stage, loss: Any) -> tuple[State, dict[str, jax.Array]]:
    mask = trained_policy(state.policy, stage)
    policy, policy_opt, metrics = descend(state.policy, mask, state.policy_opt, loss)
    average = ema(state.average, policy, EMA_RATE)
    return (
        eqx.tree_at(lambda s: (s.policy, s.policy_opt, s.average), state, (policy, policy_opt, average)),
        metrics,
    )


def _critic_steps(state: State, batch: Transition) -> tuple[State, dict[str, jax.Array]]:
    """Lines 1 to 4 of Algorithm 2."""
    config, critic = divl.DivlConfig(), state.critic
    critic, value_opt, value_metrics = descend(
        critic,
        trained_critic(critic, value=True),
        state.value_opt,
        lambda c: divl.value_loss(c, state.target, batch, config),
    )
    y, _ = divl.bootstrap_target(critic, batch, config)
    critic, critic_opt, critic_metrics = descend(
        critic,
        trained_critic(critic, value=False),
        state.critic_opt,
        lambda c: divl.critic_loss(c, batch, y),
    )
    target = ema(state.target, critic, EMA_RATE)
    state = eqx.tree_at(
        lambda s: (s.critic, s.value_opt, s.critic_opt, s.target),
        state,
        (critic, value_opt, critic_opt, target),
    )
    return state, {**value_metrics, **critic_metrics}
