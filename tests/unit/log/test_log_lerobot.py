"""LeRobot data sets become episodes to the last bit, or say what is wrong with them; written ones can be read again."""

import dataclasses
import json
from pathlib import Path

import lerobot_files as files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_files import recorded, write_2, write_3
from log_cases import SPEC, TASK, Fleet, jpeg, make_episode, open_fleet

from lwd import image
from lwd.episode import Outcome, Source
from lwd.errors import ConfigError, EpisodeError, UnknownNameError
from lwd.log.lerobot import write
from lwd.log.lerobot.convert import Converter, Reading
from lwd.log.lerobot.layout import open_dataset
from lwd.log.lerobot.statistics import of_numbers, of_pictures
from lwd.log.lerobot.write import export_lerobot
from lwd.log.validate import validate
from lwd.spec import CameraSpec

TASKS = {TASK.name: TASK}
CAMERA = CameraSpec(name="top", height=24, width=32)
SEEING = dataclasses.replace(SPEC, name="seeing", cameras=(CAMERA,))
SUCCESS = Reading(outcome=Outcome.SUCCESS)


def converter(root, reading=SUCCESS, spec=SPEC, tasks=TASKS):
    return Converter(open_dataset(root), reading, spec, tasks)


def episodes(root, reading=SUCCESS, spec=SPEC, tasks=TASKS):
    made = converter(root, reading, spec, tasks)
    return [made.episode(entry) for entry in made.dataset.entries]


# ---- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write_it", [write_2, write_3])
def test_every_frame_but_the_last_is_a_control_step(tmp_path, write_it):
    recordings = [recorded(5, 1), recorded(7, 2)]
    found = episodes(write_it(tmp_path / "set", recordings))
    for episode, was in zip(found, recordings, strict=True):
        assert episode.steps == len(was.state) - 1
        np.testing.assert_array_equal(episode.proprio, was.state)
        np.testing.assert_array_equal(episode.actions, was.action[:-1])
        np.testing.assert_allclose(episode.times_s, np.arange(len(was.state)) * 0.1, rtol=1e-12)
        assert episode.interventions.all(), "in a demonstration a person commands every step"
        assert (episode.header.task, episode.header.instruction) == ("drawer", "open the drawer")
        assert (episode.header.source, episode.header.snapshot) == (Source.DEMO, None)
        assert (episode.verdict.outcome, episode.verdict.stage_score) == (Outcome.SUCCESS, 1.0)
        validate(episode, {SPEC.name: SPEC}, TASKS)
    assert len({episode.header.episode_id for episode in found}) == 2


def test_the_two_formats_give_the_same_ids_and_so_does_reading_twice(tmp_path):
    recordings = [recorded(5, 1), recorded(7, 2)]
    two, three = write_2(tmp_path / "2", recordings), write_3(tmp_path / "3", recordings[::-1])
    names = [[e.header.episode_id for e in episodes(root)] for root in (two, three, two)]
    assert names[0] == names[2] == names[1][::-1]
    changed = recorded(5, 1)
    changed.action[3, 0] += np.float32(1e-3)
    assert episodes(write_2(tmp_path / "4", [changed]))[0].header.episode_id not in names[0]


def test_limits_scale_actions_and_an_action_beyond_them_is_an_error(tmp_path):
    was = recorded(3)
    was.action[:] = [[0.0, 10.0, -2.0], [1.0, 30.0, 2.0], [0.5, 20.0, 0.0]]
    root = write_3(tmp_path / "set", [was])
    scaled = dataclasses.replace(SUCCESS, low=(0.0, 10.0, -4.0), high=(1.0, 30.0, 4.0))
    (episode,) = episodes(root, scaled)
    np.testing.assert_allclose(episode.actions, [[-1, -1, -0.5], [1, 1, 0.5]], atol=1e-7)
    one = dataclasses.replace(SUCCESS, low=(-40.0,), high=(40.0,))
    np.testing.assert_allclose(episodes(root, one)[0].actions[1], [0.025, 0.75, 0.05], atol=1e-7)
    with pytest.raises(
        EpisodeError, match=r"action\[1\] goes from 10 to 30, expected -1 to 1; --low and --high"
    ):
        episodes(root)
    with pytest.raises(ConfigError, match=r"--low has 2 numbers, expected 1 or 3"):
        converter(root, dataclasses.replace(SUCCESS, low=(0.0, 1.0), high=(1.0,)))
    with pytest.raises(ConfigError, match="--low must be below --high"):
        converter(root, dataclasses.replace(SUCCESS, low=(1.0,), high=(1.0,)))


