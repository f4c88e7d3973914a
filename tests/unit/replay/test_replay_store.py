from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lwd.errors import EpisodeError, StoreError
from lwd.instruction import InstructionEncoder
from lwd.replay import Replay, ReplayConfig, demonstrations, offline_rl
from lwd.replay.files import ArrayFile
from lwd.replay.table import ROW
from lwd.spec import CameraSpec
from tests.unit.replay.replay_cases import INSTRUCTION, SPEC, TASKS, A, P, make_episode

New = Callable[..., Replay]


def names(replay: Replay) -> list[str]:
    return [name.decode() for name in replay.store.episodes["episode_id"]]


def test_what_goes_in_comes_out(new_replay: New) -> None:
    replay = new_replay()
    assert replay.manifest == 0
    assert replay.view().steps == 0
    first, second = (
        make_episode(5, mark=0.25),
        make_episode(9, "failure", source="online", task="tea", human=[3]),
    )
    assert replay.add(first)
    assert replay.add(second)
    view = replay.view()
    assert (view.manifest, view.steps, len(view.episodes)) == (2, 14, 2)
    assert view.episodes["first"].tolist() == [0, 6]
    assert view.columns.proprio.shape == (16, P)
    np.testing.assert_array_equal(view.columns.proprio[:6], first.proprio)
    np.testing.assert_array_equal(view.columns.proprio[6:], second.proprio)
    np.testing.assert_array_equal(view.columns.actions[6:15], second.actions)
    np.testing.assert_array_equal(view.columns.actions[15], second.actions[-1])
    row = view.episodes[1]
    assert (int(row["snapshot"]), int(row["human_steps"]), int(row["task"]), float(row["seconds"])) == (
        7,
        1,
        1,
        0.45,
    )
    assert int(view.episodes[0]["snapshot"]) == -1
    np.testing.assert_array_equal(
        view.instructions[row["instruction"]], InstructionEncoder()(INSTRUCTION["tea"])
    )
    replay.store.verify()


def test_an_episode_counts_once(new_replay: New) -> None:
    replay = new_replay()
    episode = make_episode(5)
    assert replay.add(episode)
    assert not replay.add(episode)
    assert (replay.store.count, replay.manifest) == (1, 1)
    assert episode.header.episode_id in replay.store


