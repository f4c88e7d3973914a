"""A dummy VLA through cloning, offline and online learning, by the code that trains the MLPs."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vla_run import NETWORKS, OFFLINE, ONLINE, OPTIMIZER, batches, policy

from lwd.learner.checkpoint import Checkpoints
from lwd.learner.clone import CloneConfig, init_clone
from lwd.learner.method import act
from lwd.learner.stages import clone_stage, run_block
from lwd.models.arrays import named_leaves

pytestmark = pytest.mark.usefixtures("quick_compilation")
CLONE = CloneConfig(policy=replace(OPTIMIZER, learning_rate=1e-2), batch=8, policy_ema_rate=0.05)
BACKBONE = ("vision", "project", "tokens", "language")


def start(method, clone):
    """`Method.start` in one compiled function; its thousand small ones take longer."""
    return eqx.filter_jit(lambda clone, key: method.start(clone, NETWORKS, key))(clone, jax.random.key(2))


@pytest.fixture(scope="module")
def reference():
    """The clone of 12 x 25 learner steps, and its loss in each 25."""
    state, losses = init_clone(CLONE, policy()), []
    for block in range(12):
        state, metrics = run_block(clone_stage(CLONE), state, batches(25, 8, seed=block), jax.random.key(1))
        losses.append(float(metrics["policy/flow_matching_loss"]))
    return state.acting_policy, losses


def test_cloning_learns(reference):
    """And what it has learned acts: chunks in [-1, 1], far from the 0 that a new policy starts around."""
    clone, losses = reference
    assert losses[-1] < 0.75 * losses[0]
    seen = jax.tree.map(lambda x: x[0], batches(1, 12, seed=99))

    @eqx.filter_jit
    def chunks(flow, observation):
        return jax.vmap(lambda o: act(flow, o, jax.random.key(5), (3, 2), 3))(observation)

    found = chunks(clone, seen.observation)
    assert float(jnp.abs(jnp.abs(found.mean(axis=(1, 2))) - 0.7).max()) < 0.3
    assert float(jnp.abs(found).max()) <= 1.0


@pytest.fixture(scope="module")
def offline(reference):
    """The offline stage's state after 4 learner steps and after 8, and the metrics of the second four."""
    clone, _ = reference
    update, key = OFFLINE.update(clone), jax.random.key(3)
    # On a device of its choice, as a restored state is: another program is compiled for a state that is on any.
    begun = jax.device_put(start(OFFLINE, clone), jax.devices()[0])
    half, _ = run_block(update, begun, batches(4, 4, seed=0), key)
    kept = jax.tree.map(jnp.copy, half)
    whole, metrics = run_block(update, half, batches(4, 4, seed=1), key)
    return kept, whole, metrics


def saved_and_restored(state, folder, template):
    checkpoints = Checkpoints(folder)
    checkpoints.save(int(state.step), state, {"stage": "offline"})
    checkpoints.close()
    checkpoints = Checkpoints(folder)
    restored, position = checkpoints.restore(template)
    checkpoints.close()
    assert position == {"stage": "offline"}
    return restored


def assert_same(one, other):
    expected = named_leaves(other)
    for name, leaf in named_leaves(one).items():
        assert np.array_equal(leaf, expected[name]), name


def test_offline_everything_trains(reference, offline):
    clone, _ = reference
    _, state, metrics = offline
    assert all(np.isfinite(float(m)) for m in metrics.values())
    assert int(state.step) == 8
    after = named_leaves(state.policy)
    moved = {n.split(".")[0] for n, leaf in named_leaves(clone).items() if not np.array_equal(leaf, after[n])}
    assert moved >= {*BACKBONE, "action_out"}
    assert jax.tree.structure(OFFLINE.acting(state)) == jax.tree.structure(clone)


def test_a_resumed_stage_ends_with_exactly_the_same_numbers(reference, offline, tmp_path):
    clone, _ = reference
    half, whole, _ = offline
    restored = saved_and_restored(half, tmp_path, jax.tree.map(jnp.zeros_like, half))
    resumed, _ = run_block(OFFLINE.update(clone), restored, batches(4, 4, seed=1), jax.random.key(3))
    assert_same(whole, resumed)


def test_online_goes_on_from_offline_and_its_smaller_state_survives_a_checkpoint(
    reference, offline, tmp_path
):
    """What one online update moves and what it leaves alone: test_trainable.py."""
    clone, _ = reference
    _, trained, _ = offline
    online = ONLINE.continued(clone, trained)
    assert_same(online.policy, trained.policy)
    assert_same(online.critic, trained.critic)
    assert len(named_leaves(online.policy_opt)) < len(named_leaves(trained.policy_opt))
    assert_same(online, saved_and_restored(online, tmp_path, jax.tree.map(jnp.zeros_like, online)))
    assert jax.tree.structure(ONLINE.acting(online)) == jax.tree.structure(clone)
