"""Learner step and chunk sampling of the VLA with random weights: full size on a GPU of 70 GiB or more, dummy size without one.

Public figures beside it: 1.26 s per learner step at batch 8 per GPU on two GPUs of the B300 class (offline, pi0.5 with the
270M critic, 10 flow steps), and 349 ms for one chunk with three cameras and 10 flow steps in bfloat16 on an RTX 4090. Neither
machine is this one, and at dummy size the ratios to them would mean nothing and are left out.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.vla_case import learner_step, make_critic, make_policy, random_batch, start
from lwd.learner.flow import draw_chunk
from lwd.learner.plan.devices import DEVICES
from lwd.learner.plan.networks import PlannedShapes, Stage, shapes_of, sizes_named
from lwd.learner.plan.work import Job, terms
from lwd.models.vla.config import PiConfig, VlaCriticConfig
from lwd.models.vla.layers import cast

PUBLIC_STEP_S, PUBLIC_CHUNK_MS = 1.257, 349.0
CRITIC_PROMPT, REPEATS = 48, 5


@dataclass(frozen=True)
class Setting:
    """What is run on this machine."""

    model: str
    flow_steps: int
    batches: tuple[int, ...]
    chunk: tuple[int, int]
    stages: tuple[Stage, ...]
    full: bool


FULL = Setting("pi05", 10, (8, 32), (32, 14), ("sft", "offline", "online"), True)
DUMMY = Setting("dummy", 4, (2,), (6, 4), ("offline",), False)


def main() -> dict[str, float]:
    setting = FULL if _gpu_gib() >= 70 else DUMMY
    sizes = sizes_named(setting.model, setting.chunk[0], setting.chunk[1], 14)
    policy_config, critic_config = (replace(config, remat=setting.full) for config in sizes)
    results: dict[str, float] = {"full_size": float(setting.full), "gpus": float(_gpu_gib() > 0)}
    results |= _sampling(setting, policy_config)
    networks = shapes_of(policy_config, critic_config)
    for batch in setting.batches:
        for stage in setting.stages:
            seconds = _step_s(setting, stage, batch, policy_config, critic_config)
            name = f"{stage}_batch_{batch}"
            results[f"{name}_step_s"] = seconds
            results |= _utilisation(name, networks, stage, batch, setting, seconds)
            if setting.full and stage == "offline" and batch == 8:
                results[f"{name}_ratio_to_public_step"] = seconds / PUBLIC_STEP_S
        results[f"up_to_batch_{batch}_peak_memory_gib"] = _peak_gib()
    return results


def _step_s(
    setting: Setting, stage: Stage, batch: int, policy_config: PiConfig, critic_config: VlaCriticConfig
) -> float:
    """Best of a few learner steps after the one that compiles; the state is donated, as in the learner."""
    policy, critic = make_policy(policy_config, critic_config.proprio_dim), make_critic(critic_config)
    # A copy: a cast to the type that it has already would share buffers with the state, which are donated.
    reference = jax.tree.map(
        lambda x: jnp.copy(x) if eqx.is_array(x) else x,
        cast(policy, "bfloat16" if setting.full else "float32"),
    )
    state = start(policy, critic, stage)
    # The first policy's buffers now belong to the state, which the step gives back: nothing else may hold them.
    del policy, critic
    changing, still = eqx.partition(state, eqx.is_array)

    @partial(jax.jit, donate_argnums=0)
    def step(changing, reference, transitions, key):
        moved, metrics = learner_step(
            eqx.combine(changing, still),
            eqx.combine(reference, frame),
            transitions,
            key,
            stage=stage,
            flow_steps=setting.flow_steps,
        )
        return eqx.filter(moved, eqx.is_array), metrics

    weights, frame = eqx.partition(reference, eqx.is_array)
    transitions = jax.device_put(random_batch(policy_config, critic_config, batch, CRITIC_PROMPT))
    times = []
    for i in range(REPEATS + 1):
        began = time.perf_counter()
        changing, metrics = step(changing, weights, transitions, jax.random.key(i))
        jax.block_until_ready((changing, metrics))
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _sampling(setting: Setting, config: PiConfig) -> dict[str, float]:
    """One robot's chunk: three cameras, prefix once, then the flow; parameters in bfloat16 at full size."""
    policy = cast(make_policy(config, 14), "bfloat16" if setting.full else "float32")
    critic = sizes_named(setting.model, *setting.chunk, 14)[1]
    one = jax.tree.map(
        lambda x: jnp.asarray(x[0]), random_batch(config, critic, 1, CRITIC_PROMPT).observation
    )
    sample = eqx.filter_jit(partial(draw_chunk, chunk_shape=setting.chunk, flow_steps=setting.flow_steps))
    times = []
    for i in range(2 * REPEATS + 1):
        began = time.perf_counter()
        jax.block_until_ready(sample(policy, one, jax.random.key(i)))
        times.append(1000 * (time.perf_counter() - began))
    best = min(times[1:])
    found = {
        "chunk_ms": best,
        "chunk_cameras": float(len(config.cameras)),
        "flow_steps": float(setting.flow_steps),
    }
    return found | ({"chunk_ratio_to_public_4090": best / PUBLIC_CHUNK_MS} if setting.full else {})


def _utilisation(
    name: str, networks: PlannedShapes, stage: Stage, batch: int, setting: Setting, seconds: float
) -> dict[str, float]:
    """FLOP of the account per second, and on a known GPU their share of its peak; recomputed ones do not count."""
    job = Job(
        stage=stage,
        batch=batch,
        policy_batch=batch,
        remat=setting.full,
        lora_rank=0,
        prompt_tokens=CRITIC_PROMPT,
    )
    flops = sum(term.model_flops for term in terms(networks, job, setting.flow_steps))
    found = {f"{name}_model_tflops_per_s": flops / seconds / 1e12}
    kind = jax.devices()[0].device_kind.lower()
    peaks = [device.flops for key, device in DEVICES.items() if key.split("-")[0] in kind.replace(" ", "")]
    return found | ({f"{name}_model_flop_utilisation": flops / seconds / peaks[0]} if peaks else {})


def _gpu_gib() -> float:
    """Memory of the first GPU; 0 without one."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        return 0.0
    return (device.memory_stats() or {}).get("bytes_limit", 0) / 0.75 / 2**30


def _peak_gib() -> float:
    """The most that this process has held so far: on the GPU where there is one, otherwise in RAM."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    # Where the checkout's git is not at hand (a lent GPU): python -m benchmarks.bench_vla_step
    import json

    print(json.dumps(main(), indent=2))
