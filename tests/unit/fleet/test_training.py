"""A stage's loop: one line of metrics per block, the last block cut to fit, waiting for data measured."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwd.errors import ConfigError
from lwd.fleet.metrics_log import MetricsLog, read_metrics
from lwd.fleet.statistics import SCALE_FLOOR, demonstration_normalizer
from lwd.fleet.training import Hooks, StageRun, own
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.stages import LoopConfig
from lwd.replay.sampler import Sampler
from lwd.transition import Observation, Transition

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Counter(eqx.Module):
    """A state that notes which learner steps it saw."""

    step: jax.Array
    total: jax.Array


def zero():
    return Counter(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))


def count_up(state, batch, key):
    return Counter(state.step + 1, state.total + batch.reward.mean()), {"toy/reward": batch.reward.mean()}


@pytest.fixture
def run(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=10)
    with MetricsLog(tmp_path / "metrics.jsonl") as metrics:
        seen = []
        made = StageRun(
            "offline",
            seed=3,
            loop=LoopConfig(block_steps=4, checkpoint_every_blocks=2),
            metrics=metrics,
            checkpoints=checkpoints,
            progress=lambda step, numbers: seen.append((step, numbers)),
        )
        made.seen, made.path = seen, tmp_path / "metrics.jsonl"
        yield made
    checkpoints.close()


class Steps(Sampler):
    """Writes the learner step into the reward."""

    def __init__(self):
        self.manifest = 5

    def draw(self, step, count, batch, rows=slice(None)):
        ones = np.ones((count, batch), np.float32)
        reward = ones * np.arange(step, step + count, dtype=np.float32)[:, None]
        seen = Observation(ones[..., None], ones[..., None], {})
        return Transition(
            observation=seen,
            chunk=ones[..., None, None],
            valid=ones[..., None] > 0,
            reward=reward,
            discount=ones,
            next_observation=seen,
            intervention=ones > 1,
            exemplary=ones > 0,
            task=ones.astype(np.int32),
        )


@pytest.fixture
def sampler():
    return Steps()


def test_one_line_per_block_and_a_last_short_block(run, sampler):
    state = run.train(count_up, own(zero()), sampler, batch=2, until_step=11)
    assert int(state.step) == 11
    assert float(state.total) == sum(range(11))
    rows = read_metrics(run.path)
    assert [row["learner_step"] for row in rows] == [4, 8, 11]
    # Means over the steps of each block; the short one is 8, 9, 10.
    assert [row["toy/reward"] for row in rows] == [1.5, 5.5, 9.0]
    assert [step for step, _ in run.seen] == [4, 8, 11]
    for row in rows:
        assert row["stage"] == "offline"
        assert 0.0 <= row["replay/wait_fraction"] <= 1.0
    assert [row["time_s"] for row in rows] == sorted(row["time_s"] for row in rows)


def test_checkpoints_come_every_few_blocks_and_at_the_end(run, sampler):
    run.train(count_up, own(zero()), sampler, batch=2, until_step=11)
    run.checkpoints.close()
    folder = run.checkpoints.folder
    assert sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) == [8, 11]
    run.checkpoints = Checkpoints(folder)
    again = run.restore(own(zero()))
    assert int(again.step) == 11


def test_told_to_stop_it_saves_and_begins_no_further_block(run, sampler):
    told = []
    run.hooks = Hooks(should_stop=lambda: len(told) >= 2, tell=told.append, steps_before=100)
    state = run.train(count_up, own(zero()), sampler, batch=2, until_step=11)
    assert told == [100, 104]
    assert run.stopped
    assert int(state.step) == 4
    assert run.checkpoints.latest_step() == 4, "no block's work is lost, though it would not be saved yet"
    assert [row["learner_step"] for row in read_metrics(run.path)] == [4]
    again = run.train(count_up, state, sampler, batch=2, until_step=20)
    assert int(again.step) == 4


def test_two_stages_of_one_run_follow_one_another(run, sampler):
    """Stage 2 trains the critic alone first: the second call goes on where the first stopped."""
    state = run.train(count_up, own(zero()), sampler, batch=2, until_step=6)
    state = run.train(count_up, state, sampler, batch=2, until_step=11)
    assert float(state.total) == sum(range(11))
    assert [row["learner_step"] for row in read_metrics(run.path)] == [4, 6, 10, 11]


def test_nothing_is_done_where_everything_is_done(run, sampler):
    state = run.train(count_up, own(zero()), sampler, batch=2, until_step=8)
    again = run.train(count_up, state, sampler, batch=2, until_step=8)
    assert float(again.total) == sum(range(8))
    assert len(read_metrics(run.path)) == 2


def test_a_checkpoint_of_another_stage_or_seed_is_refused(run, sampler):
    run.train(count_up, own(zero()), sampler, batch=2, until_step=4)
    run.stage = "sft"
    with pytest.raises(
        ConfigError, match="checkpoint of stage 'offline' with seed 3 cannot resume stage 'sft'"
    ):
        run.restore(own(zero()))
    run.stage, run.seed = "offline", 4
    with pytest.raises(ConfigError, match="with seed 4; use another run directory"):
        run.restore(own(zero()))


def test_without_a_checkpoint_the_run_starts_from_the_state_given(run):
    start = zero()
    begun = run.restore(start)
    assert int(begun.step) == 0
    assert begun.step is not start.step, "training donates the state, so it gets its own copy"


def test_the_normaliser_takes_mean_and_scale_of_the_demonstrations_alone(trained):
    from toy_fleet import experiment

    from lwd.fleet.services import open_replay
    from lwd.log.codec import decode

    demos = [decode(trained.objects.get(row.key)) for row in trained.catalogue.episodes(source="demo")]
    rows = np.concatenate([episode.proprio[: episode.steps] for episode in demos])
    with open_replay(experiment(), trained, "normaliser") as (replay, reader):
        reader.refresh()
        normalizer = demonstration_normalizer(replay.view())
        with pytest.raises(ConfigError, match="manifest 0 holds no demonstration"):
            demonstration_normalizer(replay.view(0))
    np.testing.assert_allclose(normalizer.mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.scale, np.maximum(rows.std(axis=0), SCALE_FLOOR), rtol=1e-5)
