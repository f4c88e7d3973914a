"""The learner process: follow the manifests, run the method's learner steps, publish every N learner steps, checkpoint.

There may be several such processes, one per host; they run these lines in step, and whatever one of them alone can know (the
newest manifest, that it was told to stop) they agree on first.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

from lwd.config import Experiment
from lwd.episode import Source
from lwd.fleet.folder import RunFolder, Services, open_services
from lwd.fleet.hosts import Team
from lwd.fleet.metrics_log import MetricsLog, event
from lwd.fleet.offline import first_state, offline_result
from lwd.fleet.policies import announce_newest, load_reference, prompts_of, publish
from lwd.fleet.service import Context
from lwd.fleet.services import open_replay
from lwd.fleet.training import draws_of, open_checkpoints, open_metrics, stage_key
from lwd.learner.checkpoint import Checkpoints
from lwd.learner.method import Acting, Method
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.stages import augmented
from lwd.replay.reader import Reader
from lwd.replay.replay import Replay
from lwd.replay.sampler import Sampler
from lwd.transition import Transition

log = logging.getLogger(__name__)

_POLL_S = 0.2


def run_learner(
    context: Context,
    experiment: Experiment,
    folder: RunFolder,
    catch_up: bool = True,
    team: Team | None = None,
) -> None:
    """Online RL until told to stop, then the last snapshot. Resumes from its newest checkpoint.

    With `catch_up` it first learns what the rate limit still allows for what the fleet has delivered (an experiment's last
    policy); without, it ends after the block at hand (a service that is restarted). `team` says which of the learner's
    processes this is; by default it is the only one.
    """
    team = team or Team()
    with (
        open_services(folder) as services,
        open_replay(experiment, services, team.replay_name("learner")) as (replay, reader),
        open_metrics(folder, "online", team) as metrics,
        open_checkpoints(folder, "online", team) as checkpoints,
    ):
        learner = OnlineLearner(context, experiment, services, replay, reader, metrics, checkpoints, team)
        learner.run(catch_up)


class Drawn(NamedTuple):
    """A block's batches and the sampler that they came from."""

    sampler: Sampler
    batches: Transition


