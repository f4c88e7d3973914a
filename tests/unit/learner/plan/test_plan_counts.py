"""The account of a learner step against what is counted without it: JAX's program, its residuals, XLA's analysis."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from benchmarks import vla_case
from lwd.learner.clone import clone_loss
from lwd.learner.divl import DivlConfig, value_loss
from lwd.learner.plan.activations import decoder_layers, vision_layers
from lwd.learner.plan.memory import gradient_items, gradients, state_items
from lwd.learner.plan.networks import shapes_of, size, sizes_named
from lwd.learner.plan.work import Evaluations, Job, rl_terms, sft_terms, terms
from lwd.learner.qam import QamConfig, adjoint_matching_loss
from lwd.models.vla.config import DUMMY, critic_dummy
from lwd.models.vla.gemma import Gemma
from lwd.models.vla.gemma3 import Gemma3
from lwd.models.vla.layers import KeysValues
from lwd.models.vla.siglip import Siglip
from lwd.transition import Observation

H, A, P, PROMPT, BATCH, STEPS = 6, 4, 8, 96, 2, 3
KEY = jax.random.key(0)
Shape = jax.ShapeDtypeStruct


def networks(remat=False, depth=None):
    """Dummy size with one camera, which is quicker to compile; `depth` replaces that of every stack."""
    policy, critic = (
        replace(sizes, remat=remat, cameras=("front",)) for sizes in sizes_named("dummy", H, A, P)
    )
    if depth is not None:

        def cut(stack):
            return replace(stack, depth=depth)

        policy = replace(
            policy, vision=cut(policy.vision), language=cut(policy.language), expert=cut(policy.expert)
        )
        critic = replace(critic, vision=cut(critic.vision), language=cut(critic.language))
    return shapes_of(policy, critic)


def job(stage, remat=False, batch=BATCH):
    return Job(stage=stage, batch=batch, policy_batch=batch, remat=remat, lora_rank=0, prompt_tokens=PROMPT)


def batch_shapes(nets, size):
    batch = vla_case.random_batch(nets.policy_config, nets.critic_config, size, PROMPT)
    return jax.tree.map(lambda x: Shape(x.shape, x.dtype), batch)


def traced(nets, stage, flow_steps):
    """The program of one learner step, without what nobody reads."""
    state = eqx.filter_eval_shape(vla_case.start, nets.policy, nets.critic, stage)
    given = (state, nets.policy, batch_shapes(nets, BATCH))
    shapes, rest = eqx.partition(given, lambda x: isinstance(x, Shape))

    def run(shapes, key):
        state, reference, batch = eqx.combine(shapes, rest)
        moved = vla_case.learner_step(state, reference, batch, key, stage=stage, flow_steps=flow_steps)
        return eqx.filter(moved, eqx.is_array)

    program = jax.make_jaxpr(run)(shapes, KEY).jaxpr
    return partial_eval.dce_jaxpr(program, [True] * len(program.outvars))[0]


def product_flops(program):
    """Matrix products of a program, those in loops as often as they run."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            total += 2 * int(depth) * equation.outvars[0].aval.size
            continue
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * product_flops(inner)
    return total


@pytest.mark.parametrize(
    ("stage", "remat", "flow_steps"),
    [("sft", True, STEPS), ("offline", False, STEPS), ("online", True, 8)],
)
def test_flops_are_those_of_the_program(stage, remat, flow_steps):
    """Every matrix product of the traced learner step, within 0.3 %; the more flow steps, the more the velocities weigh."""
    nets = networks(remat)
    expected = product_flops(traced(nets, stage, flow_steps))
    found = sum(term.flops for term in terms(nets, job(stage, remat), flow_steps))
    assert found == pytest.approx(expected, rel=0.003)


