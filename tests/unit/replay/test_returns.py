from __future__ import annotations

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwd.instruction import InstructionEncoder
from lwd.replay import Replay, ReplayConfig
from lwd.replay.chunks import gather
from lwd.replay.returns import NEVER, chunks_to_takeover, human_chunks, window
from tests.unit.replay.loop_reference import transition as loop
from tests.unit.replay.replay_cases import SPEC, TASKS, H, make_episode

G = 0.9
S, F, U = 0, 1, 2


def one(start: int, T: int, outcome: int, n: int, human: tuple[int, ...] = ()) -> tuple[int, float, float]:
    flags = np.zeros(T, np.bool_)
    flags[list(human)] = True
    takeover = chunks_to_takeover(flags, H)[start]
    got = window(
        np.array(start), np.array(T), np.array(outcome), np.asarray(takeover), n, gamma=G, chunk_steps=H
    )
    return int(got.end), float(got.reward), float(got.discount)


@pytest.mark.parametrize(
    ("start", "T", "outcome", "n", "end", "reward", "discount"),
    [
        (0, 10, S, 1, 4, 0.0, G**4),  # the end is far away: no reward, bootstrap one chunk on
        (0, 10, S, 2, 8, 0.0, G**8),  # two chunks, still short of the end
        (0, 10, S, 3, 10, G**9, 0.0),  # success inside the third chunk, H does not divide T
        (0, 10, S, 10, 10, G**9, 0.0),  # the same for any longer window
        (6, 10, S, 1, 10, G**3, 0.0),  # the window ends exactly at the end
        (2, 10, S, 2, 10, G**7, 0.0),  # exactly at the end with n = 2
        (9, 10, S, 1, 10, 1.0, 0.0),  # the last step itself: an undiscounted 1
        (5, 10, S, 1, 9, 0.0, G**4),  # one step short of it
        (0, 3, S, 1, 3, G**2, 0.0),  # T < H
        (0, 1, S, 10, 1, 1.0, 0.0),  # a single step
        (0, 10, F, 1, 4, 0.0, G**4),  # failure far away bootstraps as usual
        (6, 10, F, 1, 10, 0.0, 0.0),  # failure is terminal
        (8, 10, F, 10, 10, 0.0, 0.0),  # failure inside the last, short chunk
        (0, 3, F, 1, 3, 0.0, 0.0),  # failure with T < H
        (0, 10, U, 1, 4, 0.0, G**4),  # unjudged far away
        (
            6,
            10,
            U,
            1,
            10,
            0.0,
            G**4,
        ),  # unjudged: truncated exactly at the end, bootstraps from the last state
        (8, 10, U, 1, 10, 0.0, G**2),  # truncated inside the chunk: gamma^(T - t), not gamma^H
        (0, 10, U, 10, 10, 0.0, G**10),  # truncated inside the window
        (0, 3, U, 10, 3, 0.0, G**3),  # truncated with T < H
    ],
)
def test_endings_by_hand(
    start: int, T: int, outcome: int, n: int, end: int, reward: float, discount: float
) -> None:
    assert one(start, T, outcome, n) == pytest.approx((end, reward, discount), rel=1e-6)


@pytest.mark.parametrize(
    ("start", "n", "human", "end"),
    [
        (0, 1, (4,), 4),  # n = 1 never reaches another chunk
        (0, 10, (5,), 4),  # a human in the second chunk: n is effectively 1
        (0, 10, (4,), 4),  # on that chunk's first step
        (0, 10, (7,), 4),  # and on its last
        (0, 10, (8,), 8),  # the third chunk: n is effectively 2
        (0, 2, (8,), 8),  # the window would have ended there anyway
        (0, 10, (3,), 20),  # the first chunk has the human itself: used as it is, window goes on
        (0, 10, (0, 1, 2, 3), 20),  # a window may leave a human's chunk for a policy's
        (0, 10, tuple(range(12)), 20),  # from human to human
        (0, 10, (0, 13), 12),  # human, policy, human: not into the second takeover
        (1, 10, (4,), 20),  # the same takeover from a start one step later lies in the first chunk
        (1, 10, (5,), 5),
        (13, 10, (19,), 17),  # in the last, short chunk
        (16, 10, (19,), 20),  # only one chunk is left, and it has the human
        (0, 10, tuple(range(20)), 20),  # a demonstration: human all along
    ],
)
def test_windows_stop_where_a_human_takes_over(start: int, n: int, human: tuple[int, ...], end: int) -> None:
    got, reward, discount = one(start, 20, U, n, human)
    assert (got, reward) == (end, 0.0)
    assert discount == pytest.approx(G ** (end - start), rel=1e-6)


