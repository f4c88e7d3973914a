"""A disk that is full when an episode is given up costs nothing once there is space again, without a restart."""

import errno

import pytest
from log_cases import make_episode, make_header, open_fleet

from lwd.errors import StoreError
from lwd.log import codec


def test_what_was_torn_on_a_full_disk_is_delivered_when_there_is_space(tmp_path, monkeypatch):
    episode = make_episode(8)
    with open_fleet(tmp_path) as fleet, fleet.client() as client:
        recording = client.begin(make_header())
        for k in range(8):
            recording.step(episode.proprio[k], episode.actions[k], False, float(episode.times_s[k]), {})
        full = OSError(errno.ENOSPC, "No space left on device")

        def refuse(fd: int) -> None:
            raise full

        monkeypatch.setattr("lwd.log.spool.os.fsync", refuse)
        with pytest.raises(StoreError, match="No space left"):
            recording.abort()
        assert client.deliver() == 0  # still full: kept, and no error
        monkeypatch.undo()
        assert client.deliver() == 1
        assert client.deliver() == 0
        fleet.drain()
        (row,) = fleet.catalogue.episodes()
        assert (row.episode_id, row.outcome) == (recording.path.stem, "unjudged")
        assert codec.decode(fleet.objects.get(row.key)).steps == row.steps >= 7
        assert not [path for path in recording.path.parent.iterdir() if path.suffix in (".part", ".mcap")]
