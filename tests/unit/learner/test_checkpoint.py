"""Checkpoints: exact, of this model only, never half; and a killed run that goes on ends with the same numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.errors import CheckpointError
from lwd.learner.checkpoint import Checkpoints

PROGRAM = Path(__file__).with_name("resumable_run.py")
POSITION = {"stage": "offline", "seed": 3, "manifest": 12}


class Small(eqx.Module):
    step: jax.Array
    weight: jax.Array
    name: str = eqx.field(static=True, default="small")


def small(step=7, width=3):
    weight = np.random.default_rng(step).normal(size=(2, width)).astype(np.float32)
    return Small(jnp.asarray(step, jnp.int32), jnp.asarray(weight))


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints", keep=2)
    yield made
    made.close()


def reopened(checkpoints):
    checkpoints.close()
    return Checkpoints(checkpoints.folder)


def test_state_and_position_come_back_exactly(checkpoints):
    state = small()
    checkpoints.save(7, state, POSITION)
    back, position = reopened(checkpoints).restore(small(step=0))
    assert position == POSITION
    assert back.step.dtype == jnp.int32
    assert int(back.step) == 7
    assert np.asarray(back.weight).tobytes() == np.asarray(state.weight).tobytes()


def test_saving_copies_so_that_training_may_go_on_at_once(checkpoints):
    state = small()
    expected = np.array(state.weight)
    checkpoints.save(7, state, POSITION)
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
    back, _ = reopened(checkpoints).restore(small(step=0))
    np.testing.assert_array_equal(back.weight, expected)


def test_the_newest_is_read_unless_a_step_is_named_and_only_some_are_kept(checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, small(step), POSITION)
    again = reopened(checkpoints)
    assert again.latest_step() == 3
    assert int(again.restore(small())[0].step) == 3
    assert int(again.restore(small(), step=2)[0].step) == 2
    assert sorted(p.name for p in again.folder.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_saving_the_same_step_again_changes_nothing(checkpoints):
    """The end of a stage saves once more, whatever was saved before."""
    checkpoints.save(7, small(7), POSITION)
    checkpoints.save(7, small(8), POSITION)
    assert int(reopened(checkpoints).restore(small())[0].step) == 7


def test_without_a_checkpoint_the_error_says_so(checkpoints):
    assert checkpoints.latest_step() is None
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.restore(small())


def test_the_checkpoint_of_another_model_is_refused_and_the_leaf_named(checkpoints):
    checkpoints.save(7, small(width=3), POSITION)
    again = reopened(checkpoints)
    with pytest.raises(
        CheckpointError,
        match=r"7 in .* does not fit this run: weight: found float32 \(2, 3\), expected float32 \(2, 4\)\.",
    ):
        again.restore(small(width=4))

    class Other(eqx.Module):
        step: jax.Array
        head: jax.Array

    with pytest.raises(CheckpointError, match=r"this run: missing head \(3,\); unknown weight \(2, 3\)\."):
        again.restore(Other(jnp.zeros((), jnp.int32), jnp.zeros(3)))


def test_a_half_written_checkpoint_is_ignored(checkpoints):
    """Orbax writes into a folder with a temporary name and renames it when all of it is on disk."""
    checkpoints.save(5, small(5), POSITION)
    checkpoints.close()
    whole = checkpoints.folder / "5"
    half = checkpoints.folder / "9.orbax-checkpoint-tmp-0"
    shutil.copytree(whole, half)
    next(p for p in half.rglob("*") if p.is_file()).unlink()
    again = Checkpoints(checkpoints.folder)
    assert again.latest_step() == 5
    assert int(again.restore(small())[0].step) == 5
    again.close()


def start(folder, steps, pause_s=0.0):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(PROGRAM), str(folder), str(steps), str(pause_s)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    with process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return int(out.split("starts at ")[1].split()[0])


def metrics_by_step(folder):
    """The last line of each learner step: a resumed run repeats the blocks after its checkpoint."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    timing = ("time_s", "replay/wait_fraction")
    return {row["learner_step"]: {k: v for k, v in row.items() if k not in timing} for row in lines}


def test_a_killed_run_that_resumes_ends_with_the_same_numbers(tmp_path):
    """Six blocks and a short one, killed in the middle by SIGKILL, against the same without interruption: bit for bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(start(whole, 33)) == 0
    with start(killed, 33, pause_s=0.5) as victim:
        deadline = time.monotonic() + 120
        while not (killed / "checkpoints" / "10").exists():
            assert time.monotonic() < deadline
            assert victim.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL
    assert not (killed / "final.npz").exists()

    resumed_at = finish(start(killed, 33))
    assert resumed_at in (10, 20), "the second checkpoint may have been written before the signal"
    a, b = np.load(whole / "final.npz"), np.load(killed / "final.npz")
    assert set(a.files) == set(b.files)
    for name in a.files:
        assert a[name].tobytes() == b[name].tobytes(), name
    assert int(a["step"]) == 33
    uninterrupted, resumed = metrics_by_step(whole), metrics_by_step(killed)
    assert list(uninterrupted) == [5, 10, 15, 20, 25, 30, 33]
    for step in uninterrupted:
        if step > resumed_at:
            assert resumed[step] == uninterrupted[step], step