def test_velocities_are_evaluated_as_often_as_the_loss_does():
    """One path of QAM, with policies that count."""
    counts = {"policy": 0, "reference": 0}

    def count(who):
        counts[who] += 1

    class Counted(NamedTuple):
        who: str

        def encode(self, observation):
            return observation.proprio

        def velocity(self, context, a, w):
            jax.debug.callback(lambda _: count(self.who), w)
            return 0.1 * a

    class Critic:
        def encode(self, observation):
            return observation.proprio

        def value_logits(self, z):
            raise AssertionError("the policy's loss asks for no value")

        def q(self, z, chunk):
            return jnp.stack([chunk.sum(), chunk.sum()])

    steps = 5
    seen = Observation(jnp.zeros(1), jnp.zeros(1), {})
    config = QamConfig(flow_steps=steps)
    adjoint_matching_loss(
        Counted("policy"), Counted("reference"), Critic(), seen, jnp.zeros((steps, 2, 3)), config
    )
    jax.effects_barrier()
    plan = Evaluations.of(steps)
    assert counts == {"policy": plan.path, "reference": plan.last + plan.reference + plan.adjoint}


# ---- XLA, at dummy size ----------------------------------------------------------------------------------------------


def compiled_gradient(loss, module, *others):
    shapes, rest = eqx.partition((module, others), lambda x: isinstance(x, Shape))

    def gradient(shapes, key):
        module, others = eqx.combine(shapes, rest)
        return eqx.filter_grad(loss)(module, *others, key)

    return jax.jit(gradient).lower(shapes, KEY).compile()


@pytest.fixture(scope="module")
def flow_matching():
    """XLA's program of the SFT stage's gradient at a batch of 8."""
    nets = networks()
    return compiled_gradient(clone_loss, nets.policy, batch_shapes(nets, 8))


@pytest.fixture(scope="module")
def value_fit():
    """XLA's program of the value's gradient at a batch of 8."""
    nets = networks()
    return compiled_gradient(
        lambda critic, target, batch, _: value_loss(critic, target, batch, DivlConfig())[0],
        nets.critic,
        nets.critic,
        batch_shapes(nets, 8),
    )


def test_xla_counts_a_loop_once():
    """Why the tests below compare with one layer of each stack."""
    step = Shape((5, 16, 16), jnp.float32)
    loop = jax.jit(lambda x, w: jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w)[0])
    cost = loop.lower(Shape((8, 16), jnp.float32), step).compile().cost_analysis()
    assert cost["flops"] == pytest.approx(2 * 8 * 16 * 16, rel=0.05)


def test_flops_of_flow_matching_are_xlas(flow_matching):
    """XLA adds norms, softmax and activations, which at this width are up to 15 % of the products."""
    found = sum(term.flops for term in sft_terms(networks(depth=1), job("sft", batch=8)))
    assert 1.0 <= flow_matching.cost_analysis()["flops"] / found < 1.15


def test_flops_of_the_value_are_xlas(value_fit):
    labels, fit, *_ = rl_terms(networks(depth=1), job("offline", batch=8), Evaluations.of(STEPS))
    assert 1.0 <= value_fit.cost_analysis()["flops"] / (labels.flops + fit.flops) < 1.15


@pytest.mark.parametrize(
    ("name", "stage", "what"), [("flow_matching", "sft", "policy"), ("value_fit", "offline", "value")]
)
def test_memory_is_xlas(request, name, stage, what):
    """XLA's buffers at a batch of 8, gradient included, are within a factor of 1.35 of the account."""
    memory = request.getfixturevalue(name).memory_analysis()
    found = next(g for g in gradients(networks(), job(stage, batch=8), STEPS) if g.what == what)
    account = sum(item.size for item in gradient_items(networks(), found, 1))
    ratio = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / account
    assert 1 / 1.35 < ratio < 1.35


# ---- what autodiff keeps ---------------------------------------------------------------------------------------------