def test_outcomes_and_interventions_are_the_data_sets_where_it_has_them(tmp_path):
    win = {
        "next.success": np.array([False, False, False, True]),
        "intervention": np.array([0, 1, 1, 0], bool),
    }
    lose = {"next.success": np.zeros(4, bool), "intervention": np.zeros(4, bool)}
    root = write_3(tmp_path / "set", [recorded(4, 1, **win), recorded(4, 2, **lose)])
    found = episodes(root, Reading(source=Source.ROLLOUT))
    assert [(e.verdict.outcome, e.verdict.stage_score) for e in found] == [
        (Outcome.SUCCESS, 1.0),
        (Outcome.FAILURE, 0.0),
    ]
    assert [e.interventions.tolist() for e in found] == [[False, True, True], [False] * 3]
    with pytest.raises(ConfigError, match=r"has no next\.success\. Say it: --outcome"):
        converter(write_3(tmp_path / "silent", [recorded(4)]), Reading())


def test_a_state_is_put_together_from_features_in_their_order(tmp_path):
    was = recorded(4, gripper=np.array([[0.1], [0.2], [0.3], [0.4]], np.float32))
    wide = dataclasses.replace(SPEC, proprio_dim=7)
    both = dataclasses.replace(SUCCESS, state=("gripper", "observation.state"))
    (episode,) = episodes(write_3(tmp_path / "set", [was]), both, wide)
    np.testing.assert_array_equal(episode.proprio, np.concatenate([was.more["gripper"], was.state], axis=1))
    counted = dataclasses.replace(SUCCESS, state=("frame_index", "observation.state"))
    edit_info(
        tmp_path / "set",
        features=info(tmp_path / "set")["features"] | {"frame_index": {"dtype": "int64", "shape": [1]}},
    )
    assert episodes(tmp_path / "set", counted, wide)[0].proprio[:, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(EpisodeError, match=r"observation\.state has 6 numbers, robot 'arm' has 7"):
        episodes(tmp_path / "set", SUCCESS, wide)


@pytest.mark.parametrize(
    ("write_it", "codec"), [(write_2, None), (write_3, "libx264"), (write_3, "libsvtav1")]
)
def test_a_video_gives_each_frame_its_own_picture(tmp_path, write_it, codec):
    recordings = [recorded(9, 1), recorded(12, 5)]
    name = "observation.images.top"
    root = write_it(tmp_path / "set", recordings, name, *([codec] if codec else []))
    for episode, was in zip(episodes(root, spec=SEEING), recordings, strict=True):
        pictures = episode.images["top"]
        assert len(pictures) == len(was.state)
        for picture, colour in zip(pictures, was.colours, strict=True):
            middle = image.decode(picture, 24, 32)[8:16, 8:24].reshape(-1, 3).mean(axis=0)
            np.testing.assert_allclose(
                middle, colour, atol=8
            )  # neighbours differ by 9 and 8: no frame is another's
        validate(episode, {SEEING.name: SEEING}, TASKS)


def test_pictures_in_the_table_are_kept_byte_for_byte_where_they_fit(tmp_path):
    root = write_3(tmp_path / "set", [recorded(3)])
    fitting, larger = [jpeg(24, 32, i) for i in range(3)], [jpeg(48, 64, i) for i in range(3)]
    for column in (fitting, larger):
        add_pictures(root, column)
        (episode,) = episodes(root, dataclasses.replace(SUCCESS, cameras={"top": "cam"}), SEEING)
        assert (list(episode.images["top"]) == column) is (column is fitting)
        shades = [image.decode(picture, 24, 32)[..., 0].mean() for picture in episode.images["top"]]
        np.testing.assert_allclose(shades, [0, 9, 18], atol=3)
    add_pictures(root, [jpeg(48, 48)] * 3)
    with pytest.raises(
        EpisodeError, match=r"pictures of cam are 48 x 48, camera top is 24 x 32, which has other prop"
    ):
        episodes(root, dataclasses.replace(SUCCESS, cameras={"top": "cam"}), SEEING)
    add_pictures(root, [b"\xff\xd8\xff and nothing else"] * 3)
    with pytest.raises(EpisodeError, match="a picture of cam cannot be decoded"):
        episodes(root, dataclasses.replace(SUCCESS, cameras={"top": "cam"}), SEEING)


def add_pictures(root: Path, pictures: list[bytes]) -> None:
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    column = pa.array([{"bytes": picture, "path": "x.png"} for picture in pictures])
    table = table.drop_columns(["cam"]) if "cam" in table.column_names else table
    pq.write_table(table.append_column("cam", column), path)
    edit_info(root, features=info(root)["features"] | {"cam": {"dtype": "image", "shape": [24, 32, 3]}})


# ---- what is refused -------------------------------------------------------------------------------------------------


def info(root: Path) -> dict:
    return json.loads((root / "meta/info.json").read_text())


def edit_info(root: Path, **changes) -> None:
    (root / "meta/info.json").write_text(json.dumps(info(root) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codebase_version": "v1.6"}, r"codebase_version is 'v1\.6'; v2\.0, v2\.1, v3\.0 can be read"),
        ({"fps": 0}, "fps is 0, expected frames per second"),
        ({"fps": 30}, "has 30 frames a second, robot 'arm' 10 control steps"),
        ({"features": []}, "features is no table"),
        ({"data_path": "../../{file_index}.parquet"}, "leads out of the data set"),
        ({"data_path": "/etc/passwd"}, "leads out of the data set"),
        ({"data_path": "{chunk_index.__class__}"}, "cannot be read"),
        ({"data_path": "{secret}"}, "known in it: chunk_index, file_index"),
        ({"data_path": 3}, "expected a pattern"),
    ],
)
def test_an_info_that_does_not_fit_is_refused_by_name(tmp_path, changes, said):
    root = write_3(tmp_path / "set", [recorded(4)])
    edit_info(root, **changes)
    with pytest.raises(ConfigError, match=said):
        episodes(root)


def test_a_folder_that_is_none_and_damaged_files_say_so(tmp_path):
    with pytest.raises(ConfigError, match=r"is no LeRobot data set: it has no meta/info\.json"):
        open_dataset(tmp_path)
    root = write_3(tmp_path / "set", [recorded(4)])
    data = root / "data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"file-000\.parquet cannot be read"):
        episodes(root)
    (root / "meta/info.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        open_dataset(root)


def test_names_that_do_not_exist_are_refused_with_those_that_do(tmp_path):
    root = write_3(tmp_path / "set", [recorded(4)])
    with pytest.raises(UnknownNameError, match=r"'observation\.sate'.* Did you mean 'observation\.state'"):
        converter(root, dataclasses.replace(SUCCESS, state=("observation.sate",)))
    with pytest.raises(UnknownNameError, match=r"unknown feature of .* 'observation\.images\.top'"):
        converter(root, spec=SEEING)
    with pytest.raises(ConfigError, match=r"feature action of .* is no picture"):
        converter(root, dataclasses.replace(SUCCESS, cameras={"top": "action"}), SEEING)
    with pytest.raises(UnknownNameError, match="unknown camera 'wrist'"):
        converter(root, dataclasses.replace(SUCCESS, cameras={"wrist": "action"}), SEEING)
    with pytest.raises(UnknownNameError, match="unknown task 'drawr'"):
        converter(root, dataclasses.replace(SUCCESS, tasks={"drawr": "open it"}))


def test_sentences_mean_the_fleets_tasks_or_are_listed(tmp_path):
    other = dataclasses.replace(TASK, name="door", instruction="close the door")
    tasks = {TASK.name: TASK, "door": other}
    root = write_3(tmp_path / "set", [recorded(4, 1, "Open  the drawer."), recorded(4, 2, "shut it")])
    with pytest.raises(
        ConfigError, match=r"task is 'shut it', which is none of the fleet's \(drawer='open the drawer'; "
    ):
        converter(root, tasks=tasks)
    named = dataclasses.replace(SUCCESS, tasks={"door": "shut it"})
    found = episodes(root, named, tasks=tasks)
    assert [(e.header.task, e.header.instruction) for e in found] == [
        ("drawer", "open the drawer"),
        ("door", "close the door"),
    ]


def test_frames_and_pictures_that_are_missing_are_not_made_up(tmp_path):
    root = write_3(tmp_path / "set", [recorded(4, 1), recorded(5, 2)])
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 7), path)
    made = converter(root)
    made.episode(made.dataset.entries[0])
    with pytest.raises(
        EpisodeError, match=r"episode 1: truncated: .* has 3 frames of it, expected the frames 0 to 4"
    ):
        made.episode(made.dataset.entries[1])
    short = recorded(6)
    short.colours = short.colours[:4]
    with pytest.raises(EpisodeError, match=r"has no picture of .*top for frame 4 at 0\.400 s"):
        episodes(write_3(tmp_path / "video", [short], "observation.images.top"), spec=SEEING)
    with pytest.raises(EpisodeError, match="it has 1 frames, expected at least 2"):
        episodes(write_3(tmp_path / "one", [recorded(1)]))


