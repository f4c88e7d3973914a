from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwd.episode import Outcome, Source
from lwd.errors import ConfigError, StoreError, UnknownNameError
from lwd.replay import Mixture, Pool, Replay, Sampler, demonstrations, offline_rl, online_rl, summary
from lwd.replay.table import SOURCES
from lwd.transition import Transition
from tests.unit.replay.replay_cases import make_episode

New = Callable[..., Replay]


def leaves(batch: Transition) -> list[np.ndarray]:
    return [*batch.observation[:2], *batch.next_observation[:2], *batch[1:5], *batch[6:]]


def assert_same(first: Transition, second: Transition, cut: object = ...) -> None:
    for one, two in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(one[cut], two)


def fill(replay: Replay, specs: Sequence[tuple[str, str, str, int]]) -> Replay:
    for index, (source, outcome, task, T) in enumerate(specs):
        replay.add(
            make_episode(T, outcome, source=source, task=task, mark=index / 100, episode_id=f"e{index}")
        )
    return replay


MIXED = [
    ("demo", "success", "pick", 30),
    ("demo", "failure", "pick", 10),
    ("demo", "success", "tea", 200),
    ("rollout", "failure", "tea", 100),
    ("play", "failure", "tea", 60),
    ("online", "success", "pick", 20),
    ("online", "failure", "tea", 180),
]


def shares(sampler: Sampler, key: str, draws: int = 200_000) -> dict[int, float]:
    episode, _, _ = sampler.indices(0, draws // 1000, 1000)
    values, counts = np.unique(sampler.view.episodes[key][episode], return_counts=True)
    return dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))


def test_shapes(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED)
    batch = replay.sampler(replay.view(), online_rl(), 0).draw(0, 3, 8)
    assert batch.observation.proprio.shape == (3, 8, 3)
    assert batch.observation.instruction.shape == (3, 8, 32)
    assert batch.chunk.shape == (3, 8, 4, 2)
    assert batch.valid.shape == (3, 8, 4)
    assert {leaf.shape for leaf in batch[3:5]} == {(3, 8)}
    types = [batch.chunk.dtype, batch.reward.dtype, batch.discount.dtype, batch.valid.dtype, batch.task.dtype]
    assert types == [np.float32, np.float32, np.float32, np.bool_, np.int32]
    assert batch.observation.images == {}


def test_uniform_over_transitions_and_over_start_steps(new_replay: New) -> None:
    replay = fill(new_replay(), [("demo", "success", "pick", 10), ("demo", "success", "tea", 30)])
    sampler = replay.sampler(replay.view(), offline_rl(), 5)
    episode, start, _ = sampler.indices(0, 400, 1000)
    counts = np.bincount((np.array([0, 10])[episode] + start).ravel(), minlength=40)
    assert counts.sum() == 400_000
    assert np.abs(counts / 10_000 - 1).max() < 0.05  # 5 standard deviations


def test_the_same_batch_however_it_is_grouped(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED)
    for size in (1, 3, 4, 7, 64):
        sampler = replay.sampler(replay.view(), online_rl(), 9)
        whole = sampler.draw(5, 6, size)
        for index in range(6):
            assert_same(whole, sampler.draw(5 + index, 1, size), slice(index, index + 1))
        assert_same(whole, sampler.draw(7, 3, size), slice(2, 5))
    again = replay.sampler(replay.view(), online_rl(), 9)
    assert_same(whole, again.draw(5, 6, 64))


def test_a_host_reads_its_rows_of_the_same_batch(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED)
    sampler = replay.sampler(replay.view(), online_rl(), 9)
    whole = sampler.draw(2, 3, 16)
    for rows in (slice(0, 8), slice(8, 16)):
        assert_same(whole, sampler.draw(2, 3, 16, rows), (slice(None), rows))


def test_steps_and_seeds_differ(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED)
    view = replay.view()
    batches = [
        replay.sampler(view, offline_rl(), seed).indices(step, 1, 64)[1] for seed in (0, 1) for step in (0, 1)
    ]
    for i, one in enumerate(batches):
        for two in batches[i + 1 :]:
            assert not np.array_equal(one, two)


