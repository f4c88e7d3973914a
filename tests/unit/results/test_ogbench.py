"""OGBench: chunks from rows by hand, play data that repeats, runs that go on where they were cut, tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest

from lwd.baselines.qam_public import PublicQam
from lwd.errors import ConfigError, UnknownNameError
from lwd.evaluate.jsonfile import ResultError
from lwd.learner.checkpoint import Checkpoints
from lwd.models.arrays import to_arrays
from lwd.results.ogbench import play as play_module
from lwd.results.ogbench import run as run_module
from lwd.results.ogbench.data import DataSet, Rows, load, reward
from lwd.results.ogbench.page import NONE, PAGE, page, tables
from lwd.results.ogbench.play import PlaySettings, generate, within_reach, write_play
from lwd.results.ogbench.robot import evaluate, make_environment
from lwd.results.ogbench.run import Run, RunSettings, run_task
from lwd.results.ogbench.runfile import OgbenchRun, Point, read_run, write_run
from lwd.results.ogbench.tasks import DOMAINS, SIZES, Size, task

ROOT = Path(__file__).resolve().parents[3]
PLAY = PlaySettings(domain="puzzle-3x3", episodes=2, steps=40)
TASK = task("puzzle-3x3-task1")


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """A small data set of our own."""
    path = tmp_path_factory.mktemp("play") / PLAY.file_name
    write_play(PLAY, path, lambda _: None)
    return path


@pytest.fixture(scope="module")
def env():
    made = make_environment(TASK)
    yield made
    made.close()


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows(room: int = 0) -> Rows:
    """Two episodes of seven rows each, the last of each only led to; success in row 3 of the first."""
    n = 14
    return Rows(
        DataSet(
            observation=np.arange(n, dtype=np.float32)[:, None],
            action=np.zeros((n, 2), np.float32),
            reward=np.where(np.arange(n) == 3, 0.0, -1.0).astype(np.float32),
            mask=np.where(np.arange(n) == 3, 0.0, 1.0).astype(np.float32),
            last=np.isin(np.arange(n), (6, 13)),
            origin="by hand",
        ),
        room,
    )


def test_chunks_by_hand():
    drawn = rows().sample(np.random.default_rng(0), 4, 50)
    assert drawn.chunk.shape == (4, 50, 5, 2)
    start, following = drawn.observation.proprio[..., 0], drawn.next_observation.proprio[..., 0]
    assert set(start.ravel()) == {0, 1, 2, 3, 4, 5, 7, 8}, (
        "not the last states; not what leads out of the arrays"
    )
    np.testing.assert_array_equal(following, start + 5)
    whole = drawn.valid.all(axis=-1)
    assert set(start[whole]) == {0, 1, 7, 8}
    assert not drawn.valid[~whole].any()
    powers = 0.99 ** np.arange(5)
    for first, expected in (
        (0, -(powers.sum() - powers[3])),
        (1, -(powers.sum() - powers[2])),
        (8, -powers.sum()),
    ):
        np.testing.assert_allclose(drawn.reward[start == first], expected, rtol=1e-5)
    np.testing.assert_allclose(drawn.discount[(start == 0) | (start == 1)], 0.0)
    np.testing.assert_allclose(drawn.discount[start == 8], 0.99**5, rtol=1e-5)


def test_the_robots_rows_are_drawn_like_the_others_and_come_back_after_a_cut():
    mine = rows(room=7)
    for i in range(7):
        mine.add([100.0 + i], [0.5, 0.5], -1.0, 1.0, last=i == 6)
    drawn = mine.sample(np.random.default_rng(0), 1, 2000)
    share = np.mean(drawn.observation.proprio >= 100)
    assert share == pytest.approx(2 / 14, abs=0.03), "2 of the 14 rows that can begin a chunk"
    kept = {name: column.copy() for name, column in mine.added().items()}
    other = rows(room=7)
    other.restore(kept)
    again = other.sample(np.random.default_rng(0), 1, 2000)
    np.testing.assert_array_equal(drawn.observation.proprio, again.observation.proprio)
    with pytest.raises(ConfigError, match="no room for more than 21 rows"):
        mine.add([0.0], [0.0, 0.0], 0.0, 1.0, last=False)


def test_rewards():
    counted = np.array([-3.0, -1.0, 0.0])
    np.testing.assert_array_equal(reward(counted, DOMAINS["scene"]), [-1.0, -1.0, 0.0])
    np.testing.assert_array_equal(reward(counted, DOMAINS["cube-double"]), counted)


# ---- play ------------------------------------------------------------------------------------------------------------


def test_play_repeats_and_leaves_numpys_global_state_alone(play):
    np.random.seed(3)
    expected = np.random.get_state()[1].copy()
    again = generate(PLAY)
    np.testing.assert_array_equal(np.random.get_state()[1], expected)
    with np.load(play, allow_pickle=False) as file:
        assert set(file.files) == {*again, "note"}
        for name, column in again.items():
            np.testing.assert_array_equal(file[name], column, err_msg=name)
    assert again["observations"].shape == (80, 55)
    assert again["observations"].dtype == np.float32
    assert again["button_states"].dtype == np.int64
    assert list(np.flatnonzero(again["terminals"])) == [39, 79]
    assert np.abs(again["actions"]).max() <= 1.0
    assert np.abs(again["actions"]).mean() > 0.05, "it does something"
    assert not np.array_equal(again["observations"][:40], again["observations"][40:])
    alone = generate(replace(PLAY, episodes=1))
    np.testing.assert_array_equal(alone["actions"], again["actions"][:40])
    assert not np.array_equal(generate(replace(PLAY, episodes=1, seed=1))["actions"], alone["actions"])


@pytest.mark.parametrize(("domain", "width"), [("scene", 40), ("cube-double", 37)])
def test_the_other_domains_play_too(domain, width):
    found = generate(PlaySettings(domain=domain, episodes=1, steps=30))
    assert found["observations"].shape == (30, width)
    assert np.abs(np.diff(found["qpos"][:, :6], axis=0)).sum() > 0.1, "the arm moves"


def test_play_that_was_cut_goes_on_and_ends_with_the_same_file(play, tmp_path, monkeypatch):
    monkeypatch.setattr(play_module, "BLOCK", 1)
    made = []

    def one(settings, numbers=None):
        if made == [0]:
            raise KeyboardInterrupt
        made.extend(numbers)
        return generate(settings, numbers)

    monkeypatch.setattr(play_module, "generate", one)
    path, lines = tmp_path / "play.npz", []
    with pytest.raises(KeyboardInterrupt):
        write_play(PLAY, path, lines.append)
    assert not path.exists()
    made.append("cut")
    write_play(PLAY, path, lines.append)
    assert made == [0, "cut", 1]
    assert lines[-2:] == [f"puzzle-3x3: {k} of 2 episodes of play" for k in (1, 2)]
    with np.load(play, allow_pickle=False) as whole, np.load(path, allow_pickle=False) as found:
        assert whole.files == found.files
        for name in whole.files:
            np.testing.assert_array_equal(found[name], whole[name])
    assert list(tmp_path.iterdir()) == [path]


def test_reach():
    """Columns 15 and 16 are y and z of the cube: far left is fine inside the drawer only."""
    qpos = np.zeros((1, 30))
    for y, z, fine in ((0.0, 0.02, True), (0.3, 0.02, False), (-0.31, 0.02, False), (-0.31, 0.07, True)):
        qpos[0, 15:17] = y, z
        assert within_reach(qpos) == fine, (y, z)


def test_a_file_of_the_published_form_is_read(play, tmp_path, env):
    own = load(play, TASK, env)
    assert own.origin == "own play of 78 transitions, 2 episodes, seed 0"
    assert own.transitions == 78
    assert set(np.unique(own.reward)) <= {-1.0, 0.0}
    np.testing.assert_array_equal(own.mask, (own.reward < 0).astype(np.float32))
    assert np.abs(own.action).max() <= 1 - 1e-5
    with np.load(play, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "note"}
    np.savez(tmp_path / "published.npz", **arrays)
    found = load(tmp_path / "published.npz", TASK, env)
    assert found.origin.startswith("published.npz of 78 transitions, sha256 ")
    np.testing.assert_array_equal(found.reward, own.reward)


def test_files_that_do_not_fit_are_refused(play, tmp_path, env):
    np.savez(tmp_path / "few.npz", observations=np.zeros((3, 55)))
    with pytest.raises(ConfigError, match="lacks actions, terminals, qpos"):
        load(tmp_path / "few.npz", TASK, env)
    np.savez(tmp_path / "pickled.npz", observations=np.array([{}], dtype=object))
    with pytest.raises(ConfigError, match="is no OGBench data set"):
        load(tmp_path / "pickled.npz", TASK, env)
    scene = make_environment(task("scene-task1"))
    with pytest.raises(ConfigError, match="it is of another domain"):
        load(play, task("scene-task1"), scene)
    scene.close()


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", Size(width=8, depth=2, heads=2, batch=4))
    monkeypatch.setattr(run_module, "evaluate", lambda *_: 1)


def settings(play: Path, **changes) -> RunSettings:
    fields = {
        "online_steps": 0,
        "updates": 30,
        "evaluate_every": 20,
        "checkpoint_every": 10,
        "block_steps": 10,
    }
    fields |= {"size": "tiny", "episodes": 2, "data": play, "online_warm_up": 10}
    return RunSettings(task=TASK.name, **{**fields, **changes})


def weights(folder: Path, x: RunSettings) -> dict[str, np.ndarray]:
    """Of the newest checkpoint."""
    one = Run(replace(x, seed=99), folder / "template", folder / "none", lambda _: None)
    template = x.learner.start(one._first_policy(), one._model(), run_module.jax.random.key(0))
    one.close()
    kept = Checkpoints(folder / "tiny" / TASK.name / f"seed_{x.seed}" / "checkpoints")
    state, _ = kept.restore(template)
    kept.close()
    return to_arrays(state)


class CutError(Exception):
    pass


def test_the_command_of_a_run_names_all_that_is_not_the_default():
    program = "python -m lwd.results.ogbench run"
    assert RunSettings(task="scene-task1").command == f"{program} --task scene-task1 --size public --seed 0"
    x = RunSettings(
        task="scene-task1", seed=2, size="small", updates=200_000, data=Path("/somewhere/of/mine.npz")
    )
    wanted = f"{program} --task scene-task1 --size small --seed 2 --updates 200000 --data mine.npz"
    assert x.command == wanted, "where a file lay says nothing to others"


@pytest.mark.usefixtures("_tiny", "quick_compilation")
def test_a_cut_offline_run_ends_like_an_uncut_one(play, tmp_path):
    x, lines = settings(play), []
    whole = run_task(x, tmp_path / "whole", tmp_path / "results", lines.append)
    assert [(p.updates, p.successes, p.episodes) for p in whole.curve] == [(20, 1, 2), (30, 1, 2)]
    assert whole.complete
    assert any("update 20, 1 of 2 successes, critic/loss" in line for line in lines)

    def cut(line: str) -> None:
        if "update 20" in line:
            raise CutError

    with pytest.raises(CutError):
        run_task(x, tmp_path / "cut", tmp_path / "results2", cut)
    again = run_task(x, tmp_path / "cut", tmp_path / "results2", lambda _: None)
    assert again.curve == whole.curve
    first, second = (weights(tmp_path / name, x) for name in ("whole", "cut"))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    longer = run_task(replace(x, updates=40), tmp_path / "cut", tmp_path / "results2", lambda _: None)
    assert [p.updates for p in longer.curve] == [20, 30, 40]
    with pytest.raises(ConfigError, match=r"begun with other settings \(run\.episodes 2; run\.episodes 3\)"):
        run_task(replace(x, episodes=3), tmp_path / "cut", tmp_path / "results2", lambda _: None)


@pytest.mark.usefixtures("_tiny", "quick_compilation")
def test_online_there_is_a_learner_step_for_each_control_step_and_a_cut_run_goes_on(
    play, tmp_path, monkeypatch
):
    x = settings(play, updates=10, online_steps=62, online_warm_up=12, evaluate_every=25)
    calls: list[int] = []

    def cut(*_: object) -> int:
        calls.append(1)
        if len(calls) == 2:  # the first is that of the offline stage's end
            raise CutError
        return 1

    monkeypatch.setattr(run_module, "evaluate", cut)
    with pytest.raises(CutError):
        run_task(x, tmp_path / "runs", tmp_path / "results", lambda _: None)
    found = run_task(x, tmp_path / "runs", tmp_path / "results", lambda _: None)
    assert found.complete
    last = found.curve[-1]
    assert last.control_steps == 62
    assert last.updates == 10 + 62 - 12, "steps within a chunk at the cut are learned from afterwards"
    path = tmp_path / "results" / "tiny" / TASK.name / "seed_0.json"
    before = path.read_bytes()
    assert run_task(x, tmp_path / "runs", tmp_path / "results", lambda _: None) == found
    assert path.read_bytes() == before, "a complete run keeps what made it"
    with pytest.raises(ConfigError, match="went online after 10 updates"):
        run_task(replace(x, updates=20), tmp_path / "runs", tmp_path / "results", lambda _: None)


@pytest.mark.usefixtures("_tiny")
def test_a_run_that_is_cut_in_its_last_evaluation_is_evaluated_when_it_goes_on(play, tmp_path, monkeypatch):
    """Its newest checkpoint is that of its last learner step. Nothing is learned here."""

    def learning(update, state, batches, key):
        return eqx.tree_at(lambda s: s.step, state, state.step + len(batches.reward)), {"critic/loss": 0.0}

    asked: list[int] = []

    def cut(*_: object) -> int:
        asked.append(1)
        if len(asked) == 2:
            raise CutError
        return 1

    monkeypatch.setattr(run_module, "run_block", learning)
    monkeypatch.setattr(
        run_module, "acting", lambda policy, width, steps: lambda proprio, key: np.zeros((5, width))
    )
    monkeypatch.setattr(run_module, "evaluate", cut)
    x = settings(play, updates=20, online_steps=30, online_warm_up=0, evaluate_every=100)
    with pytest.raises(CutError):
        run_task(x, tmp_path / "runs", tmp_path / "results", lambda _: None)
    assert not read_run(tmp_path / "results" / "tiny" / TASK.name / "seed_0.json").complete
    found = run_task(x, tmp_path / "runs", tmp_path / "results", lambda _: None)
    assert [(p.updates, p.control_steps) for p in found.curve] == [(20, 0), (50, 30)]
    assert found.complete
    assert len(asked) == 3
    assert run_task(x, tmp_path / "runs", tmp_path / "results", lambda _: None) == found
    assert len(asked) == 3, "a complete one is not evaluated again"


@pytest.mark.usefixtures("_tiny")
def test_first_weights_learner_steps_and_robot_have_random_numbers_of_their_own(play, tmp_path, monkeypatch):
    """Nothing is learned here; only the keys are noted."""
    keys = {"start": [], "learner": [], "robot": []}
    random, start = run_module.jax.random, PublicQam.start

    def noted(who, made):
        keys[who] += [tuple(random.key_data(key).tolist()) for key in made]

    def starting(learner, reference, model, key):
        noted("start", random.split(key, 3))
        return start(learner, reference, model, key)

    def learning(update, state, batches, key):
        steps = len(batches.reward)
        noted("learner", [random.fold_in(key, int(state.step) + i) for i in range(steps)])
        return eqx.tree_at(lambda s: s.step, state, state.step + steps), {"critic/loss": 0.0}

    def acting(policy, action_dim, flow_steps):
        def act(proprio, key):
            noted("robot", [key])
            return np.zeros((5, action_dim))

        return act

    monkeypatch.setattr(PublicQam, "start", starting)
    monkeypatch.setattr(run_module, "run_block", learning)
    monkeypatch.setattr(run_module, "acting", acting)
    x = settings(play, updates=10, online_steps=20)
    run_task(x, tmp_path / "runs", tmp_path / "results", lambda _: None)
    assert {who: len(made) for who, made in keys.items()} == {"start": 3, "learner": 20, "robot": 4}
    assert len({key for made in keys.values() for key in made}) == 3 + 20 + 4


def test_success_is_that_of_the_last_step_and_chunks_are_carried_out_open_loop():
    class Short:
        """Three chunks a success if the start was even, else a truncation after seven steps."""

        def reset(self, seed):
            self.seed, self.k = seed, 0
            return np.zeros(2), {}

        def step(self, action):
            assert action[0] == self.k % 5, "in order"
            self.k += 1
            won = self.seed % 2 == 0 and self.k == 13
            return np.zeros(2), 0.0, won, self.seed % 2 == 1 and self.k == 7, {"success": won}

    asked: list[int] = []

    def act(proprio, key):
        asked.append(1)
        return np.arange(5)[:, None] * np.ones((1, 3))

    assert evaluate(Short(), act, 3, first_seed=10) == 2
    assert len(asked) == 3 + 2 + 3


# ---- names, files, tables --------------------------------------------------------------------------------------------


def test_names():
    assert task("cube-double-task3").environment == "cube-double-singletask-task3-v0"
    with pytest.raises(UnknownNameError, match="Did you mean 'scene-task1'"):
        task("scene-tsk1")
    with pytest.raises(UnknownNameError, match="Did you mean 'small'"):
        RunSettings(task="scene-task1", size="smal")
    with pytest.raises(ConfigError, match=r"RunSettings\.updates must be at least 1, got 0"):
        RunSettings(task="scene-task1", updates=0)


def made_up(**changes) -> OgbenchRun:
    fields = {
        "task": "scene-task2",
        "size": "small",
        "seed": 0,
        "data": "own play",
        "command": "c",
        "commit": "abc",
    }
    fields |= {
        "hardware": {"processor": "Test CPU"},
        "software": {},
        "settings": {"a": "1"},
        "seconds": 7200.0,
    }
    curve = [
        Point(updates=50_000, control_steps=0, successes=45, episodes=50),
        Point(updates=60_000, control_steps=0, successes=50, episodes=50),
    ]
    return OgbenchRun(**{**fields, "complete": False, "curve": curve, **changes})


def test_run_files_are_checked(tmp_path):
    run = made_up()
    path = write_run(tmp_path, run)
    assert path == tmp_path / "small" / "scene-task2" / "seed_0.json"
    assert read_run(path) == run
    with pytest.raises(ResultError, match="expected updates that rise"):
        write_run(tmp_path, replace(run, curve=run.curve[::-1]))
    assert read_run(path) == run, "the good file stays"
    assert list(path.parent.iterdir()) == [path]
    content = json.loads(path.read_text())
    content["curve"][0]["successes"] = 51
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=r"curve\[0\]\.successes: expected at most 50, got 51"):
        read_run(path)


def test_tables_lay_our_numbers_beside_those_of_the_same_updates():
    text = tables([made_up(), made_up(seed=1, complete=True), made_up(data="a file")])
    assert "| 50,000 | 0 | 90 (83 to 94) | 2 | 80 | 46 |" in text
    assert "| 60,000 | 0 | 100 (96 to 100) | 2 | - | - |" in text
    assert text.count("### scene-task2, size small") == 2, "other data, another table"
    assert "Not finished: seed 0." in text
    assert tables([]) == NONE


def test_tables_average_neither_other_settings_nor_the_robots_own_steps_with_none():
    point = {"successes": 10, "episodes": 50}
    offline = [Point(updates=updates, control_steps=0, **point) for updates in (50_000, 100_000)]
    online, also = (
        [offline[0], Point(updates=100_000, control_steps=steps, successes=50, episodes=50)]
        for steps in (55_000, 55_003)
    )
    longer = {"a": "1", "run.seed": "1", "run.updates": "50000", "run.online_steps": "500000"}
    one = made_up(curve=offline, settings={"a": "1", "run.seed": "0", "run.updates": "1000000"})
    text = tables([one, *(made_up(seed=1, curve=curve, settings=longer) for curve in (online, also))])
    assert text.count("###") == 1
    assert "| 50,000 | 0 | 20 (14 to 27) | 3 |" in text
    assert "| 100,000 | 0 | 20 (11 to 33) | 1 |" in text
    assert "| 100,000 | 55,000 to 55,003 | 100 (96 to 100) | 2 |" in text
    text = tables([one, made_up(seed=1, curve=online, settings={**longer, "a": "2"})])
    assert text.count("### scene-task2, size small") == 2
    assert [f"Settings of its own: a {value}. Seeds {value - 1};" in text for value in (1, 2)] == [True, True]
    assert "Settings of its own" not in tables([one])


def test_the_committed_page_is_that_of_the_committed_run_files():
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT), "run `make table`"
