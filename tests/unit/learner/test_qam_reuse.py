"""QAM does nothing twice: encodings and velocity evaluations counted in the program itself; and its path is in float32."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from lwd.learner.qam import QamConfig, adjoint_matching_loss
from lwd.transition import Observation

T = 5
OBSERVATION = Observation(jnp.ones(3), jnp.zeros(1), {})
NOISE = 0.3 * jax.random.normal(jax.random.key(0), (T, 2, 4))


class Marked(eqx.Module):
    """A policy whose every encoding and velocity leaves a mark in the program: `digamma` and `lgamma` of a scalar."""

    gain: jax.Array
    seen: list = eqx.field(static=True)
    compute: str = eqx.field(static=True, default="float32")

    def encode(self, observation):
        return jax.lax.digamma(observation.proprio[0]) * self.gain

    def velocity(self, context, a_w, w):
        self.seen.append((a_w.dtype, w.dtype))
        mark = jax.lax.lgamma(1.5 + w)
        return (jnp.tanh(context * a_w) + mark).astype(self.compute)


class Quadratic(eqx.Module):
    """A critic with a maximum at 0.3."""

    compute: str = eqx.field(static=True, default="float32")

    def encode(self, observation):
        return jax.lax.erf_inv(0.1 * observation.proprio[0])[None]

    def value_logits(self, z):
        return z

    def q(self, z, chunk):
        return (z - jnp.sum(jnp.square(chunk - 0.3))).astype(self.compute)


def counted(jaxpr, name):
    """How often a primitive runs: scans count by their length, batched evaluations by their size."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            total += eqn.outvars[0].aval.size
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += times * counted(inner, name)
    return total


def counts(config, shared=False):
    """Encodings and velocities of policy and reference, forward and backward, and encodings of the critic."""
    gain = jnp.float32(0.5)

    def gradient(policy_gain):
        def loss(gain):
            networks = Marked(gain, []), Marked(gain_of_reference, []), Quadratic()
            return adjoint_matching_loss(*networks, OBSERVATION, NOISE, config, shared_prefix=shared)[0]

        return jax.grad(loss)(policy_gain)

    gain_of_reference = jnp.float32(0.7)
    jaxpr = jax.make_jaxpr(gradient)(gain).jaxpr
    return tuple(counted(jaxpr, name) for name in ("digamma", "lgamma", "erf_inv"))


@pytest.mark.parametrize(
    ("settings", "velocities"),
    [
        # policy: T on the path. reference: T for the adjoint, T on the path's points, its last step among them.
        ({}, T + T + T),
        # the adjoint's own forward passes are at the path's flow times: only the path's last step is extra
        ({"jacobian_time": "same"}, T + T + 1),
        # the path is the reference's own
        ({"paths_from": "reference"}, T + T + T),
    ],
)
def test_each_network_encodes_once_and_evaluates_no_point_twice(settings, velocities):
    config = QamConfig(flow_steps=T, **settings)
    assert counts(config) == (2, velocities, 1)


def test_a_shared_prefix_is_encoded_once():
    assert counts(QamConfig(flow_steps=T), shared=True) == (1, 3 * T, 1)


@pytest.mark.parametrize("paths_from", ["policy", "reference"])
def test_the_path_stays_in_float32_whatever_the_networks_compute_in(paths_from):
    seen = []
    config = QamConfig(flow_steps=T, paths_from=paths_from)
    gain = jnp.bfloat16(0.5)

    def loss(gain):
        policy, reference = Marked(gain, seen, "bfloat16"), Marked(gain, seen, "bfloat16")
        return adjoint_matching_loss(policy, reference, Quadratic("bfloat16"), OBSERVATION, NOISE, config)

    (value, metrics), gradient = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), gain)
    assert {dtype for pair in seen for dtype in pair} == {jnp.dtype("float32")}
    assert {value.dtype, *(m.dtype for m in metrics.values())} == {jnp.dtype("float32")}
    assert gradient.dtype == jnp.bfloat16
    # Inside, too: nothing of a path's or an adjoint's shape is computed in bfloat16; the networks round their outputs to it.
    jaxpr = jax.make_jaxpr(lambda g: loss(g)[0])(gain).jaxpr
    assert float_types_of_shape(jaxpr, (T, 2, 4)) == {"float32"}


def float_types_of_shape(jaxpr, shape):
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "convert_element_type":
            continue
        found |= {str(v.aval.dtype) for v in eqn.outvars if getattr(v.aval, "shape", None) == shape}
    return {name for name in found if "float" in name}
