"""Pictures from an episode into batches: as recorded or resized, whatever the threads, across crashes, in bounded memory."""

from __future__ import annotations

import dataclasses
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lwd import image
from lwd.episode import Episode
from lwd.errors import ConfigError, StoreError
from lwd.instruction import InstructionEncoder
from lwd.replay import Replay, ReplayConfig, demonstrations
from lwd.replay import images as pictures_module
from lwd.replay.images import PictureStore
from lwd.replay.prefetch import Prefetcher
from lwd.spec import CameraSpec
from tests.unit.replay.replay_cases import SPEC, TASKS, make_episode

HEAD, HAND = CameraSpec(name="head", height=8, width=12), CameraSpec(name="hand", height=16, width=16)
SEEING = dataclasses.replace(SPEC, name="seeing", cameras=(HEAD, HAND))
Open = Callable[..., Replay]


def jpeg(value: int, camera: CameraSpec) -> bytes:
    return image.encode(np.full((camera.height, camera.width, 3), value, np.uint8))


def seeing(T: int, base: int) -> Episode:
    """State t of episode `base` shows base + 3 t on the head camera and one more on the hand camera."""
    shown = {c.name: [jpeg(base + 3 * t + i, c) for t in range(T + 1)] for i, c in enumerate((HEAD, HAND))}
    return dataclasses.replace(make_episode(T, mark=base, spec=SEEING), images=shown)


@pytest.fixture
def open_replay(tmp_path: Path) -> Iterator[Open]:
    opened: list[Replay] = []

    def make(name: str = "replay", **config: object) -> Replay:
        settings = ReplayConfig(gamma=0.9, **config)  # type: ignore[arg-type]
        opened.append(Replay(tmp_path / name, SEEING, TASKS, InstructionEncoder(), settings))
        return opened[-1]

    yield make
    for replay in opened:
        replay.close()


def assert_shows_its_states(batch: object) -> None:
    for seen in (batch.observation, batch.next_observation):  # type: ignore[attr-defined]
        value = seen.proprio[..., 0] + 3 * seen.proprio[..., 1]
        for i, name in enumerate(("head", "hand")):
            middle = seen.images[name][..., 4, 4, :].mean(-1)
            assert np.abs(middle - value - i).max() <= 1.5


def test_a_batch_shows_the_states_that_it_holds(open_replay: Open) -> None:
    replay = open_replay()
    for base in (0, 50, 100):
        assert replay.add(seeing(6, base))
    batch = replay.sampler(replay.view(), demonstrations(), 0).draw(0, 3, 16)
    assert batch.observation.images["head"].shape == (3, 16, 8, 12, 3)
    assert batch.next_observation.images["hand"].shape == (3, 16, 16, 16, 3)
    assert_shows_its_states(batch)
    replay.store.verify()


def test_pictures_come_resized_with_padding(open_replay: Open) -> None:
    replay = open_replay(image_side=9)
    replay.add(seeing(6, 60))
    batch = replay.sampler(replay.view(), demonstrations(), 0).draw(0, 1, 8)
    assert {p.shape for p in batch.observation.images.values()} == {(1, 8, 9, 9, 3)}
    assert_shows_its_states(batch)
    head = batch.observation.images["head"]  # 8 x 12 becomes 6 x 9: one row of black above, two below
    assert not head[..., :1, :, :].any()
    assert not head[..., 7:, :, :].any()
    assert head[..., 1:7, :, :].all()
    with pytest.raises(ConfigError, match="image_side"):
        ReplayConfig(image_side=0)


def test_batches_are_the_same_whatever_the_threads(open_replay: Open, tmp_path: Path) -> None:
    replay = open_replay(decode_threads=1)
    for base in range(0, 100, 10):
        replay.add(seeing(5, base))
    one = replay.sampler(replay.view(), demonstrations(), 7).draw(4, 2, 32)
    replay.close()
    shutil.copytree(tmp_path / "replay", tmp_path / "copy")
    again = open_replay("copy", decode_threads=5)
    sampler = again.sampler(again.view(), demonstrations(), 7)
    with Prefetcher(sampler, step=4, count=1, batch=32) as prefetch:
        for i in range(2):
            group = prefetch.next().batch
            for name in ("head", "hand"):
                np.testing.assert_array_equal(
                    one.observation.images[name][i], group.observation.images[name][0]
                )
                np.testing.assert_array_equal(
                    one.next_observation.images[name][i], group.next_observation.images[name][0]
                )


