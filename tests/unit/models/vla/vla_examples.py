"""Networks of a few thousand numbers, with every parameter away from its starting value, and observations for them."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lwd.learner.flow import integrate
from lwd.models.arrays import is_array_or_shape
from lwd.models.mlp import Normalizer
from lwd.models.vla.config import GemmaConfig, PiConfig, SiglipConfig
from lwd.models.weights.transfer import blank_policy
from lwd.transition import Observation

VISION = SiglipConfig(image=28, patch=14, width=16, depth=2, mlp=24, heads=2)
SIZES = PiConfig(
    vision=VISION,
    language=GemmaConfig(width=24, depth=2, mlp=40, heads=4, kv_heads=1, head_dim=8),
    expert=GemmaConfig(width=16, depth=2, mlp=32, heads=4, kv_heads=1, head_dim=8),
    vocabulary=64,
    action_dim=6,
    cameras=("left", "middle", "right"),
    prompt="words",
    prompt_tokens=7,
)
MEAN, SCALE = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5])
PI0_SIZES = dataclasses.replace(SIZES, variant="pi0")


def shaken(module, seed):
    """Every parameter drawn anew: matrices keep the size of a signal, vectors are of size 0.3."""
    generator = np.random.default_rng(seed)

    def draw(leaf):
        if not is_array_or_shape(leaf):
            return leaf
        scale = leaf.shape[-2] ** -0.5 if leaf.ndim > 1 and leaf.shape[-2] > 1 else 0.3
        return jnp.asarray((scale * generator.standard_normal(leaf.shape)).astype(leaf.dtype))

    return jax.tree.map(draw, module)


def policy(config=SIZES, seed=0, proprio=3):
    normalizer = Normalizer(
        jnp.asarray(MEAN[:proprio], jnp.float32), jnp.asarray(SCALE[:proprio], jnp.float32)
    )
    return eqx.tree_at(lambda p: p.normalizer, shaken(blank_policy(config, normalizer), seed), normalizer)


@eqx.filter_jit
def velocity(flow, seen, a_w, w):
    """Encode and one velocity, compiled once per shape."""
    return flow.velocity(flow.encode(seen), a_w, w)


@eqx.filter_jit
def sampled(flow, seen, start, steps):
    context = flow.encode(seen)
    return integrate(lambda a, w: flow.velocity(context, a, w), start, steps)


def observation(config=SIZES, seed=1, cameras=("left", "right"), written=5, proprio=3):
    """Two of three cameras, and a prompt that ends in padding."""
    generator = np.random.default_rng(seed)
    side = config.vision.image
    tokens = generator.integers(1, config.vocabulary - 1, config.prompt_tokens)
    tokens[written:] = 0
    return Observation(
        proprio=jnp.asarray(generator.standard_normal(proprio), jnp.float32),
        instruction=jnp.zeros(1),
        images={c: jnp.asarray(generator.integers(0, 256, (side, side, 3)), jnp.uint8) for c in cameras},
        prompts={config.prompt: jnp.asarray(tokens, jnp.int32)},
    )


def noise(config=SIZES, steps=4, seed=2):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((steps, config.action_dim)), jnp.float32)


def relative_error(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