def test_streams_differ_and_the_first_is_what_it_was(new_replay: New) -> None:
    view = fill(new_replay(), MIXED).view()
    rows = [Sampler(view, offline_rl(), 42, stream=s).indices(1000, 1, 64)[1] for s in (0, 1, 2, 2**32 - 1)]
    for i, one in enumerate(rows):
        for two in rows[i + 1 :]:
            assert (one == two).mean() < 0.5
    np.testing.assert_array_equal(rows[0], Sampler(view, offline_rl(), 42).indices(1000, 1, 64)[1])
    for stream in (-1, 2**32):
        with pytest.raises(ConfigError, match="stream must lie in"):
            Sampler(view, offline_rl(), 42, stream=stream)


def test_a_literal_draw(new_replay: New) -> None:
    """Stable across processes, machines and versions of NumPy: a checkpoint may be resumed anywhere."""
    replay = fill(new_replay(), MIXED)
    episode, start, n = replay.sampler(replay.view(), offline_rl(), 42).indices(1000, 1, 6)
    assert (episode.tolist(), start.tolist(), n.tolist()) == LITERAL


LITERAL = ([[2, 3, 4, 2, 2, 2]], [[64, 23, 58, 63, 146, 34]], [[10, 10, 10, 10, 10, 10]])


def test_another_process_draws_the_same(new_replay: New, tmp_path: Path) -> None:
    replay = fill(new_replay(), MIXED)
    batch = replay.sampler(replay.view(), online_rl(), 9).draw(123, 2, 32)
    replay.close()
    code = textwrap.dedent(
        f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        from tests.unit.replay.replay_cases import *
        from lwd.instruction import InstructionEncoder
        from lwd.replay import Replay, ReplayConfig
        from lwd.replay import online_rl
        folder = {str(tmp_path / "replay")!r}
        replay = Replay(folder, SPEC, TASKS, InstructionEncoder(), ReplayConfig(gamma=0.9))
        sampler = replay.sampler(replay.view(), online_rl(), 9)
        sampler.draw(0, 1, 32)
        batch = sampler.draw(124, 1, 32)
        np.savez({str(tmp_path / "batch.npz")!r}, batch.chunk, batch.reward, batch.next_observation.proprio)
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with np.load(tmp_path / "batch.npz") as saved:
        for name, leaf in zip(
            saved.files, (batch.chunk, batch.reward, batch.next_observation.proprio), strict=True
        ):
            np.testing.assert_array_equal(saved[name][0], leaf[1])


def test_an_old_manifest_draws_the_same_after_growth(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED)
    before = replay.sampler(replay.view(7), offline_rl(), 1).draw(3, 1, 32)
    for _ in range(5):
        replay.add(make_episode(50))
    assert_same(before, replay.sampler(replay.view(7), offline_rl(), 1).draw(3, 1, 32))
    assert replay.sampler(replay.view(), offline_rl(), 1).manifest == 12


def test_halves_are_exact_and_spread(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED)
    view = replay.view()
    online = SOURCES.index(Source.ONLINE)
    for share, size, want in (
        (0.5, 256, 128),
        (0.25, 64, 16),
        (0.3, 10, 3),
        (1.0, 8, 8),
        (0.5, 7, 4),
        (0.1, 4, 0),
    ):
        sampler = replay.sampler(view, online_rl(share), 0)
        episode, _, _ = sampler.indices(0, 20, size)
        drawn = view.episodes["source"][episode] == online
        assert (drawn.sum(1) == want).all()
    even = view.episodes["source"][replay.sampler(view, online_rl(0.5), 0).indices(0, 1, 64)[0]] == online
    assert (even.reshape(8, 8).sum(1) == 4).all()


def test_no_online_data_yet(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED[:5])
    sampler = replay.sampler(replay.view(), online_rl(), 0)
    assert sampler.metrics["replay/online_share"] == 0.0
    assert sampler.metrics["replay/offline_transitions"] == 400
    assert SOURCES.index(Source.ONLINE) not in shares(sampler, "source")
    with pytest.raises(StoreError, match="no transition for the online half"):
        replay.sampler(replay.view(), Mixture(online_share=0.5, without_online="error"), 0)
    replay.add(make_episode(5, source="online"))
    metrics = replay.sampler(replay.view(), online_rl(), 0).metrics
    assert (metrics["replay/online_share"], metrics["replay/online_transitions"]) == (0.5, 5)


def test_an_empty_offline_pool_is_an_error(new_replay: New) -> None:
    replay = new_replay()
    with pytest.raises(StoreError, match="Manifest 0 with 0 episodes has no transition of sources demo"):
        replay.sampler(replay.view(), demonstrations(), 0)
    replay.add(make_episode(5, source="online"))
    with pytest.raises(StoreError, match="Collect some first"):
        replay.sampler(replay.view(), online_rl(), 0)
    assert replay.sampler(replay.view(), online_rl(1.0), 0).online_share == 1.0


def test_behaviour_cloning_sees_successful_demonstrations_only(new_replay: New) -> None:
    replay = fill(new_replay(), MIXED)
    drawn = shares(replay.sampler(replay.view(), demonstrations(), 0), "number")
    assert set(drawn) == {1, 3}
    assert drawn[3] == pytest.approx(200 / 230, abs=0.01)


def test_balance_and_weights(new_replay: New) -> None:
    view = fill(new_replay(), MIXED).view()

    def drawn(key: str, **settings: object) -> dict[int, float]:
        return shares(Sampler(view, Mixture(offline=Pool(**settings)), 0), key)  # type: ignore[arg-type]

    assert drawn("task") == pytest.approx({0: 0.1, 1: 0.9}, abs=0.01)
    assert drawn("task", balance="tasks") == pytest.approx({0: 0.5, 1: 0.5}, abs=0.01)
    assert drawn("task", balance="tasks", task_weights={"pick": 3.0}) == pytest.approx(
        {0: 0.75, 1: 0.25}, abs=0.01
    )
    assert drawn("task", task_weights={"pick": 9.0}) == pytest.approx({0: 0.5, 1: 0.5}, abs=0.01)
    assert drawn("task", task_weights={"tea": 0.0}) == {0: 1.0}
    # 240 demo, 100 rollout and 60 play steps
    assert drawn("source", source_weights={Source.PLAY: 0.0}) == pytest.approx(
        {0: 240 / 340, 1: 100 / 340}, abs=0.01
    )
    assert drawn("source", source_weights={Source.PLAY: 4.0}) == pytest.approx(
        {0: 240 / 580, 1: 100 / 580, 2: 240 / 580}, abs=0.01
    )
    # balanced tasks, and within tea the demonstrations twice as often per step: 400 : 100 : 60
    both = drawn("number", balance="tasks", source_weights={Source.DEMO: 2.0})
    assert both == pytest.approx(
        {1: 0.375, 2: 0.125, 3: 0.5 * 400 / 560, 4: 0.5 * 100 / 560, 5: 0.5 * 60 / 560}, abs=0.01
    )


def test_n_follows_the_pool_and_the_horizon(new_replay: New) -> None:
    view = fill(new_replay(), MIXED).view()
    mixture = Mixture(
        offline=Pool(n_short=2, n_long=10), online=Pool(sources=(Source.ONLINE,), n_long=3), online_share=0.5
    )
    episode, _, n = Sampler(view, mixture, 0).indices(0, 10, 100)
    want = {1: 2, 2: 2, 3: 10, 4: 10, 5: 10, 6: 1, 7: 3}
    assert {
        int(view.episodes["number"][e]): int(k) for e, k in zip(episode.flat, n.flat, strict=True)
    } == want


def test_corrections_add_the_chunks_of_the_human(new_replay: New) -> None:
    """Chunks of 4: the human's 0 to 4 hold two whole ones, 7 and 8 none, 17 to 19 three, since the episode ends there."""
    replay = new_replay()
    replay.add(make_episode(20, "success", source="online"))
    replay.add(make_episode(20, "failure", source="online", human=[0, 1, 2, 3, 4, 7, 8, 17, 18, 19]))
    replay.add(make_episode(20, "failure", source="online"))
    pool = Pool(sources=(Source.ONLINE,), outcomes=(Outcome.SUCCESS,), corrections=True)
    sampler = replay.sampler(replay.view(), Mixture(online=pool, online_share=1.0), 0)
    episode, start, _ = sampler.indices(0, 250, 1000)
    assert set(episode.flat) == {0, 1}
    assert set(start[episode == 1]) == {0, 1, 17, 18, 19}
    assert (episode == 1).mean() == pytest.approx(5 / 25, abs=0.01)
    assert sampler.metrics["replay/online_transitions"] == 25


def test_play_counts_as_failure(new_replay: New) -> None:
    replay = new_replay()
    for outcome in ("success", "failure", "unjudged"):
        replay.add(make_episode(2, outcome, source="play"))
    batch = replay.sampler(replay.view(), offline_rl(), 0).draw(0, 1, 100)
    assert not batch.reward.any()
    assert not batch.discount.any()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(0, 2**64 - 1), st.integers(0, 2**40)
)
def test_every_draw_lies_inside_its_episode(lengths: list[int], seed: int, step: int) -> None:
    from lwd.replay.returns import OUTCOMES
    from lwd.replay.store import Columns
    from lwd.replay.table import ROW
    from lwd.replay.view import View
    from tests.unit.replay.replay_cases import SPEC, TASKS

    table = np.zeros(len(lengths), ROW)
    table["steps"], table["outcome"] = lengths, OUTCOMES.index(Outcome.SUCCESS)
    empty = np.zeros((0, 1), np.float32)
    columns = Columns(empty, empty, np.zeros(0, np.uint8), np.zeros(0, np.uint16), {})
    view = View(
        manifest=1, spec=SPEC, tasks=TASKS, gamma=0.9, takeover_fails=False, episodes=table, columns=columns,
        instructions=empty, pictures=lambda camera, spans: spans,
    )  # fmt: skip
    episode, start, _ = Sampler(view, offline_rl(), seed).indices(step, 2, 500)
    assert (start >= 0).all()
    assert (start < np.array(lengths)[episode]).all()


