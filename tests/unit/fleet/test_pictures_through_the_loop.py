"""Camera -> JPEG -> MCAP -> coordinator -> manifest -> replay -> batch -> policy, and what is stopped on the way."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import seeing_fleet

from lwd import image
from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.fleet.acting import PolicyDriver
from lwd.fleet.collect import collect
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.services import open_replay
from lwd.fleet.traces import read_trace
from lwd.learner.divl import DivlConfig
from lwd.models.protocols import ChunkSampler
from lwd.replay.mixture import demonstrations


def test_from_the_camera_to_the_batch(tmp_path, console):
    x = seeing_fleet.experiment()
    with open_services(RunFolder(tmp_path / "run")) as services:
        collect(x, services, (Source.DEMO,), console)
        accepted = services.catalogue.episodes()
        refused = services.catalogue.quarantined()
        assert sorted(row.seed % 4 for row in accepted) == [0, 0, 3, 3]
        assert [row.reason for row in refused] == ["shape"] * 4
        details = sorted(row.detail for row in refused)
        assert sum("camera 'eye' has" in detail for detail in details) == 2  # a picture is missing
        assert sum("picture 3 of camera eye is 16 x 8, its spec says 8 x 16" in d for d in details) == 2
        with open_replay(x, services, "learner") as (replay, reader):
            assert reader.refresh() == replay.manifest > 0
            batch = replay.sampler(replay.view(), demonstrations(), 0).draw(0, 2, 8)
            replay.store.verify()
    for seen in (batch.observation, batch.next_observation):
        assert {name: p.shape for name, p in seen.images.items()} == {"eye": (2, 8, 12, 12, 3)}
        shown = seen.images["eye"][:, :, 3:9].mean(
            (-1, -2, -3)
        )  # 8 x 16 becomes 6 x 12, three rows of black around
        expected = np.vectorize(seeing_fleet.shade)(seen.proprio[..., 0])
        assert np.abs(shown - expected).max() < 3
        assert not seen.images["eye"][:, :, :3].any()


class Looks(eqx.Module):
    """A policy that answers with the brightness that it sees."""

    gain: jax.Array

    def sample(self, observation, key, chunk_shape, flow_steps):
        return jnp.full(chunk_shape, self.gain * observation.images["eye"].astype(jnp.float32).mean())


def test_the_policy_sees_what_the_replay_would_have_shown():
    policy = Looks(jnp.array(1.0))
    assert isinstance(policy, ChunkSampler)
    driver = PolicyDriver(
        lambda text: np.zeros(2, np.float32), (4, 2), 1, pad_to=3, cameras=(seeing_fleet.EYE,), image_side=12
    )
    driver.load(-1, policy)
    shades = [10, 200, 90, 250, 30]
    jpegs = [image.encode(np.full((8, 16, 3), s, np.uint8)) for s in shades]
    chunks = driver.act(
        np.zeros((5, 2), np.float32),
        ["go"] * 5,
        [-1] * 5,
        np.arange(5),
        np.zeros(5, np.int64),
        {"eye": jpegs},
    )
    expected = [image.prepare(jpeg, 8, 16, 12).mean() for jpeg in jpegs]
    np.testing.assert_allclose(chunks[:, 0, 0], expected, rtol=1e-4)


class Judges(eqx.Module):
    """A value that is the brightness that it sees, and certain."""

    support: jax.Array

    def encode(self, observation):
        return jnp.atleast_1d(observation.images["eye"].astype(jnp.float32).mean() / 255.0)

    def value_logits(self, seen):
        return -((50.0 * (self.support - seen[0])) ** 2)


def test_the_value_along_an_episode_sees_its_pictures():
    """Every fourth control step begins a chunk of four: the value there is the brightness of that step's picture."""
    x, divl = seeing_fleet.experiment(), DivlConfig(atoms=101)
    shades = np.arange(10) * 20
    header = EpisodeHeader(
        task="far",
        instruction="Walk far.",
        source=Source.ONLINE,
        robot="r",
        spec="seeing-line",
        control_hz=10.0,
        snapshot=1,
        software="lwd",
    )
    episode = Episode(
        header=header,
        verdict=Verdict(outcome=Outcome.FAILURE, stage_score=0.0),
        proprio=np.zeros((10, 2), np.float32),
        actions=np.zeros((9, 2), np.float32),
        interventions=np.zeros(9, bool),
        times_s=np.arange(10) / 10.0,
        images={"eye": [image.encode(np.full((8, 16, 3), shade, np.uint8)) for shade in shades]},
    )
    trace = read_trace(x, Judges(divl.support()), episode, divl)
    assert trace["times_s"] == [0.0, 0.4, 0.8]
    # The square picture has a quarter of its rows black above and below: half of its brightness counts.
    np.testing.assert_allclose(trace["quantile"], shades[[0, 4, 8]] / 255.0 / 2, atol=0.03)