def kept_by_jax(function, *given):
    """Bytes that `jax.vjp` keeps beside what it was given, and beside copies of weights."""
    shapes, rest = eqx.partition(given, lambda x: isinstance(x, Shape))
    back = jax.eval_shape(
        lambda shapes: jax.tree.leaves(jax.vjp(lambda s: function(*eqx.combine(s, rest)), shapes)[1]), shapes
    )
    owned = Counter((x.shape, x.dtype) for x in jax.tree.leaves(shapes))
    weights = {x.shape for x in jax.tree.leaves(shapes) if len(x.shape) > 2 and x.shape[0] == DEPTH}
    total = 0
    for x in back:
        if owned[x.shape, x.dtype]:
            owned[x.shape, x.dtype] -= 1
        elif x.shape not in weights:
            total += x.size * x.dtype.itemsize
    return total


DEPTH, TOKENS = 48, 144


def tower(c, remat):
    config = replace(DUMMY.vision, image=112, width=48, mlp=80, depth=DEPTH)
    module = eqx.filter_eval_shape(Siglip.init, KEY, config)
    kept = kept_by_jax(
        lambda m, x: m(x, c, remat).astype(jnp.float32).sum(), module, Shape((112, 112, 3), jnp.float32)
    )
    return kept, vision_layers(config, 1, jnp.dtype(c).itemsize, at_once=True)


def backbone(c, remat):
    config = replace(DUMMY.language, width=48, mlp=160, depth=DEPTH)
    module = eqx.filter_eval_shape(Gemma.init, KEY, config)

    def run(m, x):
        mask = jnp.ones((TOKENS, TOKENS), bool)
        _, present = m(x.astype(c), jnp.arange(TOKENS), mask, remat=remat)
        return sum(part.astype(jnp.float32).sum() for part in present)

    kept = kept_by_jax(run, module, Shape((TOKENS, 48), jnp.float32))
    return kept, decoder_layers(config, TOKENS, TOKENS, jnp.dtype(c).itemsize)


def expert(c, remat):
    own, config = 96, replace(DUMMY.expert, width=48, mlp=160, depth=DEPTH)
    module = eqx.filter_eval_shape(Gemma.init, KEY, config, 32)

    def run(m, x, keys, values, condition):
        mask = jnp.ones((own, TOKENS + own), bool)
        past = KeysValues(keys, values)
        y, _ = m(x.astype(c), jnp.arange(own), mask, past=past, condition=condition, remat=remat)
        return y.astype(jnp.float32).sum()

    past = Shape((DEPTH, TOKENS, 1, 16), jnp.dtype(c))
    kept = kept_by_jax(run, module, Shape((own, 48), jnp.float32), past, past, Shape((32,), jnp.float32))
    return kept, decoder_layers(config, own, TOKENS + own, jnp.dtype(c).itemsize)


def third(c, remat):
    config = replace(critic_dummy(H, A, P).language, width=48, mlp=160, depth=DEPTH)
    module = eqx.filter_eval_shape(Gemma3.init, KEY, config)

    def run(m, x):
        mask = jnp.ones((TOKENS, TOKENS), bool)
        return m(x.astype(c), jnp.arange(TOKENS), mask, remat).astype(jnp.float32).sum()

    kept = kept_by_jax(run, module, Shape((TOKENS, 48), jnp.float32))
    return kept, decoder_layers(config, TOKENS, TOKENS, jnp.dtype(c).itemsize)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("stack", [tower, backbone, expert, third])
def test_what_the_backward_pass_keeps_is_jaxs(stack, compute, remat):
    """Within 10 %."""
    expected, layers = stack(compute, remat)
    assert layers.kept(remat) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("stage", ["sft", "offline"])
def test_state_is_the_learners(stage):
    """Parameters, moments and averages to the byte, but for the step counters of the optimisers."""
    nets = networks()
    state = eqx.filter_eval_shape(vla_case.start, nets.policy, nets.critic, stage)
    statistics = 2 * P * 4
    counters = size(state) - sum(
        item.size for item in state_items(nets, job(stage), 1) if not item.what.startswith("reference")
    )
    assert 0 <= counters <= 24 + statistics
