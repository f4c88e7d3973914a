"""Camera -> JPEG -> MCAP -> coordinator -> manifest -> replay -> batch -> policy, and what is stopped on the way."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import seeing_fleet

from lwd import image
from lwd.episode import Source
from lwd.fleet.acting import PolicyDriver
from lwd.fleet.collect import collect
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.services import open_replay
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
