"""Eq 18: tau(s) = clip(tau_base - alpha Hn(s), tau_min, tau_max), without gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.learner.divl import DivlConfig, adaptive_tau, read_value


@pytest.mark.parametrize(
    ("base", "entropy", "tau"),
    [(0.6, 0.55, 0.435), (0.6, 0.20, 0.540), (0.9, 0.48, 0.756), (0.9, 0.32, 0.804)],
)
def test_the_papers_curves(base, entropy, tau):
    # The paper reports 0.44, 0.54, 0.76, 0.80 at these entropies.
    assert float(adaptive_tau(jnp.float32(entropy), DivlConfig(tau_base=base))) == pytest.approx(
        tau, abs=1e-6
    )


def test_clip_ends():
    low = DivlConfig(tau_base=0.2, alpha=0.3, tau_min=0.05)
    assert float(adaptive_tau(jnp.float32(0.9), low)) == pytest.approx(0.05)
    high = DivlConfig(tau_base=1.0, tau_max=0.99)
    assert float(adaptive_tau(jnp.float32(0.0), high)) == pytest.approx(0.99)


def test_no_gradient():
    assert float(jax.grad(lambda e: adaptive_tau(e, DivlConfig()))(jnp.float32(0.4))) == 0.0


def test_alpha_zero_is_a_constant_tau():
    for entropy in (0.0, 0.5, 1.0):
        assert float(adaptive_tau(jnp.float32(entropy), DivlConfig(alpha=0.0))) == pytest.approx(0.6)


def test_read_value_joins_entropy_tau_and_quantile():
    # Two equal masses on four atoms: entropy 0.5. Base 0.6 gives tau 0.45, reached by the lower one; base 0.9 gives 0.75, the
    # upper.
    logits = jnp.log(jnp.array([0.5, 0.0, 0.5, 0.0]) + 1e-30)
    for base, tau, value in ((0.6, 0.45, 0.0), (0.9, 0.75, 2.0)):
        config = DivlConfig(atoms=4, value_low=0.0, value_high=3.0, tau_base=base)
        np.testing.assert_allclose(read_value(logits, config), [value, tau, 0.5], atol=1e-5)