def test_pictures_are_kept_as_recorded(open_replay: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one byte is encoded anew: an exotic but valid JPEG comes back from the disk as it is."""
    replay = open_replay()
    episode = seeing(2, 10)
    replay.add(episode)
    monkeypatch.setattr(image, "decode", lambda data, h, w, out: kept.append(bytes(data)))
    kept: list[bytes] = []
    places = replay.view().columns.pictures["head"]
    replay.store.pictures("head", places)
    assert sorted(kept) == sorted(episode.images["head"])


def test_a_torn_append_leaves_no_trace(open_replay: Open, tmp_path: Path) -> None:
    replay = open_replay()
    replay.add(seeing(4, 0))
    rows = (tmp_path / "replay" / "episodes.table").read_bytes()
    replay.add(seeing(7, 40))
    replay.close()
    (tmp_path / "replay" / "episodes.table").write_bytes(rows)  # as if it had died before the row
    again = open_replay()
    assert again.store.count == 1
    again.add(seeing(5, 90))
    batch = again.sampler(again.view(), demonstrations(), 0).draw(0, 1, 64)
    assert set(np.unique(batch.observation.proprio[..., 0])) == {0.0, 90.0}
    assert_shows_its_states(batch)
    again.store.verify()


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_an_episode_whose_pictures_did_not_reach_the_disk_is_fetched_again(
    open_replay: Open, tmp_path: Path, damage: str
) -> None:
    replay = open_replay()
    replay.add(seeing(4, 0))
    last = seeing(4, 40)
    replay.add(last)
    replay.close()
    path = PictureStore(tmp_path / "replay" / "pictures", SEEING.cameras).path(1)
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = open_replay()
    assert again.store.count == 1
    assert again.add(last)
    assert_shows_its_states(again.sampler(again.view(), demonstrations(), 0).draw(0, 1, 16))


def test_a_flipped_bit_is_an_error_and_not_a_picture(open_replay: Open, tmp_path: Path) -> None:
    replay = open_replay()
    replay.add(seeing(4, 0))
    replay.close()
    path = PictureStore(tmp_path / "replay" / "pictures", SEEING.cameras).path(0)
    data = bytearray(path.read_bytes())
    data[data.index(jpeg(6, HEAD)) + 300] ^= 1
    path.write_bytes(data)
    again = open_replay()
    with pytest.raises(StoreError, match="Delete the replay's folder"):
        again.sampler(again.view(), demonstrations(), 0).draw(0, 1, 64)
    with pytest.raises(StoreError, match="Delete the"):
        again.store.verify()


def test_a_folder_of_another_picture_format_is_refused(open_replay: Open, tmp_path: Path) -> None:
    open_replay().close()
    meta = tmp_path / "replay" / "meta.json"
    meta.write_text(meta.read_text().replace('"pictures": 1', '"pictures": 0'))
    with pytest.raises(StoreError, match="rebuilt from the log"):
        open_replay()


def test_a_closed_replay_says_so(open_replay: Open) -> None:
    replay = open_replay()
    replay.add(seeing(4, 0))
    sampler = replay.sampler(replay.view(), demonstrations(), 0)
    replay.close()
    with pytest.raises(StoreError, match="closed"):
        sampler.draw(0, 1, 4)


def test_more_pictures_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB of pictures drawn from many times over: few open files, nothing mapped, little memory."""
    monkeypatch.setattr(pictures_module, "OPEN_FILES", 6)
    store = PictureStore(tmp_path, (HEAD,), threads=3)
    small = jpeg(77, HEAD)
    comment = b"\xff\xfe" + (50_002).to_bytes(2) + bytes(50_000)
    heavy = small[:2] + comment + small[2:]
    for file in range(40):
        store.write(file, {"head": [heavy] * 20})
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.array_record")) > 40_000_000
    everything = np.stack(np.meshgrid(np.arange(40), np.arange(20), indexing="ij"), -1).reshape(-1, 2)
    store.read(everything[:50])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = store.read(everything[rng.integers(0, 800, 100)])["head"]
        assert np.abs(found.astype(int) - 77).max() <= 2
        assert store.open_files <= 6
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 16_000_000, grown
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    store.close()


def test_many_readers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than may stay open, read by several callers: each gets its own pictures."""
    monkeypatch.setattr(pictures_module, "OPEN_FILES", 2)
    store = PictureStore(tmp_path, (HEAD,), threads=4)
    for file in range(12):
        store.write(file, {"head": [jpeg(20 * file + t, HEAD) for t in range(3)]})
    wrong: list[float] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(10):
            places = np.stack([rng.integers(0, 12, 30), rng.integers(0, 3, 30)], -1)
            shown = store.read(places)["head"].mean((1, 2, 3))
            wrong.append(float(np.abs(shown - 20 * places[:, 0] - places[:, 1]).max()))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 30
    assert max(wrong) <= 2
    store.close()
