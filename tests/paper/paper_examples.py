"""Small critics, policies and batches that several tests of the paper's equations share."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lwd.learner.divl import DivlConfig
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.state import LearnerConfig
from lwd.models.mlp import MlpConfig, MlpCritic, MlpPolicy, Normalizer
from lwd.transition import Observation, Transition

# ---- a critic made of tables: states and actions are one-hot vectors -------------------------------------------------


class TabularCritic(eqx.Module):
    """A `Critic` without networks: logits [S, K] and Q [heads, S, A]."""

    logits: jax.Array
    table: jax.Array

    def encode(self, observation):
        return observation.proprio

    def value_logits(self, z):
        return z @ self.logits

    def q(self, z, chunk):
        return jnp.einsum("hsa,s,a->h", self.table, z, chunk[0])


def state_observation(states, n_states):
    onehot = np.eye(n_states, dtype=np.float32)[np.asarray(states)]
    return Observation(onehot, np.zeros((*np.shape(states), 1), np.float32), {})


def tabular_batch(rows, n_states, n_actions):
    """Rows of (state, action, reward, discount, next state)."""
    states, actions, rewards, discounts, following = zip(*rows, strict=True)
    size = len(rows)
    return Transition(
        observation=state_observation(states, n_states),
        chunk=np.eye(n_actions, dtype=np.float32)[list(actions)][:, None, :],
        valid=np.ones((size, 1), bool),
        reward=np.asarray(rewards, np.float32),
        discount=np.asarray(discounts, np.float32),
        next_observation=state_observation(following, n_states),
        intervention=np.zeros(size, bool),
        exemplary=np.zeros(size, bool),
        task=np.zeros(size, np.int32),
    )


# ---- tiny networks ---------------------------------------------------------------------------------------------------

SIZES = MlpConfig(
    proprio_dim=3, instruction_dim=2, chunk_steps=2, action_dim=2, width=8, depth=2, heads=2, atoms=51
)


def filled(init, seed, normalizer):
    """A network with NumPy's random numbers in place of `init`'s: many small JAX kernels fewer to compile."""
    rng = np.random.default_rng(seed)
    shapes = eqx.filter_eval_shape(init, jax.random.key(0), SIZES, normalizer)
    network = jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), jnp.float32), shapes)
    return eqx.tree_at(lambda n: n.normalizer, network, normalizer)


IDENTITY = Normalizer(jnp.asarray(np.zeros(3, np.float32)), jnp.asarray(np.ones(3, np.float32)))


def tiny_policy(seed, normalizer=IDENTITY):
    return filled(MlpPolicy.init, seed, normalizer)


def tiny_critic(seed):
    return filled(MlpCritic.init, seed, IDENTITY)


def tiny_config(clip_norm=1.0, **settings):
    optimizer = OptimizerConfig(learning_rate=3e-2, decay_steps=1000, warmup_steps=0, clip_norm=clip_norm)
    return LearnerConfig(
        policy=optimizer,
        critic=optimizer,
        divl=DivlConfig(atoms=SIZES.atoms),
        qam=QamConfig(flow_steps=2),
        **{"batch": 6, "policy_batch": 3, **settings},
    )


def random_batch(seed, *lead):
    """Transitions with leading axes `lead`; every chunk whole, some returns cut."""
    rng = np.random.default_rng(seed)

    def observation():
        return Observation(
            rng.normal(size=(*lead, 3)).astype(np.float32), rng.normal(size=(*lead, 2)).astype(np.float32), {}
        )

    batch = Transition(
        observation=observation(),
        chunk=rng.uniform(-1, 1, (*lead, 2, 2)).astype(np.float32),
        valid=np.ones((*lead, 2), bool),
        reward=rng.uniform(0, 1, lead).astype(np.float32),
        discount=(0.9 * (rng.uniform(size=lead) < 0.7)).astype(np.float32),
        next_observation=observation(),
        intervention=np.zeros(lead, bool),
        exemplary=rng.uniform(size=lead) < 0.5,
        task=np.zeros(lead, np.int32),
    )
    return jax.tree.map(jnp.asarray, batch)


def assert_trees_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def assert_trees_close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol, atol), a, b)


def trees_differ(a, b):
    return any(
        np.any(np.asarray(x) != np.asarray(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
