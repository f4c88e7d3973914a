"""The learner-side type: one chunk-level sample. NamedTuples of arrays, which NumPy fills and JAX takes as pytrees."""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any
"""A NumPy array in the replay, a JAX array in the learner. Shapes below are for one sample; batches put axes in front."""


class Observation(NamedTuple):
    """What the policy sees.

    Attributes:
        proprio: float32 [P].
        instruction: float32 [E], the embedded sentence.
        images: dict of camera -> uint8 [h, w, 3]; an empty dict in state tasks.
        prompts: dict of tokenizer -> int32 [L], the sentence (and, for pi0.5, the discretised proprio) as token ids padded
            with 0; None where networks read `instruction`.
    """

    proprio: Array
    instruction: Array
    images: dict[str, Array]
    prompts: dict[str, Array] | None = None


class Transition(NamedTuple):
    """One learning sample (Eq 2 and 19): a chunk, what it earned over n chunks, and where it led.

    Attributes:
        observation: s_t.
        chunk: float32 [H, A], a_t; a chunk that the episode's end cut short repeats its last action.
        valid: bool [H], False on that repeated tail.
        reward: float32 [], the discounted n-step reward.
        discount: float32 []; 0 where the return was cut by success or failure, gamma^(steps to next_observation)
            otherwise. It carries termination; nothing else in the learner knows about episode ends.
        next_observation: the state bootstrapped from.
        intervention: bool [], True if a human commanded any step of the chunk.
        exemplary: bool [], True if the chunk is worth imitating: its episode succeeded and nobody had to take over
            in it or later on, or a human who corrects the policy commands all of it.
        task: int32 [], index into the fleet's tasks, for metrics per task only; no network sees it.
    """

    observation: Observation
    chunk: Array
    valid: Array
    reward: Array
    discount: Array
    next_observation: Observation
    intervention: Array
    exemplary: Array
    task: Array
