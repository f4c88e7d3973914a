"""Acting: an episode's chunks depend on its own seed, its chunk index and its snapshot; not on who is asked with it."""

import jax
import numpy as np
import pytest
import toy_fleet

from lwd.errors import RobotError
from lwd.fleet.acting import PolicyDriver, fleet_driver
from lwd.fleet.policies import model_config
from lwd.instruction import InstructionEncoder
from lwd.models.mlp import MlpPolicy, Normalizer
from lwd.robot.sim.run import ActBatch

TEXTS = ("Walk a little.", "Walk far.")


@pytest.fixture(scope="module")
def policies():
    """Two policies of a usual width, whose products are large enough to be cut into blocks."""
    from dataclasses import replace

    x = toy_fleet.experiment()
    config = model_config(replace(x, model=replace(x.model, width=64)))
    return [MlpPolicy.init(jax.random.key(i), config, Normalizer.identity(2)) for i in range(2)]


@pytest.fixture
def driver(policies):
    made = PolicyDriver(InstructionEncoder(dim=8), (4, 2), flow_steps=3, pad_to=5)
    made.load(1, policies[0])
    made.load(2, policies[1])
    return made


def batch(rows, snapshots):
    rng = np.random.default_rng(0)
    proprio = rng.normal(size=(12, 2)).astype(np.float32)
    return ActBatch(
        robots=tuple(rows),
        proprio=proprio[rows],
        tasks=tuple("near" if r % 2 else "far" for r in rows),
        instructions=tuple(TEXTS[r % 2] for r in rows),
        snapshots=tuple(snapshots[r] for r in rows),
        seeds=np.array([10_000_000 + r for r in rows], np.int64),
        chunk_index=np.array([r % 3 for r in rows], np.int64),
    )


def test_chunks_do_not_depend_on_which_robots_are_batched_together(driver):
    """Bit for bit: alone, in pairs, shuffled, in one batch that needs several padded calls, under two snapshots."""
    snapshots = [1 + (r // 2) % 2 for r in range(12)]
    alone = [driver.act_batch(batch([r], snapshots))[0] for r in range(12)]
    rng = np.random.default_rng(1)
    for size in (2, 3, 5, 7, 12):
        rows = rng.permutation(12)[:size].tolist()
        chunks = driver.act_batch(batch(rows, snapshots))
        assert chunks.shape == (size, 4, 2)
        for r, chunk in zip(rows, chunks, strict=True):
            assert chunk.tobytes() == alone[r].tobytes(), (rows, r)


def test_each_robot_runs_the_snapshot_of_its_episode(driver, policies):
    ones, twos = [1] * 12, [2] * 12
    mixed = driver.act_batch(batch([0, 1, 2, 3], [1, 2, 2, 1]))
    first, second = driver.act_batch(batch([0, 1, 2, 3], ones)), driver.act_batch(batch([0, 1, 2, 3], twos))
    np.testing.assert_array_equal(mixed, [first[0], second[1], second[2], first[3]])
    assert not np.array_equal(first, second)


def test_seed_chunk_index_and_instruction_matter(driver):
    def chunk(seed=3, index=0, text=TEXTS[0]):
        row = np.zeros((1, 2), np.float32)
        return driver.act(row, [text], [1], np.array([seed], np.int64), np.array([index], np.int64))

    assert np.array_equal(chunk(), chunk())
    assert not np.array_equal(chunk(), chunk(seed=4))
    assert not np.array_equal(chunk(), chunk(index=1))
    assert not np.array_equal(chunk(), chunk(text=TEXTS[1]))


def test_a_snapshot_that_was_never_loaded_is_an_error_that_names_it(driver):
    with pytest.raises(RobotError, match=r"snapshots \[7\] drive robots .* never loaded"):
        driver.act_batch(batch([0, 1], [1, 7]))
    unnamed = batch([0], [None])
    with pytest.raises(RobotError, match=r"snapshots \[-1\]"):
        driver.act_batch(unnamed)


def test_snapshots_that_nobody_runs_are_forgotten(driver):
    driver.keep_only([2])
    with pytest.raises(RobotError, match=r"\[1\]"):
        driver.act_batch(batch([0], [1]))
    assert driver.act_batch(batch([0], [2])).shape == (1, 4, 2)


def test_the_fleets_driver_fits_its_robots():
    x = toy_fleet.experiment()
    driver = fleet_driver(x)
    config = model_config(x)
    driver.load(1, MlpPolicy.init(jax.random.key(0), config, Normalizer.identity(2)))
    assert driver.act_batch(batch([0, 1, 2, 3], [1] * 12)).shape == (4, 4, 2)
