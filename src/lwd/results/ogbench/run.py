"""One run: offline updates on play data, then online ones, one for each control step; evaluated as the published curves are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from lwd.baselines.qam_public import PublicQam, PublicQamState
from lwd.errors import ConfigError
from lwd.evaluate.provenance import current_commit, describe_hardware, describe_software
from lwd.learner.stages import run_block
from lwd.models.mlp import MlpConfig, MlpPolicy, Normalizer
from lwd.results.ogbench.data import DataSet, Rows, load, reward
from lwd.results.ogbench.play import PlaySettings, write_play
from lwd.results.ogbench.robot import acting, evaluate, make_environment
from lwd.results.ogbench.runfile import MAY_GROW, OgbenchRun, Point, read_run, run_path, write_run
from lwd.results.ogbench.store import RunStore
from lwd.results.ogbench.tasks import CHUNK_STEPS, PUBLISHED_EVERY, Task, size, task

EVALUATION_SEED = 10_000_000
_DATA_STREAM, _ONLINE_STREAM, _LEARNER_STREAM, _START_STREAM = range(4)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One run of a task.

    Attributes:
        task: for example scene-task1; size: of the networks, `SIZES`.
        updates: learner steps of the offline stage (a million published).
        online_steps: control steps after it, one learner step each (500,000 published); 0 for offline alone.
        online_warm_up: control steps before the first online learner step.
        data: a file of the published form; None for play of our own, `play_episodes` of it with seed 0, made once.
        evaluate_every: learner steps between evaluations; episodes: of each.
        checkpoint_every: learner steps between checkpoints.
        block_steps: learner steps per dispatch of the offline stage.
    """

    task: str
    seed: int = 0
    size: str = "public"
    updates: int = 1_000_000
    online_steps: int = 500_000
    online_warm_up: int = 5_000
    data: Path | None = None
    play_episodes: int = 1000
    evaluate_every: int = PUBLISHED_EVERY
    episodes: int = 50
    checkpoint_every: int = 10_000
    block_steps: int = 100

    def __post_init__(self) -> None:
        task(self.task)
        size(self.size)
        low = {"updates": 1, "online_steps": 0, "online_warm_up": 0, "evaluate_every": 1, "episodes": 1}
        low |= {"checkpoint_every": 1, "block_steps": 1, "play_episodes": 1, "seed": 0}
        for name, least in low.items():
            if getattr(self, name) < least:
                raise ConfigError(f"RunSettings.{name} must be at least {least}, got {getattr(self, name)}.")

    @property
    def command(self) -> str:
        """What makes this run: its name, and every setting that is not the default. Of a data file the name alone."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        named = {name: chosen.pop(name) for name in ("task", "size", "seed")}
        named |= {name: value for name, value in chosen.items() if value != getattr(type(self), name)}
        if self.data is not None:
            named["data"] = self.data.name
        said = (f"--{name.replace('_', '-')} {value}" for name, value in named.items())
        return " ".join(("python -m lwd.results.ogbench run", *said))

    @property
    def learner(self) -> PublicQam:
        """The method."""
        return PublicQam(
            inverse_temperature=task(self.task).domain.inverse_temperature, batch=size(self.size).batch
        )


class Run:
    """A run in a folder of its own; goes on from its newest checkpoint.

    Args:
        folder: checkpoints, the robot's rows and (beside it, shared) play data; results: of run files.
        say: told a line now and then.
    """

    def __init__(
        self, settings: RunSettings, folder: Path, results: Path, say: Callable[[str], None] = print
    ) -> None:
        self._x, self._results, self._say = settings, results, say
        self._task: Task = task(settings.task)
        self._env, self._test_env = make_environment(self._task), make_environment(self._task)
        data = load(settings.data or self._own_play(folder), self._task, self._env)
        self._data: DataSet = data
        self._rows = Rows(data, room=2 * settings.online_steps + 2)  # each row may be an episode's last
        self._learner = settings.learner
        self._update = self._learner.update(self._first_policy())
        self._store = RunStore(folder / settings.size / settings.task / f"seed_{settings.seed}")
        self._curve: list[Point] = []
        self._control_steps, self._owed = 0, 0  # control steps done, and those not yet learned from
        self._spent, self._began = 0.0, time.monotonic()

    def close(self) -> None:
        """Release environments and checkpoints."""
        self._store.close()
        self._env.close()
        self._test_env.close()

    def run(self) -> OgbenchRun:
        """Both stages, or what is left of them; the run file grows with each evaluation."""
        state = self._restored()
        if self._complete(state):
            return self._keep(state)
        self._say(f"{self._name}: from update {int(state.step)}, {self._data.origin}")
        while (done := int(state.step)) < self._x.updates:
            until = min(
                done + self._x.block_steps,
                self._x.updates,
                *(
                    done - done % every + every
                    for every in (self._x.evaluate_every, self._x.checkpoint_every)
                ),
            )
            state = self._learn(state, until - done)
        if self._x.online_steps:
            state = self._online(state)
        if self._evaluated_at < int(state.step):
            self._evaluate(state, {})
        return self._keep(state)

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _learn(self, state: PublicQamState, updates: int) -> PublicQamState:
        """That many learner steps, and what is due after them. Draws depend on the seed and the learner step alone."""
        before = int(state.step)
        rng = np.random.default_rng([self._x.seed, _DATA_STREAM, before])
        batches = self._rows.sample(rng, updates, self._learner.batch)
        state, metrics = run_block(self._update, state, batches, self._key(_LEARNER_STREAM))
        step = int(state.step)
        if step // self._x.evaluate_every > before // self._x.evaluate_every or step == self._x.updates:
            self._evaluate(state, {name: float(value) for name, value in metrics.items()})
        elif step // self._x.checkpoint_every > before // self._x.checkpoint_every:
            self._save(state)
            self._say(f"{self._name}: update {step}, critic/loss {float(metrics['critic/loss']):.4g}")
        return state

    def _online(self, state: PublicQamState) -> PublicQamState:
        """The robot runs the live policy; each control step after the warm-up is worth a learner step, done chunk by chunk."""
        proprio, key = None, self._key(_ONLINE_STREAM)
        while self._control_steps < self._x.online_steps:
            if proprio is None:
                proprio, _ = self._env.reset(seed=self._start_seed())
            act = acting(state.learned.policy, self._env.action_space.shape[0], self._learner.flow_steps)
            taken, proprio = self._carry_out(
                proprio, act(proprio, jax.random.fold_in(key, self._control_steps))
            )
            self._owed += max(0, min(taken, self._control_steps - self._x.online_warm_up))
            while self._owed >= CHUNK_STEPS:
                self._owed -= CHUNK_STEPS  # before the learner steps, which save it
                state = self._learn(state, CHUNK_STEPS)
        return state

    def _carry_out(self, proprio: Any, chunk: Any) -> tuple[int, Any]:
        """Execute a chunk; control steps taken, and the observation after it, None where the episode ended."""
        for taken, action in enumerate(chunk, start=1):
            following, counted, terminated, truncated, _ = self._env.step(action)
            self._rows.add(
                proprio, action, float(reward(counted, self._task.domain)), float(not terminated), last=False
            )
            self._control_steps += 1
            proprio = following
            if terminated or truncated:
                self._rows.add(proprio, action, 0.0, 1.0, last=True)
                return taken, None
            if self._control_steps >= self._x.online_steps:
                return taken, proprio
        return len(chunk), proprio

    def _start_seed(self) -> int:
        return int(
            np.random.SeedSequence([self._x.seed, _ONLINE_STREAM, self._control_steps]).generate_state(1)[0]
        )

    # ---- what stays --------------------------------------------------------------------------------------------------

    def _evaluate(self, state: PublicQamState, metrics: dict[str, float]) -> None:
        act = acting(state.learned.policy, self._env.action_space.shape[0], self._learner.flow_steps)
        successes = evaluate(self._test_env, act, self._x.episodes, EVALUATION_SEED)
        point = Point(
            updates=int(state.step),
            control_steps=self._control_steps,
            successes=successes,
            episodes=self._x.episodes,
        )
        self._curve.append(point)
        shown = ("critic/loss", "critic/q", "policy/adjoint_norm", "policy/path_kl")
        numbers = ", ".join(f"{name} {metrics[name]:.4g}" for name in shown if name in metrics)
        self._say(
            f"{self._name}: update {point.updates}, {successes} of {point.episodes} successes"
            + (f", {numbers}" if numbers else "")
        )
        self._save(state)
        self._keep(state)

    def _save(self, state: PublicQamState) -> None:
        position = {
            "curve": [asdict(point) for point in self._curve],
            "control_steps": self._control_steps,
            "owed": self._owed,
            "offline_updates": self._x.updates,
            "seconds": self._seconds(),
        }
        self._store.save(int(state.step), state, self._rows, position)

    def _restored(self) -> PublicQamState:
        self._store.claim({name: value for name, value in self._settings().items() if name not in MAY_GROW})
        first = self._learner.start(self._first_policy(), self._model(), self._key(_START_STREAM))
        found = self._store.restore(first, self._rows)
        if found is None:
            return first
        state, position = found
        if position["control_steps"] and position["offline_updates"] != self._x.updates:
            raise ConfigError(
                f"{self._name} went online after {position['offline_updates']} updates; it cannot have {self._x.updates} now."
            )
        self._curve = [Point(**point) for point in position["curve"]]
        self._control_steps, self._spent = position["control_steps"], position["seconds"]
        self._owed = position.get("owed", 0)  # older folders lack it
        return state

    @property
    def _evaluated_at(self) -> int:
        """Learner step of the last evaluation, 0 before the first."""
        return self._curve[-1].updates if self._curve else 0

    def _complete(self, state: PublicQamState) -> bool:
        """Whether all learner and control steps are done and the policy that they left is evaluated."""
        done = int(state.step)
        steps = done >= self._x.updates and self._control_steps >= self._x.online_steps
        return steps and self._evaluated_at == done

    def _keep(self, state: PublicQamState) -> OgbenchRun:
        """Write the run file; a complete one stays as it is, with the commit and machine that made it."""
        path = run_path(self._results, self._x.size, self._x.task, self._x.seed)
        if path.exists() and (kept := read_run(path)).complete and kept.curve == self._curve:
            return kept
        run = OgbenchRun(
            task=self._x.task,
            size=self._x.size,
            seed=self._x.seed,
            data=self._data.origin,
            command=self._x.command,
            commit=current_commit(Path(__file__).parent),
            hardware=describe_hardware(),
            software=describe_software(),
            settings=self._settings(),
            seconds=round(self._seconds(), 1),
            complete=self._complete(state),
            curve=self._curve,
        )
        write_run(self._results, run)
        return run

    def _settings(self) -> dict[str, str]:
        """Everything that a number depends on."""
        of_run = {
            name: value for name, value in asdict(self._x).items() if name not in ("data", "task", "size")
        }
        parts = {"run": of_run, "learner": asdict(self._learner), "size": asdict(size(self._x.size))}
        return {
            "data": self._data.origin,
            **{
                f"{part}.{name}": str(value)
                for part, values in parts.items()
                for name, value in values.items()
            },
        }

    # ---- parts -------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"{self._x.size}/{self._x.task}/seed_{self._x.seed}"

    def _key(self, stream: int) -> PRNGKeyArray:
        """Of one of the seed's streams. None uses the seed's key itself: its `split` and its `fold_in` give the same keys."""
        return jax.random.fold_in(jax.random.key(self._x.seed), stream)

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _own_play(self, folder: Path) -> Path:
        settings = PlaySettings(domain=self._task.domain.name, episodes=self._x.play_episodes)
        path = folder / "data" / settings.file_name
        if not path.exists():
            write_play(settings, path, self._say)
        return path

    def _model(self) -> MlpConfig:
        sizes = size(self._x.size)
        return MlpConfig(
            proprio_dim=self._env.observation_space.shape[0],
            instruction_dim=1,
            chunk_steps=CHUNK_STEPS,
            action_dim=self._env.action_space.shape[0],
            width=sizes.width,
            depth=sizes.depth,
            heads=sizes.heads,
            atoms=1,
        )

    def _first_policy(self) -> MlpPolicy:
        """Carries the sizes and a normaliser that does nothing: the public QAM sees raw observations."""
        model = self._model()
        return MlpPolicy.init(jax.random.key(0), model, Normalizer.identity(model.proprio_dim))


def run_task(
    settings: RunSettings, folder: Path, results: Path, say: Callable[[str], None] = print
) -> OgbenchRun:
    """Run one task with one seed, or what is left of it, and write its run file."""
    one = Run(settings, folder, results, say)
    try:
        return one.run()
    finally:
        one.close()
