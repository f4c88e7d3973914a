"""What an episode is worth to learning: what goes first where there is not room for all.

The order is that of the spool's budget and of retention. The issue says "oldest autonomous successes go last; interventions
and failures never before them", which leaves the order between whole classes to be read. Read here as: an intervention or
a failure is dropped only when no autonomous success is left; among autonomous successes the newest goes first and the
oldest last. So interventions and failures, which a fleet cannot repeat at will, are kept for longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from lwd.episode import Episode, EpisodeHeader, Outcome, Source


class Worth(IntEnum):
    """From what goes first to what goes last.

    UNJUDGED: autonomous and cut off, it says neither what works nor what fails. SUCCESS, FAILURE: autonomous, with a
    verdict. HUMAN: a person commanded part or all of it: interventions, demonstrations and play, whatever the verdict.
    """

    UNJUDGED = 0
    SUCCESS = 1
    FAILURE = 2
    HUMAN = 3


@dataclass(frozen=True, kw_only=True)
class About:
    """What an episode's worth follows from; `intervention_steps` counts the control steps that a human commanded."""

    source: Source
    outcome: Outcome
    intervention_steps: int

    @property
    def worth(self) -> Worth:
        """Its class."""
        if self.intervention_steps > 0 or self.source in (Source.DEMO, Source.PLAY):
            return Worth.HUMAN
        return {Outcome.SUCCESS: Worth.SUCCESS, Outcome.FAILURE: Worth.FAILURE}.get(
            self.outcome, Worth.UNJUDGED
        )


def about(episode: Episode) -> About:
    """Of a whole episode."""
    return About(
        source=episode.header.source,
        outcome=episode.verdict.outcome,
        intervention_steps=int(episode.interventions.sum()),
    )


def worth_so_far(header: EpisodeHeader, intervention_steps: int) -> Worth:
    """Of a running episode: it may still fail, so it counts as a failure unless a human has commanded."""
    running = About(source=header.source, outcome=Outcome.FAILURE, intervention_steps=intervention_steps)
    return running.worth
