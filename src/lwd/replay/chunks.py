"""Index arithmetic: episodes and start steps in, stacked transitions out. A chunk may start at every control
step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.episode import Source
from lwd.replay import returns
from lwd.replay.returns import SUCCESS, Ints
from lwd.replay.store import STEP_HUMAN
from lwd.replay.table import SOURCES
from lwd.replay.view import View
from lwd.transition import Observation, Transition


def gather(view: View, episode: Ints, start: Ints, n: Ints | int) -> Transition:
    """The transitions that start at control step `start` of the given episodes.

    Args:
        view: the frozen replay.
        episode: row of `view.episodes`, any shape [...].
        start: t in [0, T), same shape.
        n: chunks per window, same shape or one number.

    Returns:
        A Transition of fresh arrays with the axes [...] in front: proprio [..., P], chunk [..., H, A] and so
        on. The two observations share their instruction array. In the last chunk of an episode shorter than
        H, the last action is repeated and `valid` is False there.

    Paper: Eq 2 and 19.
    """
    rows, columns, H = view.episodes, view.columns, view.spec.chunk_steps
    first, steps = rows["first"][episode], rows["steps"][episode]
    base = first + start
    outcome, takeover = rows["outcome"][episode], columns.takeover[base]
    window = returns.window(
        start,
        steps,
        outcome,
        takeover,
        n,
        gamma=view.gamma,
        chunk_steps=H,
        takeover_fails=view.takeover_fails,
    )
    ahead = np.arange(H)
    left = (steps - start)[..., None]
    executed = base[..., None] + np.minimum(ahead, left - 1)
    human = (columns.flags[executed] & STEP_HUMAN) != 0
    sentences = view.instructions[rows["instruction"][episode]]
    then = first + window.end
    seen, seen_then = _pictures(view, base, then)
    return Transition(
        observation=Observation(np.take(columns.proprio, base, axis=0), sentences, seen),
        chunk=np.take(columns.actions, executed, axis=0),
        valid=ahead < left,
        reward=window.reward,
        discount=window.discount,
        next_observation=Observation(np.take(columns.proprio, then, axis=0), sentences, seen_then),
        intervention=human.any(-1),
        exemplary=_exemplary(view, np.asarray(episode), start, human),
        task=rows["task"][episode].astype(np.int32),
    )


def _exemplary(view: View, episode: Ints, start: Ints, human: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a chunk whose steps [..., H] these hands commanded is worth imitating; see `Transition.exemplary`."""
    rows = view.episodes
    corrected = human.all(-1) & (rows["source"][episode] == SOURCES.index(Source.ONLINE))
    return corrected | ((rows["outcome"][episode] == SUCCESS) & (start >= _last_takeovers(view, episode)))


def _last_takeovers(view: View, episode: Ints) -> NDArray[np.int64]:
    """The step at which a human took over for the last time in each of these episodes, 0 where nobody did.

    Not `Columns.takeover`: that goes by chunks, and overlooks a takeover soon after a hand-back.
    """
    found, where = np.unique(episode, return_inverse=True)
    human, steps = view.episodes["human_steps"][found], view.episodes["steps"][found]
    last = np.zeros(len(found), np.int64)
    for i in np.flatnonzero((human > 0) & (human < steps)).tolist():
        last[i] = view.human_spans(int(found[i]))[-1][0]
    return last[where].reshape(episode.shape)


def _pictures(
    view: View, now: NDArray[Any], then: NDArray[Any]
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.uint8]]]:
    """The pictures at two arrays of rows, decoded in one go; empty for a robot without cameras."""
    places = next(iter(view.columns.pictures.values()), None)
    if places is None:
        return {}, {}
    pixels = view.pictures(places[np.stack((now, then))])
    return {name: both[0] for name, both in pixels.items()}, {name: both[1] for name, both in pixels.items()}
