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


def test_offline_then_online_with_exact_resume(reference, tmp_path):
    clone, _ = reference
    state = start(OFFLINE, clone)
    for block in range(2):
        state, metrics = run_block(OFFLINE.update(clone), state, batches(4, 4, seed=block), jax.random.key(3))
        assert all(np.isfinite(float(m)) for m in metrics.values())
    assert int(state.step) == 8
    offline = jax.tree.map(jnp.copy, state)
    after = named_leaves(state.policy)
    moved = [n for n, x in named_leaves(clone).items() if not np.array_equal(x, after[n])]
    assert {name.split(".")[0] for name in moved} >= set(BACKBONE)  # offline, everything trains

    online = ONLINE.continued(clone, offline)
    backbone = {n: np.asarray(x) for n, x in named_leaves(online.policy).items() if n.startswith(BACKBONE)}
    update, key = ONLINE.update(clone), jax.random.key(7)
    half, _ = run_block(update, online, batches(3, 4, seed=20), key)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, half, {"stage": "online"})
    checkpoints.close()
    whole, _ = run_block(update, half, batches(3, 4, seed=21), key)

    template = start(ONLINE, clone)
    checkpoints = Checkpoints(tmp_path)
    resumed, position = checkpoints.restore(template)
    checkpoints.close()
    assert position == {"stage": "online"}
    resumed, _ = run_block(update, resumed, batches(3, 4, seed=21), key)
    found, trained = named_leaves(resumed), named_leaves(whole.policy)
    for name, leaf in named_leaves(whole).items():
        assert np.array_equal(leaf, found[name]), name
    for name, leaf in backbone.items():
        assert np.array_equal(leaf, trained[name]), name
    assert not np.array_equal(whole.policy.action_out.weight, offline.policy.action_out.weight)
    assert jax.tree.structure(ONLINE.acting(whole)) == jax.tree.structure(clone)
