"""An experiment whose model is a VLA: cloned, trained offline and online, published and driven by the fleet's own code."""

import shutil
import threading
from dataclasses import replace
from multiprocessing import Pipe

import jax.numpy as jnp
import numpy as np
import pytest
import toy_fleet

from lwd.errors import ConfigError, SnapshotError
from lwd.fleet.acting import fleet_driver
from lwd.fleet.folder import open_services
from lwd.fleet.learner import run_learner
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.offline import first_state, train_offline, train_sft
from lwd.fleet.policies import find_snapshot, load_policy, load_reference, model_config
from lwd.fleet.process import ProcessContext
from lwd.fleet.services import open_replay
from lwd.fleet.statistics import check_statistics, demonstration_normalizer
from lwd.fleet.traces import value_traces
from lwd.learner.trainable import Trainable
from lwd.log.codec import decode
from lwd.models.normalizer import Normalizer
from lwd.models.vla.networks import VlaModel
from lwd.models.vla.pi05 import PiPolicy

pytestmark = pytest.mark.usefixtures("quick_compilation")

TOY = toy_fleet.experiment(model=VlaModel(policy=toy_fleet.VLA, flow_steps=3))
EXPERT = replace(TOY.offline.learner, trainable=Trainable(policy="expert", shared_prefix=True))
TOY = replace(
    TOY,
    clone=replace(TOY.clone, steps=10),
    offline=replace(TOY.offline, learner=EXPERT, critic_steps=0, steps=5),
    online=replace(TOY.online, learner=EXPERT),
)


@pytest.fixture
def told_to_stop():
    stop = threading.Event()
    stop.set()
    receive, send = Pipe(duplex=False)
    yield ProcessContext("learner", stop, send)
    receive.close()


def test_all_stages_and_the_robots(trained_copy, told_to_stop, console):
    for stage in ("sft", "offline"):
        shutil.rmtree(trained_copy.checkpoints(stage))
    with open_services(trained_copy) as services:
        train_sft(TOY, services, console)
        train_offline(TOY, services, console)
    run_learner(told_to_stop, TOY, trained_copy)
    rows = read_metrics(trained_copy.metrics("online"))
    assert rows
    assert not [key for row in rows for key, value in row.items() if value is None]

    driver = fleet_driver(TOY)
    with open_services(trained_copy) as services:
        newest = {stage: find_snapshot(services, stage) for stage in ("sft", "offline", "online")}
        policies = {stage: load_policy(TOY, services, s.number)[0] for stage, s in newest.items()}
        episode = decode(services.objects.get(next(iter(services.catalogue.episodes(source="demo"))).key))
        state = first_state(TOY, EXPERT, load_reference(TOY, services))
        with pytest.raises(SnapshotError, match="holds a PiPolicy"):
            load_policy(toy_fleet.experiment(), services, newest["online"].number)
        elsewhere = replace(TOY, model=replace(TOY.model, statistics="mean_std"))
        with pytest.raises(SnapshotError, match="has statistics 'quantile', this fleet has 'mean_std'"):
            load_policy(elsewhere, services, newest["online"].number)
    for stage, policy in policies.items():
        assert isinstance(policy, PiPolicy)
        driver.load(newest[stage].number, policy)
        assert newest[stage].meta["model"] == "pi05"
        np.testing.assert_array_equal(policy.tokens, policies["sft"].tokens)  # the backbone is frozen
    assert np.any(policies["online"].action_out.weight != policies["sft"].action_out.weight)
    assert len({s.meta["normalizer"] for s in newest.values()}) == 1

    def chunk(instruction, proprio):
        return driver.act(
            np.array([proprio], np.float32),
            [instruction],
            [newest["online"].number],
            np.array([7], np.int64),
            np.array([0], np.int64),
        )

    first = chunk("Walk far.", [0.2, 0.3])
    assert first.shape == (1, 4, 2)
    assert np.any(first != chunk("Walk a little.", [0.2, 0.3]))  # both reach the policy through the prompt
    assert np.any(first != chunk("Walk far.", [1.4, 0.3]))
    traces = value_traces(TOY, state.critic, [episode], TOY.offline.learner.divl)
    assert np.isfinite(traces[0]["quantile"]).all()


def test_the_replay_fills_the_prompts_of_both_observations(trained):
    with open_replay(TOY, trained, "prompts") as (replay, reader):
        reader.refresh()
        networks = model_config(TOY)
        normalizer = demonstration_normalizer(replay.view(), networks.statistics)
        prompts = networks.prompts(type("HasNormalizer", (), {"normalizer": normalizer}))
        sampler = replay.sampler(replay.view(), TOY.offline.mixture, 3, prompts)
        drawn = sampler.draw(2, 2, 5)
        plain = replay.sampler(replay.view(), TOY.offline.mixture, 3).draw(2, 2, 5)
        assert plain.observation.prompts is None
        np.testing.assert_array_equal(plain.chunk, drawn.chunk)
        # Row [1, 4] by hand: bytes are ids + 3 behind the begin, the state in bins of 256 on [-1, 1].
        for seen in (drawn.observation, drawn.next_observation):
            ids = seen.prompts["bytes"]
            assert ids.shape == (2, 5, 56)
            text = bytes(int(i) - 3 for i in ids[1, 4] if i > 2).decode()
            state = (seen.proprio[1, 4] - np.asarray(normalizer.mean)) / np.asarray(normalizer.scale)
            bins = [str(int(np.floor((min(max(s, -1.001), 0.999) + 1) * 128))) for s in state]
            sentences = ["Walk a little.", "Walk far."]
            assert text in [f"Task: {s}, State: {' '.join(bins)};\nAction: " for s in sentences]


def test_quantile_statistics_by_hand(trained):
    with open_replay(TOY, trained, "quantiles") as (replay, reader):
        reader.refresh()
        view = replay.view()
        quantile, standard = (demonstration_normalizer(view, kind) for kind in ("quantile", "mean_std"))
        demos = [decode(trained.objects.get(row.key)) for row in trained.catalogue.episodes(source="demo")]
        rows = np.concatenate([episode.proprio[: episode.steps] for episode in demos])
        low, high = np.quantile(rows, (0.01, 0.99), axis=0)
        np.testing.assert_allclose(quantile(jnp.asarray(low, jnp.float32)), -1.0, atol=1e-4)
        np.testing.assert_allclose(quantile(jnp.asarray(high, jnp.float32)), 1.0, atol=1e-4)
        for fits in (quantile, standard):
            check_statistics(fits, view)
        for off in (
            Normalizer(standard.mean * 1000.0 + 100.0, standard.scale),
            Normalizer(standard.mean, standard.scale / 1000.0),
        ):
            with pytest.raises(ConfigError, match=r"statistics do not fit the demonstrations .*proprio 0"):
                check_statistics(off, view)
        with pytest.raises(ConfigError, match="of 3 proprio coordinates, the demonstrations have 2"):
            check_statistics(Normalizer.identity(3), view)


def test_published_formula_of_quantiles():
    x, low, high = np.float32([0.5, 3.0]), np.float32([0.0, 1.0]), np.float32([2.0, 1.0])
    published = 2.0 * (x - low) / (high - low + 1e-6) - 1.0
    found = Normalizer.quantiles(jnp.asarray(low), jnp.asarray(high))(jnp.asarray(x))
    np.testing.assert_allclose(found, np.clip(published, -10, 10), rtol=1e-4)
