"""Eq 2 and 19: chunk rewards, and the n-step return over chunks, against the sums as the paper writes them."""

import numpy as np
import pytest

from lwd.replay.returns import FAILURE, NEVER, SUCCESS, UNJUDGED, window

GAMMA, H = 0.97, 4


def written_out(start, steps, outcome, n):
    """sum_{i<n} gamma^{iH} r_{t+iH} with r_t = sum_{j<H} gamma^j r_{t+j}, cut where the episode ends."""
    rewards = np.zeros(steps)
    rewards[-1] = outcome == SUCCESS
    reward, end = 0.0, start
    for i in range(n):
        chunk = rewards[end : end + H]
        reward += GAMMA ** (i * H) * sum(GAMMA**j * r for j, r in enumerate(chunk))
        end += len(chunk)
        if end == steps:
            break
    judged_end = end == steps and outcome != UNJUDGED
    return end, reward, 0.0 if judged_end else GAMMA ** (end - start)


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE, UNJUDGED])
@pytest.mark.parametrize("n", [1, 2, 10])
def test_every_start_of_short_and_long_episodes(outcome, n):
    for steps in (1, 3, 4, 5, 11, 12, 45):
        start = np.arange(steps)
        episode = np.array(steps), np.array(outcome), np.full(steps, NEVER)
        got = window(start, *episode, n, gamma=GAMMA, chunk_steps=H)
        expected = np.array([written_out(t, steps, outcome, n) for t in start])
        np.testing.assert_array_equal(got.end, expected[:, 0])
        np.testing.assert_allclose(got.reward, expected[:, 1], rtol=1e-6)
        np.testing.assert_allclose(got.discount, expected[:, 2], rtol=1e-6)


def test_a_whole_success_seen_from_its_first_step():
    """The paper's numbers: 30 steps a chunk, gamma 0.9999, n = 10; the success comes 280 steps later."""
    args = (np.array(0), np.array(281), np.array(SUCCESS), np.array(NEVER), 10)
    got = window(*args, gamma=0.9999, chunk_steps=30)
    assert (int(got.end), float(got.discount)) == (281, 0.0)
    assert float(got.reward) == pytest.approx(0.9999**280)