def test_vectors_of_several_lengths_and_text_are_no_state(tmp_path):
    ragged = np.empty(4, object)
    ragged[:] = [[1.0], [1.0, 2.0], [1.0], [1.0]]
    for number, values in enumerate((ragged, np.array(["a", "b", "c", "d"]))):
        root = write_3(tmp_path / str(number), [recorded(4, extra=values)])
        with pytest.raises(EpisodeError, match="extra is no vector of numbers per frame"):
            episodes(root, dataclasses.replace(SUCCESS, state=("extra",)))


# ---- what is written -------------------------------------------------------------------------------------------------


def exported(fleet: Fleet, folder: Path, **options):
    report = export_lerobot(fleet.catalogue, fleet.objects, folder, **options)
    frames = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("data/*/*.parquet"))])
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    return report, frames, rows


def test_a_data_set_holds_what_was_recorded(fleet, tmp_path):
    sent = [make_episode(4, seed=1), make_episode(6, seed=2, source=Source.DEMO, snapshot=None)]
    sent[1] = dataclasses.replace(
        sent[1], verdict=dataclasses.replace(sent[1].verdict, outcome=Outcome.FAILURE)
    )
    for episode in sent:
        fleet.send_episode(episode)
    fleet.drain()
    report, frames, rows = exported(fleet, tmp_path / "set")
    assert (report.episodes, report.problems) == (2, ())
    assert report.size == sum(path.stat().st_size for path in (tmp_path / "set").rglob("*") if path.is_file())
    column = {name: frames.column(name).to_pylist() for name in frames.column_names}
    expected = {
        "observation.state": np.concatenate([e.proprio[:-1] for e in sent]).tolist(),
        "action": np.concatenate([e.actions for e in sent]).tolist(),
        "intervention": np.concatenate([e.interventions for e in sent]).tolist(),
        "next.reward": [0, 0, 0, 1] + [0] * 6,
        "next.success": [False] * 3 + [True] + [False] * 6,
        "next.done": [False] * 3 + [True] + [False] * 5 + [True],
        "frame_index": [*range(4), *range(6)],
        "episode_index": [0] * 4 + [1] * 6,
        "index": list(range(10)),
        "task_index": [0] * 10,
    }
    assert {name: column[name] for name in expected} == expected
    np.testing.assert_allclose(column["timestamp"], [*(np.arange(4) / 10), *(np.arange(6) / 10)], rtol=1e-6)
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in rows] == [
        (0, 4, 4),
        (4, 10, 6),
    ]
    assert [row["lwd/episode_id"] for row in rows] == [e.header.episode_id for e in sent]
    assert [(row["lwd/source"], row["lwd/outcome"], row["lwd/snapshot"]) for row in rows] == [
        ("online", "success", 3),
        ("demo", "failure", None),
    ]
    said = info(tmp_path / "set")
    assert (said["total_episodes"], said["total_frames"], said["fps"], said["robot_type"]) == (
        2,
        10,
        10,
        "arm",
    )
    assert set(said["features"]) == set(frames.column_names)
    statistics = json.loads((tmp_path / "set/meta/stats.json").read_text())
    np.testing.assert_allclose(statistics["action"]["mean"], np.mean(expected["action"], axis=0), rtol=1e-6)
    assert statistics["action"]["count"] == [10]
    assert rows[1]["stats/action/count"] == [6]
    np.testing.assert_allclose(rows[1]["stats/action/max"], sent[1].actions.max(axis=0), rtol=1e-6)


