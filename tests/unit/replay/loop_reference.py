"""Slow and plain: one transition at a time, step by step, as the paper's text says it."""

from __future__ import annotations

import numpy as np

from lwd.episode import Episode, Outcome, Source


def human(episode: Episode, start: int, H: int) -> bool:
    return any(bool(episode.interventions[i]) for i in range(start, min(start + H, episode.steps)))


def needed_help(episode: Episode, start: int) -> bool:
    """Whether a human takes over from the policy after this step."""
    hands = episode.interventions
    return any(bool(hands[i]) and not bool(hands[i - 1]) for i in range(start + 1, episode.steps))


def transition(
    episode: Episode, start: int, n: int, gamma: float, H: int, takeover_fails: bool = False
) -> dict[str, object]:
    T = episode.steps
    outcome = Outcome.FAILURE if episode.header.source is Source.PLAY else episode.verdict.outcome
    reward, end, cut = 0.0, start, False
    for k in range(n):
        at = start + k * H
        if at >= T:
            break
        if k > 0 and human(episode, at, H) and not human(episode, at - H, H):
            break
        for i in range(at, min(at + H, T)):
            last = i == T - 1
            reward += gamma ** (i - start) * (1.0 if last and outcome is Outcome.SUCCESS else 0.0)
            cut = cut or (last and outcome is not Outcome.UNJUDGED)
            end = i + 1
    if takeover_fails and not cut and end < T:
        cut = human(episode, end, H) and not human(episode, end - H, H)
    return {
        "proprio": episode.proprio[start],
        "chunk": np.stack([episode.actions[min(start + i, T - 1)] for i in range(H)]),
        "valid": np.array([start + i < T for i in range(H)]),
        "reward": reward,
        "discount": 0.0 if cut else gamma ** (end - start),
        "next_proprio": episode.proprio[end],
        "intervention": human(episode, start, H),
        "exemplary": (outcome is Outcome.SUCCESS and not needed_help(episode, start))
        or (
            episode.header.source is Source.ONLINE
            and all(bool(episode.interventions[i]) for i in range(start, min(start + H, episode.steps)))
        ),
    }