def test_a_takeover_also_keeps_the_reward_behind_it_out() -> None:
    assert one(0, 10, S, 10, (9,)) == pytest.approx((8, 0.0, G**8), rel=1e-6)
    assert one(0, 10, S, 10) == pytest.approx((10, G**9, 0.0), rel=1e-6)


def test_a_takeover_may_count_as_the_policys_failure() -> None:
    def fails(start: int, n: int, human: int) -> tuple[int, float, float]:
        flags = np.zeros(10, np.bool_)
        flags[human] = True
        ahead = np.array(chunks_to_takeover(flags, 2)[start])
        got = window(
            np.array(start), np.array(10), np.array(0), ahead, n, gamma=G, chunk_steps=2, takeover_fails=True
        )
        return int(got.end), float(got.reward), float(got.discount)

    assert fails(0, 1, 8) == (2, 0.0, pytest.approx(G**2))  # the takeover is not reached yet
    assert fails(6, 1, 8) == (8, 0.0, 0.0)
    assert fails(0, 9, 8) == (8, 0.0, 0.0)
    assert fails(8, 1, 8) == (10, pytest.approx(G), 0.0)  # the human's own chunk earns the success


def test_gamma_one_and_the_papers_gamma() -> None:
    zero = np.array(0)
    got = window(zero, np.array(5400), zero, np.array(NEVER), 10, gamma=0.9999, chunk_steps=30)
    assert float(got.discount) == pytest.approx(0.9999**300, rel=1e-6)
    got = window(zero, np.array(30), zero, np.array(NEVER), 10, gamma=1.0, chunk_steps=30)
    assert (float(got.reward), float(got.discount)) == (1.0, 0.0)


def test_human_chunks_by_hand() -> None:
    flags = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.bool_)
    assert human_chunks(flags, 3).tolist() == [False, False, False, True, True, True, False, False]
    assert chunks_to_takeover(flags, 3).tolist() == [1, 1, 1, NEVER, NEVER, NEVER, NEVER, NEVER]
    late = np.array([0] * 7 + [1], np.bool_)
    assert chunks_to_takeover(late, 3).tolist() == [2, 2, 1, 1, 1, NEVER, NEVER, NEVER]


def test_a_takeover_soon_after_a_hand_back_shows_that_help_was_needed(new_replay) -> None:
    """Chunks of 4: the policy's spell of 5 steps holds no chunk of its own from most starts."""
    replay = new_replay()
    replay.add(make_episode(30, source="rollout", human=[8, 9, 10, 16, 17]))
    replay.add(make_episode(30, source="rollout"))
    got = gather(replay.view(), np.repeat([0, 1], 30), np.tile(np.arange(30), 2), 1).exemplary
    assert got[:30].tolist() == [False] * 16 + [True] * 14
    assert got[30:].all()


drawn = st.tuples(
    st.integers(1, 40),
    st.sampled_from(["success", "failure", "unjudged"]),
    st.sampled_from(["demo", "rollout", "play", "online"]),
    st.sets(st.integers(0, 39), max_size=6),
    st.sampled_from([0.25, 0.5, -0.75]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(drawn, min_size=1, max_size=4),
    st.sampled_from([1, 2, 3, 10]),
    st.sampled_from([0.5, 0.9, 0.998, 1.0]),
    st.booleans(),
)
def test_the_store_and_the_gather_equal_the_loop(
    batch: list, n: int, gamma: float, takeover_fails: bool
) -> None:  # type: ignore[type-arg]
    batch = [
        make_episode(T, outcome, source=source, human=[i for i in human if i < T], mark=mark)
        for T, outcome, source, human, mark in batch
    ]
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(
            folder,
            SPEC,
            TASKS,
            InstructionEncoder(),
            ReplayConfig(gamma=gamma, takeover_fails=takeover_fails),
        )
        for episode in batch:
            assert replay.add(episode)
        where = [(e, t) for e, episode in enumerate(batch) for t in range(episode.steps)]
        index, start = np.array(where).T
        got = gather(replay.view(), index, start, n)
        replay.close()
    want = [loop(batch[e], t, n, gamma, H, takeover_fails) for e, t in where]
    for name, array in {
        "proprio": got.observation.proprio,
        "next_proprio": got.next_observation.proprio,
        "chunk": got.chunk,
        "valid": got.valid,
        "reward": got.reward,
        "discount": got.discount,
        "intervention": got.intervention,
        "exemplary": got.exemplary,
    }.items():
        np.testing.assert_allclose(
            array, np.stack([row[name] for row in want]), rtol=1e-6, atol=0, err_msg=name
        )
