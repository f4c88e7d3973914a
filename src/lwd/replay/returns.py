"""The n-step return over chunks: the only place where gamma, n, H and the end of an episode meet.

A window starts at control step t and covers n chunks of H steps. It ends earlier where the episode ends, and
where a human takes over: the chunks before a takeover earned what the policy did, not what the human did next.
What they earned is open. As in the paper, the window bootstraps from the state that the human takes over in;
or the takeover counts as the policy's failure, as it would have been without the human (decision record 0022).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Outcome

OUTCOMES: tuple[Outcome, ...] = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNJUDGED)
"""Outcomes as the replay's tables number them."""
SUCCESS, FAILURE, UNJUDGED = range(3)

NEVER = np.uint16(65535)
"""In `chunks_to_takeover`: no takeover ahead."""

Ints = NDArray[np.integer[Any]]


class Window(NamedTuple):
    """What a window of n chunks earned and where it led; arrays of one common shape.

    Attributes:
        end: int64, control step within the episode whose state is bootstrapped from; t < end <= T.
        reward: float32, discounted to the window's start.
        discount: float32; 0 where success or failure cut the return, gamma^(end - t) otherwise.
    """

    end: NDArray[np.int64]
    reward: NDArray[np.float32]
    discount: NDArray[np.float32]


def human_chunks(interventions: NDArray[np.bool_], chunk_steps: int) -> NDArray[np.bool_]:
    """For every start t, whether a human commanded any step of the chunk t .. t + H - 1 (as far as the
    episode goes).

    Args:
        interventions: bool [T].
        chunk_steps: H.

    Returns:
        bool [T].
    """
    counts = np.concatenate(([0], np.cumsum(interventions)))
    start = np.arange(len(interventions))
    end = np.minimum(start + chunk_steps, len(interventions))
    return counts[end] > counts[start]


def chunks_to_takeover(interventions: NDArray[np.bool_], chunk_steps: int) -> NDArray[np.uint16]:
    """For every start t, the number of whole chunks after which a window must stop because a human takes
    over.

    That is the smallest k >= 1 for which chunk t + kH contains an intervention and chunk t + (k-1)H contains
    none, or NEVER. A window therefore leaves a human's chunk for a policy's, but never a policy's for a
    human's.

    Args:
        interventions: bool [T].
        chunk_steps: H.

    Returns:
        uint16 [T], computed once when an episode is stored, so that a draw needs one look-up instead of n.
    """
    human = human_chunks(interventions, chunk_steps)
    steps, H = len(human), chunk_steps
    ahead = np.full(steps, NEVER, np.uint16)
    # Backwards, H starts at a time: k(t) = 1 at a takeover, else 1 + k(t + H).
    stop = steps - H
    while stop > 0:
        here = slice(max(stop - H, 0), stop)
        later = slice(here.start + H, stop + H)
        taken_over = human[later] & ~human[here]
        following = ahead[later]
        ahead[here] = np.where(taken_over, 1, np.where(following == NEVER, NEVER, following + np.uint16(1)))
        stop = here.start
    return ahead


def window(
    start: Ints,
    steps: Ints,
    outcome: Ints,
    takeover: Ints,
    n: Ints | int,
    *,
    gamma: float,
    chunk_steps: int,
    takeover_fails: bool = False,
) -> Window:
    """The n-step return from each start. The reward is 1 at the last step of a success and 0 elsewhere.

    Success and failure are terminal: discount 0. An unjudged episode is truncated: the window ends at T and
    bootstraps from the last state with gamma^(T - t).

    Args:
        start: t, in [0, T); all arguments broadcast against each other.
        steps: T, length of the episode in control steps.
        outcome: index into OUTCOMES.
        takeover: `chunks_to_takeover` at t.
        n: chunks per window, at least 1.
        gamma: discount per control step.
        chunk_steps: H.
        takeover_fails: a window that a takeover ends is cut there, without reward.

    Paper: Eq 2 and 19.
    """
    first = np.asarray(start, np.int64)
    chunks = np.minimum(np.asarray(n, np.int64), takeover)
    end = np.minimum(first + chunks * chunk_steps, steps)
    finished = end == steps
    earned = finished & (np.asarray(outcome) == SUCCESS)
    cut = finished & (np.asarray(outcome) != UNJUDGED)
    if takeover_fails:
        cut = cut | (~finished & (chunks == takeover))
    # One power serves both: gamma^(end - t), and gamma^(T - 1 - t) is the same divided by gamma where end =
    # T.
    power = np.power(float(gamma), end - first)
    reward = np.where(earned, power / gamma, 0.0).astype(np.float32)
    discount = np.where(cut, 0.0, power).astype(np.float32)
    return Window(end, reward, discount)
