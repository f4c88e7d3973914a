"""Optimisers: the schedule's ends, the clip, masks, and the averaged copy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.optimizers import OptimizerConfig, all_leaves, ema, make_optimizer, step


class Pair(eqx.Module):
    trained: jax.Array
    frozen: jax.Array


def pair(trained=0.0, frozen=0.0):
    return Pair(jnp.full(4, trained), jnp.full(4, frozen))


MASK = Pair(True, False)


def sizes_of_steps(config, steps, gradient=1.0):
    """With a constant gradient Adam moves by the learning rate exactly, so each step shows its own."""
    optimizer, module = make_optimizer(config), pair()
    opt_state, positions = optimizer.init(eqx.filter(module, MASK)), [0.0]
    update = eqx.filter_jit(lambda m, o: step(optimizer, m, MASK, pair(gradient, 99.0), o))
    for _ in range(steps):
        module, opt_state = update(module, opt_state)
        positions.append(float(module.trained[0]))
    return -np.diff(positions)


def test_schedule_warms_up_to_the_peak_and_ends_at_its_share():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=4, decay_steps=20, final_share=0.2)
    rates = sizes_of_steps(config, 24)
    assert rates[0] == pytest.approx(0.1 / 4, rel=1e-3)
    assert rates[4] == pytest.approx(0.1, rel=1e-3)  # the peak, after warm-up
    assert rates[12] == pytest.approx(0.1 * (0.2 + 0.8 * 0.5), rel=1e-3)  # half way down the cosine
    np.testing.assert_allclose(rates[20:], 0.02, rtol=1e-3)  # and it stays there


def test_without_warm_up_the_first_step_has_the_peak():
    rates = sizes_of_steps(OptimizerConfig(learning_rate=0.1, warmup_steps=0, decay_steps=10), 11)
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)


def first_moment(opt_state):
    return next(
        x.mu for x in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    )


@pytest.mark.parametrize(("gradient", "expected"), [(30.0, 0.5), (0.1, 0.1)])
def test_clip_by_the_norm_of_the_trained_leaves(gradient, expected):
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, decay_steps=10, clip_norm=1.0)
    optimizer, module = make_optimizer(config), pair()
    _, opt_state = step(
        optimizer, module, MASK, pair(gradient, 1e6), optimizer.init(eqx.filter(module, MASK))
    )
    # Four coordinates: a gradient of 30 each has norm 60 and is scaled to 1, 0.5 each; the frozen leaf's 1e6 does not count.
    np.testing.assert_allclose(first_moment(opt_state).trained, 0.1 * expected, rtol=1e-5)


def test_frozen_leaves_stay_and_are_not_remembered():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, decay_steps=10, weight_decay=0.5)
    optimizer, module = make_optimizer(config), pair(1.0, 7.0)
    opt_state = optimizer.init(eqx.filter(module, MASK))
    moved, opt_state = step(optimizer, module, MASK, pair(0.0, 5.0), opt_state)
    np.testing.assert_array_equal(moved.frozen, 7.0)
    assert first_moment(opt_state).frozen is None
    np.testing.assert_allclose(
        moved.trained, 1.0 - 0.1 * 0.5, rtol=1e-6
    )  # no gradient: decoupled decay alone


def test_ema():
    got = ema(pair(1.0, 2.0), pair(3.0, 2.0), 0.25)
    np.testing.assert_allclose(got.trained, 1.5)
    np.testing.assert_allclose(got.frozen, 2.0)
    np.testing.assert_array_equal(ema(pair(1.0), pair(3.0), 1.0).trained, 3.0)


def test_all_leaves_are_the_floating_ones():
    mask = all_leaves((jnp.zeros(3), jnp.zeros(2, jnp.int32)))
    assert mask == (True, False)