def test_what_was_written_is_read_again_without_the_state_after_the_last_action(fleet, tmp_path):
    """The pictures too, byte for byte."""
    spec = dataclasses.replace(SPEC, cameras=(CameraSpec(name="wrist", height=8, width=12),))
    sent = [make_episode(n, seed=n, spec="seeing-arm", cameras={"wrist": (8, 12)}) for n in (5, 3)]
    for episode in sent:
        fleet.send_episode(episode)
    fleet.drain()
    exported(fleet, tmp_path / "set")
    for found, was in zip(
        episodes(tmp_path / "set", Reading(source=Source.ROLLOUT), spec), sent, strict=True
    ):
        np.testing.assert_array_equal(found.proprio, was.proprio[:-1])
        np.testing.assert_array_equal(found.actions, was.actions[:-1])
        np.testing.assert_array_equal(found.interventions, was.interventions[:-1])
        assert found.images["wrist"] == list(was.images["wrist"][:-1])
        assert found.verdict == was.verdict


def test_files_end_between_episodes_when_they_are_large_enough(fleet, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "FILE_BYTES", 1)
    monkeypatch.setattr(write, "_FILES_PER_CHUNK", 2)
    for n in (3, 4, 5):
        fleet.send_episode(make_episode(n, seed=n))
    fleet.drain()
    exported(fleet, tmp_path / "set")
    found = sorted(str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").glob("data/*/*"))
    assert found == [f"data/chunk-00{c}/file-00{f}.parquet" for c, f in ((0, 0), (0, 1), (1, 0))]
    read = episodes(tmp_path / "set", Reading(source=Source.ROLLOUT))
    assert [episode.steps for episode in read] == [2, 3, 4]


def test_an_export_that_cannot_be_one_data_set_says_so_and_leaves_nothing(fleet, tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(ConfigError, match="one kind of robot, here they are none"):
        export_lerobot(fleet.catalogue, fleet.objects, folder)
    fleet.send_episode(make_episode(4, seed=1))
    fleet.send_episode(make_episode(4, seed=2, spec="seeing-arm", cameras={"wrist": (8, 12)}))
    fleet.drain()
    with pytest.raises(ConfigError, match="of the kinds arm, seeing-arm; name one with --kind"):
        export_lerobot(fleet.catalogue, fleet.objects, folder)
    assert not folder.exists()
    report, frames, _ = exported(fleet, folder, kind="seeing-arm")
    assert (report.episodes, frames.num_rows) == (1, 4)
    with pytest.raises(ConfigError, match="exists; a LeRobot data set is written as a whole"):
        export_lerobot(fleet.catalogue, fleet.objects, folder, kind="arm")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_damaged_episode_is_a_problem_and_the_others_are_written(tmp_path):
    with open_fleet(tmp_path / "fleet") as fleet:
        for n in (3, 4):
            fleet.send_episode(make_episode(n, seed=n))
        fleet.drain()
        gone, _ = fleet.catalogue.episodes()
        (fleet.folder / "objects" / gone.key).unlink()
        report, frames, rows = exported(fleet, tmp_path / "set")
    assert (report.episodes, frames.num_rows, len(rows)) == (1, 4, 1)
    assert [(problem.episode_id, problem.reason) for problem in report.problems] == [
        (gone.episode_id, "missing")
    ]


def test_statistics_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=(101, 2))
    found = of_numbers(values)
    np.testing.assert_allclose(found["std"], values.std(axis=0))
    np.testing.assert_allclose(found["q10"], np.sort(values, axis=0)[10])  # the 11th of 101
    assert of_numbers(np.array([True, False, True, True]))["mean"] == [0.75]


def test_statistics_of_pictures_are_those_of_their_pixels():
    rng = np.random.default_rng(0)
    pictures = [image.encode(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)) for _ in range(3)]
    pixels = np.concatenate([image.decode(p, 16, 16).reshape(-1, 3) for p in pictures]) / 255.0
    found = of_pictures(pictures).statistics()
    assert np.shape(found["mean"]) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(found["mean"]), pixels.mean(axis=0))
    np.testing.assert_allclose(np.ravel(found["std"]), pixels.std(axis=0))
    np.testing.assert_allclose(np.ravel(found["min"]), pixels.min(axis=0))
    np.testing.assert_allclose(np.ravel(found["max"]), pixels.max(axis=0))
    np.testing.assert_allclose(
        np.ravel(found["q90"]), np.quantile(pixels, 0.9, axis=0, method="inverted_cdf")
    )
    assert found["count"] == [3]


def test_the_list_of_sentences_is_an_index_for_pandas(fleet, tmp_path):
    """pandas is not installed here; this is the note by which it finds a table's index."""
    fleet.send_episode(make_episode(4))
    fleet.drain()
    exported(fleet, tmp_path / "set")
    table = pq.read_table(tmp_path / "set/meta/tasks.parquet")
    assert table.to_pylist() == [{"task_index": 0, "task": "open the drawer"}]
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert SPEC.control_hz == files.FPS
