"""Meshes: what is split how, the same numbers on any mesh, and one device exactly as without a mesh."""

import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resumable_run as toy
import sharded_run as program

from lwd.errors import ConfigError
from lwd.fleet.training import own
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.placement import Placement, Rule, listed, placements
from lwd.learner.sharding import Layout, MeshConfig
from lwd.learner.stages import run_block
from lwd.models.arrays import named_leaves, to_arrays

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.timeout(600)]

DEVICES = 8


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((), None),
        ((64,), 0),
        ((6,), None),  # below `smallest`
        ((12, 8), 0),
        ((8, 12), 1),
        ((16, 16), 1),  # the last of equals
        ((9, 8), 1),  # 4 does not divide the larger
        ((9, 7), None),
        ((2, 5, 64), 2),  # heads in front
        ((8, 0), None),
    ],
)
def test_the_largest_axis_that_can_be_split_is(shape, axis):
    assert Rule(4, smallest=8).axis(shape) == axis


def test_nothing_is_split_without_fsdp():
    assert Rule(1, smallest=1).axis((64, 64)) is None


def test_the_list_adds_up_and_the_optimiser_follows_its_parameters():
    """By hand: [16, 8] float32 is 512 bytes, 128 of them per device; 3 floats are copied."""

    class Net(eqx.Module):
        weight: jax.Array
        bias: jax.Array

    rule = Rule(4, smallest=8)
    shapes = eqx.filter_eval_shape(lambda: Net(jnp.zeros((16, 8)), jnp.zeros(3)))
    found = placements(shapes, rule)
    assert found == [
        Placement("weight", (16, 8), "float32", 0, 512, 128),
        Placement("bias", (3,), "float32", None, 12, 12),
    ]
    assert listed(found, rule)[0] == "weight  float32 [16, 8]  axis 0 over 4  128 B"
    assert listed(found, rule)[-1] == "total 524 B, per device 140 B, of which 12 B are copied"

    state, _ = toy.start()
    axes = {p.name: p.axis for p in placements(state, rule)}
    moments = [name for name in axes if name.startswith("policy_opt") and ".mu." in name]
    assert moments
    for name in moments:
        assert axes[name] == axes["policy." + name.split(".mu.")[1]], name
        assert axes[name] == axes[name.replace(".mu.", ".nu.")]


def test_a_mesh_must_make_up_the_devices():
    with pytest.raises(ConfigError, match=r"data 2 x fsdp 1 does not make up the 1 devices"):
        Layout(MeshConfig(data=2), jax.devices()[:1])
    with pytest.raises(ConfigError, match="at least 1"):
        MeshConfig(fsdp=0)


def test_one_device_gives_exactly_the_numbers_of_no_mesh_and_takes_only_its_own_copy():
    layout = Layout(MeshConfig(smallest=program.SMALLEST), jax.devices()[:1])
    state, reference = toy.start()
    update, key = program.STAGES["rl"](reference), jax.random.key(5)
    kept = {name: array.copy() for name, array in to_arrays(state).items()}
    plain, plain_metrics = run_block(update, own(state), program.stacked(), key)
    meshed, metrics = layout.run_block(
        layout.place(update), layout.place(state), program.stacked(), layout.place(key)
    )
    expected, found = to_arrays(plain), to_arrays(meshed)
    assert [name for name in expected if expected[name].tobytes() != found[name].tobytes()] == []
    assert {k: float(v) for k, v in metrics.items()} == {k: float(v) for k, v in plain_metrics.items()}
    assert all(np.array_equal(kept[name], array) for name, array in to_arrays(state).items())
    assert layout.rows(16) == slice(0, 16)
    assert layout.whole(meshed) is not None


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The folder that the program wrote with eight devices, which have to exist before JAX is imported."""
    folder = tmp_path_factory.mktemp("eight")
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    with (folder / "log").open("wb") as out:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", str(Path(program.__file__)), str(folder)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdout=out,
            stderr=out,
            timeout=580,  # kills with SIGKILL: a hang must not outlive the test
        )
    assert ended.returncode == 0, (folder / "log").read_text()[-3000:]
    return folder


@pytest.mark.parametrize(
    ("stage", "mesh"), [(stage, mesh) for stage, meshes in program.RUNS.items() for mesh in meshes[1:]]
)
def test_eight_devices_learn_what_one_learns(eight, stage, mesh):
    one, many = np.load(eight / f"{stage}-one.npz"), np.load(eight / f"{stage}-{mesh}.npz")
    assert one.files == many.files
    for name in one.files:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-5, atol=2e-6, err_msg=name)
    # What was compared has moved: Adam's first steps are as long as the learning rate.
    before = to_arrays(toy.start()[0])
    moved = np.abs(one["state/critic.heads.out.weight"] - before["critic.heads.out.weight"]).max()
    assert moved > 1000 * 2e-6


def test_both_kinds_of_splitting_took_place(eight):
    split = (eight / "split.txt").read_text().splitlines()
    assert "policy.hidden.0.weight" in split
    assert "critic.heads.layers.0.weight" in split
    assert [name for name in split if name.startswith("critic_opt") and ".mu." in name]
    assert "step" not in split
    assert "policy.normalizer.mean" not in split


def test_a_checkpoint_of_eight_devices_is_read_by_one(eight):
    checkpoints = Checkpoints(eight / "checkpoints")
    template, _ = toy.start()
    state, position = checkpoints.restore(template)
    checkpoints.close()
    assert position["manifest"] == 12
    assert int(state.step) == program.BLOCKS * program.STEPS
    expected = np.load(eight / "rl-both.npz")
    for name, leaf in named_leaves(state).items():
        assert np.asarray(leaf).tobytes() == expected[f"state/{name}"].tobytes(), name
        assert leaf.sharding.device_set == {jax.devices()[0]}