def test_a_view_does_not_change_when_the_store_grows(new_replay: New) -> None:
    replay = new_replay()
    for index in range(70):
        replay.add(make_episode(3 + index % 5, mark=index / 100))
    view, before = replay.view(), replay.view().episodes.copy()
    for _ in range(200):
        replay.add(make_episode(4))
    again = replay.view(70)
    assert len(view.episodes) == len(again.episodes) == 70
    np.testing.assert_array_equal(view.episodes, before)
    np.testing.assert_array_equal(again.episodes, before)
    np.testing.assert_array_equal(view.columns.proprio, again.columns.proprio[: view.steps + 70])
    with pytest.raises(ValueError, match="read-only"):
        view.columns.proprio[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        view.episodes["steps"][0] = 1
    with pytest.raises(StoreError, match="Manifest 271 is not in the replay"):
        replay.view(271)


def test_reopening_finds_everything(new_replay: New) -> None:
    replay = new_replay()
    for index in range(5):
        replay.add(make_episode(6 + index, task="tea" if index % 2 else "pick", mark=index / 10))
    batch = replay.sampler(replay.view(), offline_rl(), 3).draw(11, 2, 8)
    ids = names(replay)
    replay.store.flush()
    replay.close()
    replay.close()
    again = new_replay()
    assert (names(again), again.manifest, again.store.instructions) == (
        ids,
        5,
        ("pick the cube", "make the tea"),
    )
    resumed = again.sampler(again.view(), offline_rl(), 3).draw(11, 2, 8)
    np.testing.assert_array_equal(batch.observation.proprio, resumed.observation.proprio)
    np.testing.assert_array_equal(batch.chunk, resumed.chunk)
    np.testing.assert_array_equal(batch.observation.instruction, resumed.observation.instruction)
    assert again.add(make_episode(4))
    assert again.view().steps == 6 + 7 + 8 + 9 + 10 + 4


@pytest.mark.parametrize("stage", ["steps", "half a row", "garbage row", "instruction"])
def test_a_torn_append_is_invisible_and_overwritten(new_replay: New, tmp_path: Path, stage: str) -> None:
    replay = new_replay()
    kept, torn = make_episode(6, mark=0.5), make_episode(9, mark=-0.5, task="tea")
    replay.add(kept)
    before = {path.name: path.read_bytes() for path in (tmp_path / "replay").iterdir()}
    replay.add(torn)
    replay.close()
    # As a crash leaves it: the steps written, the table row not, or not whole.
    table = (tmp_path / "replay" / "episodes.table").read_bytes()
    size = ROW.itemsize
    cut = {"half a row": table[: size + size // 2], "garbage row": table[:size] + bytes(size)}.get(
        stage, table[:size]
    )
    (tmp_path / "replay" / "episodes.table").write_bytes(cut)
    if stage == "instruction":
        (tmp_path / "replay" / "instructions.jsonl").write_bytes(before["instructions.jsonl"] + b'"make th')
    again = new_replay()
    assert names(again) == [kept.header.episode_id]
    assert torn.header.episode_id not in again.store
    other = make_episode(4, mark=0.125, task="box")
    assert again.add(other)
    assert again.add(torn)
    view = again.view()
    again.store.verify()
    np.testing.assert_array_equal(view.columns.proprio[7:12], other.proprio)
    np.testing.assert_array_equal(view.columns.proprio[12:22], torn.proprio)
    sentences = [again.store.instructions[index] for index in view.episodes["instruction"]]
    assert sentences == ["pick the cube", "pack the box", "make the tea"]
    again.close()
    assert names(new_replay()) == [e.header.episode_id for e in (kept, other, torn)]


def test_a_process_killed_while_it_appends_loses_nothing_that_it_had_appended(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        from tests.unit.replay.replay_cases import *
        from lwd.instruction import InstructionEncoder
        from lwd.replay import Replay, ReplayConfig
        replay = Replay({str(tmp_path / "r")!r}, SPEC, TASKS, InstructionEncoder(), ReplayConfig())
        for i in range(10**9):
            replay.add(make_episode(50 + i % 7, mark=0.5, episode_id=f"e{{i:09d}}"))
            print(i, flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(300)]
    process.kill()
    rest = process.stdout.read()
    process.stdout.close()
    process.wait()
    said = int((lines + rest.split("\n")[:-1])[-1])
    replay = Replay(tmp_path / "r", SPEC, TASKS, InstructionEncoder(), ReplayConfig())
    replay.store.verify()
    assert said + 1 <= replay.store.count <= said + 2
    assert names(replay) == [f"e{i:09d}" for i in range(replay.store.count)]
    replay.close()


def test_data_that_never_reached_the_disk_is_dropped_from_the_end(new_replay: New, tmp_path: Path) -> None:
    replay = new_replay()
    for index in range(3):
        replay.add(make_episode(6, mark=index / 10))
    replay.close()
    file = tmp_path / "replay" / "proprio.f32"
    file.write_bytes(
        file.read_bytes()[: 7 * P * 4] + bytes(7 * P * 4)
    )  # the second zeroed, the third missing
    again = new_replay()
    assert again.store.count == 1
    assert again.add(make_episode(5))
    again.store.verify()


def test_damage_further_back_is_found_by_verify(new_replay: New, tmp_path: Path) -> None:
    replay = new_replay()
    for index in range(3):
        replay.add(make_episode(6, mark=index / 10))
    replay.close()
    file = tmp_path / "replay" / "proprio.f32"
    file.write_bytes(bytes([1]) + file.read_bytes()[1:])
    again = new_replay()
    again.store.verify(last=2)
    with pytest.raises(StoreError, match="damaged on disk"):
        again.store.verify()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"actions": np.zeros((5, A + 1), np.float32)}, "shape"),
        ({"proprio": np.zeros((5, P), np.float32)}, "shape"),
        ({"interventions": np.zeros(6, np.bool_)}, "shape"),
        ({"times_s": np.zeros(5)}, "shape"),
        ({"proprio": np.full((6, P), np.nan, np.float32)}, "nan"),
        ({"actions": np.full((5, A), np.inf, np.float32)}, "nan"),
        ({"header.spec": "other"}, "spec"),
        ({"header.task": "pikc"}, "task"),
        ({"header.episode_id": "x" * 65}, "schema"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(
    new_replay: New, change: dict[str, object], reason: str
) -> None:
    replay = new_replay()
    episode = make_episode(5)
    header = {key[7:]: value for key, value in change.items() if key.startswith("header.")}
    fields = {key: value for key, value in change.items() if not key.startswith("header.")}
    bad = dataclasses.replace(episode, header=dataclasses.replace(episode.header, **header), **fields)
    with pytest.raises(EpisodeError) as caught:
        replay.add(bad)
    assert caught.value.reason == reason
    assert (replay.store.count, replay.manifest) == (0, 0)
    assert replay.add(episode)


def test_an_empty_episode_is_refused(new_replay: New) -> None:
    with pytest.raises(EpisodeError, match="T >= 1"):
        new_replay().add(make_episode(0))


def test_a_folder_serves_one_process_and_one_robot_kind(new_replay: New, tmp_path: Path) -> None:
    replay = new_replay()
    with pytest.raises(StoreError, match="in use by another replay"):
        new_replay()
    replay.close()
    with pytest.raises(StoreError, match="was written for"):
        new_replay(spec=dataclasses.replace(SPEC, chunk_steps=9))
    with pytest.raises(StoreError, match="was written for"):
        new_replay(tasks=TASKS[::-1])
    new_replay(tasks=TASKS[:2], name="other").close()
    new_replay(tasks=TASKS, name="other").close()  # a task more at the end is fine
    with pytest.raises(StoreError, match="was written for"):
        new_replay(tasks=TASKS[:2], name="other")
    meta = tmp_path / "replay" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        new_replay()


def test_numbers_go_forward_only(new_replay: New) -> None:
    store = new_replay().store
    store.append(make_episode(3), 10, 2)
    with pytest.raises(StoreError, match="forward only"):
        store.append(make_episode(3), 10, 2)
    with pytest.raises(StoreError, match="forward only"):
        store.append(make_episode(3), 11, 1)


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    file = ArrayFile(full, "<f4", (3,))
    with pytest.raises(StoreError, match=r"cannot append to .*No space left"):
        file.write(0, np.ones((2, 3), np.float32))
    file.close()


def anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_the_arrays_are_not_held_in_memory(new_replay: New) -> None:
    spec = dataclasses.replace(SPEC, proprio_dim=2000)
    replay = new_replay(spec=spec)
    episode = make_episode(500, spec=spec)  # 4 MB
    replay.add(episode)
    before = anonymous_kib()
    for index in range(40):
        replay.add(
            dataclasses.replace(episode, header=dataclasses.replace(episode.header, episode_id=f"e{index}"))
        )
    sampler = replay.sampler(replay.view(), demonstrations(), 0)
    for step in range(20):
        sampler.draw(step, 1, 256)
    assert replay.store.rows * 2000 * 4 > 160e6
    assert anonymous_kib() - before < 30_000


def jpeg(value: int, height: int = 8, width: int = 12) -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


def test_pictures(new_replay: New) -> None:
    cameras = (CameraSpec(name="head", height=8, width=12), CameraSpec(name="hand", height=4, width=4))
    spec = dataclasses.replace(SPEC, cameras=cameras)
    replay = new_replay(spec=spec)
    for base in (0, 100):
        images = {
            "head": [jpeg(base + 10 * t) for t in range(7)],
            "hand": [jpeg(base + 5 + 10 * t, 4, 4) for t in range(7)],
        }
        episode = dataclasses.replace(make_episode(6, mark=base / 100), images=images)
        with pytest.raises(EpisodeError, match="'hand' has 6 pictures, expected 7"):
            replay.add(dataclasses.replace(episode, images={**images, "hand": images["hand"][:6]}))
        with pytest.raises(EpisodeError, match="'head' has 0 pictures"):
            replay.add(dataclasses.replace(episode, images={}))
        assert replay.add(episode)
    replay.close()
    replay = new_replay(spec=spec)
    batch = replay.sampler(replay.view(), demonstrations(), 0).draw(0, 2, 5)
    for seen in (batch.observation, batch.next_observation):
        assert seen.images["head"].shape == (2, 5, 8, 12, 3)
        assert seen.images["hand"].shape == (2, 5, 4, 4, 3)
        value = seen.proprio[..., 0] * 100 + seen.proprio[..., 1] * 10
        assert np.abs(seen.images["head"].mean((-1, -2, -3)) - value).max() < 2
        assert np.abs(seen.images["hand"].mean((-1, -2, -3)) - value - 5).max() < 2
    wrong = {"head": [jpeg(1, 9, 9)] * 7, "hand": [b"no jpeg"] * 7}
    replay.add(dataclasses.replace(make_episode(6, "failure"), images=wrong))
    spans = replay.view().columns.pictures
    with pytest.raises(StoreError, match="9 x 9, its spec says 8 x 12"):
        replay.store.pictures("head", spans["head"][-1:])
    with pytest.raises(StoreError, match="cannot be decoded"):
        replay.store.pictures("hand", spans["hand"][-1:])


def test_gamma_is_checked() -> None:
    from lwd.errors import ConfigError

    for gamma in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="gamma must lie in"):
            ReplayConfig(gamma=gamma)