class OnlineLearner:
    """The loop of the learner process."""

    def __init__(
        self,
        context: Context,
        experiment: Experiment,
        services: Services,
        replay: Replay,
        reader: Reader,
        metrics: MetricsLog | None,
        checkpoints: Checkpoints,
        team: Team | None = None,
    ) -> None:
        self._team = team or Team()
        self._layout = self._team.layout
        self._context, self._x, self._services = context, experiment, services
        self._replay, self._reader, self._metrics, self._checkpoints = replay, reader, metrics, checkpoints
        self._stage = experiment.online
        self._block = self._stage.publish_every_learner_steps
        self._reference = load_reference(experiment, services)
        self._prompts = prompts_of(experiment, self._reference)
        learner = self._stage.learner
        self._update = self._layout.place(augmented(learner.update(self._reference), learner.augment))
        self._key = self._layout.place(stage_key("online", experiment.seed))
        self._rows = self._layout.rows(self._stage.learner.batch)
        self._state = self._first_state()
        self._began = time.monotonic()
        self._waited_s = 0.0
        self._ahead: Drawn | None = None
        self._sampleable = services.catalogue.newest_seq()
        self._warned = False

    def run(self, catch_up: bool = True) -> None:
        """Blocks of learner steps as fast as the rate limit allows; see `run_learner`."""
        if self._team.leads:
            announce_newest(self._x, self._services)
        while True:
            # Asked before the manifest is read, so that none is missed.
            stopping = self._team.agreement.any(self._context.should_stop())
            self._team.beat(self._step)
            if stopping and not catch_up:
                break
            sampler = self._newest_sampler() if self._ahead is None else self._ahead.sampler
            control_steps = sampler.view.steps_from(Source.ONLINE)
            why = self._stage.rate.learner_waits_for(self._step, self._block, control_steps)
            if why is None:
                self._run_block(self._ahead or self._drawn(sampler, self._step))
                if not catch_up:  # an experiment ends with its schedule, a service goes on
                    self._warn_once_learned_out()
            elif self._ahead is not None:
                self._ahead = None  # look at the newest manifest before waiting
            elif stopping:
                break
            else:
                self._wait(why)
        self._checkpoint()

    @property
    def _step(self) -> int:
        return int(self._state.step)

    def _run_block(self, drawn: Drawn) -> None:
        sampler, step = drawn.sampler, self._step + self._block
        self._state, metrics = self._layout.run_block(self._update, self._state, drawn.batches, self._key)
        self._ahead = self._drawn(self._newest_sampler(), step)  # while the block is being computed
        numbers = {name: float(value) for name, value in metrics.items()} | sampler.metrics
        acting = self._layout.whole(self._stage.learner.acting(self._state))
        if self._team.leads:
            self._publish(acting, sampler, numbers)
        every = self._stage.checkpoint_every_learner_steps
        if self._step // every > (self._step - self._block) // every:
            self._checkpoint()
        self._context.say(learner_step=self._step, manifest=sampler.manifest, waits_for=None)

    def _publish(self, acting: Acting, sampler: Sampler, numbers: dict[str, float]) -> None:
        """Send the policy to the robots, and write down how the block went."""
        snapshot = publish(
            self._x,
            self._services,
            acting,
            stage="online",
            learner_step=self._step,
            manifest=sampler.manifest,
        )
        elapsed = time.monotonic() - self._began
        control_steps = sampler.view.steps_from(Source.ONLINE)
        assert self._metrics is not None
        self._metrics.write(
            stage="online",
            learner_step=self._step,
            time_s=elapsed,
            snapshot=snapshot.number,
            control_steps=control_steps,
            **{"learner/waited_s": self._waited_s},
            **numbers,
        )
        event(
            log,
            "published",
            snapshot=snapshot.number,
            learner_step=self._step,
            manifest=sampler.manifest,
            sha256=snapshot.sha256[:12],
        )
        self._context.say(snapshot=snapshot.number)

    def _newest_sampler(self) -> Sampler:
        """Of the newest manifest that all have."""
        self._reader.refresh()
        self._note_sampleable()
        manifest = self._team.agreement.least(self._replay.manifest)
        view = self._replay.view(manifest)
        return self._replay.sampler(
            view, self._stage.mixture, self._x.seed, self._prompts, draws_of("online")
        )

    def _drawn(self, sampler: Sampler, step: int) -> Drawn:
        """The batches of the block that begins at `step`."""
        return Drawn(sampler, sampler.draw(step, self._block, self._stage.learner.batch, self._rows))

    def _note_sampleable(self) -> None:
        """How long after their end the episodes that just came in can be sampled."""
        newest = self._replay.last_number
        if newest > self._sampleable:
            rows = self._services.catalogue.episodes(after_seq=self._sampleable, upto_seq=newest)
            now = time.time()
            late = [now - row.ended_at for row in rows if row.ended_at is not None]
            self._context.telemetry.observe("episode_sampleable_seconds", late)
            self._sampleable = newest

    def _warn_once_learned_out(self) -> None:
        """Say that a learning rate has ended at 0: the learner goes on for nothing, and its metrics alone do not show it."""
        ended = learned_out(self._stage.learner, self._step)
        if not ended or self._warned:
            return
        self._warned = True
        steps = ", ".join(f"{name} at learner step {step}" for name, step in ended.items())
        why = (
            f"learns no more: learning rates ended at 0 ({steps}). Stop it, or begin anew with a larger decay_steps or a "
            "final_share above 0 in OnlineStage.learner"
        )
        event(log, "learning_rate_is_zero", level=logging.WARNING, cause=why, learner_step=self._step)
        self._context.say(warning=why)

    def _wait(self, why: str) -> None:
        self._context.say(learner_step=self._step, waits_for=why)
        event(log, "learner_waits", level=logging.DEBUG, waits_for=why, learner_step=self._step)
        time.sleep(_POLL_S)
        self._waited_s += _POLL_S

    def _first_state(self) -> Any:
        """Where the last online learner stopped; else the offline result under the online schedules."""
        newest = self._checkpoints.latest_step()
        self._team.agreement.same(-1 if newest is None else newest, "the newest checkpoint")
        if newest is not None:
            template = self._layout.place(first_state(self._x, self._stage.learner, self._reference))
            state, position = self._checkpoints.restore(template)
            event(log, "learner_resumed", learner_step=int(state.step), manifest=position["manifest"])
            self._reader.refresh()
            return self._layout.place(state)
        before = self._layout.whole(offline_result(self._x, self._services, self._layout))
        return self._layout.place(self._stage.learner.continued(self._reference, before))

    def _checkpoint(self) -> None:
        position = {"stage": "online", "seed": self._x.seed, "manifest": self._replay.manifest}
        self._checkpoints.save(self._step, self._state, position)


def learned_out(learner: Method, step: int) -> dict[str, int]:
    """Optimisers of a method whose learning rate is 0 from here on, with the learner step at which it got there."""
    optimizers = {name: o for name, o in vars(learner).items() if isinstance(o, OptimizerConfig)}
    return {
        name: o.decay_steps for name, o in optimizers.items() if o.final_share == 0.0 and step > o.decay_steps
    }