def test_settings_are_checked(new_replay: New) -> None:
    for settings_, message in (
        ({"sources": ()}, "at least one source"),
        ({"task_weights": {"pick": -1.0}}, "weight of 'pick' must be zero or positive"),
        ({"source_weights": {Source.ONLINE: 1.0}}, "which sources leaves out"),
        ({"sources": (Source.DEMO,), "source_weights": {Source.DEMO: 0.0}}, "every source has weight 0"),
        ({"n_long": 0}, "n must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Pool(**settings_)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="online_share must lie in"):
        Mixture(online_share=1.5)
    # A recipe without a type checker may get these past the annotations.
    for config, name, message in (
        (Pool(), "balance", '"steps" or "tasks"'),
        (Mixture(), "without_online", '"offline" or "error"'),
    ):
        object.__setattr__(config, name, "whatever")
        with pytest.raises(ConfigError, match=message):
            config.__post_init__()
    replay = fill(new_replay(), MIXED)
    view = replay.view()
    with pytest.raises(UnknownNameError, match="Did you mean 'pick'"):
        replay.sampler(view, Mixture(offline=Pool(task_weights={"pik": 1.0})), 0)
    with pytest.raises(ConfigError, match="seed must lie in"):
        replay.sampler(view, offline_rl(), -1)
    with pytest.raises(ConfigError, match="step >= 0"):
        replay.sampler(view, offline_rl(), 0).draw(-1, 1, 8)


def test_the_summary(new_replay: New) -> None:
    replay = fill(new_replay(), [*MIXED, ("demo", "success", "pick", 40)])
    rows = summary(replay.view())
    assert [(row.task, row.source, row.episodes) for row in rows] == [
        ("pick", "demo", 3),
        ("pick", "online", 1),
        ("tea", "demo", 1),
        ("tea", "rollout", 1),
        ("tea", "play", 1),
        ("tea", "online", 1),
    ]
    demo = rows[0]
    assert demo.hours == pytest.approx(80 / 20 / 3600)
    assert demo.success == pytest.approx(2 / 3)
    assert demo.failure_hours == pytest.approx(10 / 80)
    assert demo.human == 0.0
