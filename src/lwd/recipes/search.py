"""The search behind the comparison: every method with three values of the setting that matters most to it, LWD too.

Where the best of the three lies at the edge, one value beyond it is tried as well. Each is run on a training seed that no
comparison uses, up to its offline stage (HG-DAgger, which has none, through its online stage). The best value is the method's
default in `lwd.recipes.methods`; docs/reference/search.md shows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lwd.config import Experiment
from lwd.errors import ConfigError
from lwd.recipes.fast import metaworld
from lwd.recipes.methods import METHODS

SEARCH_SEED = 10
"""Added to the seed, so that nothing is chosen on the seeds that are compared."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One method with one value of its setting.

    Attributes:
        method, setting, value: what is tried.
    """

    method: str
    setting: str
    value: float

    @property
    def name(self) -> str:
        """Its row."""
        return f"{self.method}-{self.setting}-{self.value:g}"

    def __call__(self, x: Experiment) -> Experiment:
        """The method's experiment with this value in both stages."""
        x = METHODS[self.method](x)
        change = SETTINGS[self.setting]
        return replace(
            x,
            name=f"{x.name}_{self.setting}_{self.value:g}",
            offline=replace(x.offline, learner=change(x.offline.learner, self.value)),
            online=replace(x.online, learner=change(x.online.learner, self.value)),
        )


def metaworld_search(seed: int = 0) -> Experiment:
    """The fast tier's benchmark with a seed of the search."""
    return replace(metaworld(seed + SEARCH_SEED), name="metaworld_search")


def _temperature(learner: Any, value: float) -> Any:
    return replace(learner, qam=replace(learner.qam, temperature=value))


def _expectile(learner: Any, value: float) -> Any:
    return replace(learner, divl=replace(learner.divl, tau_base=value))


def _field(name: str) -> Callable[[Any, float], Any]:
    return lambda learner, value: replace(learner, **{name: value})


def _chunks(learner: Any, value: float) -> Any:
    return replace(learner, n=int(value))


def _learning_rate(learner: Any, value: float) -> Any:
    return replace(learner, policy=replace(learner.policy, learning_rate=value))


SETTINGS: Mapping[str, Callable[[Any, float], Any]] = {
    "temperature": _temperature,
    "expectile": _expectile,
    "beta": _field("beta"),
    "n": _chunks,
    "learning_rate": _learning_rate,
    "guidance": _field("guidance"),
}
"""Setting -> (learner, value) -> the learner with it."""

SPACE: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("lwd", "temperature"): (0.01, 0.02, 0.04, 0.08),
    ("iql_qam", "expectile"): (0.6, 0.75, 0.9),
    ("awac", "beta"): (0.01, 0.02, 0.05, 0.15),
    ("best_of_n", "n"): (4.0, 8.0, 16.0, 32.0),
    ("rft", "learning_rate"): (1e-4, 3e-4, 1e-3, 3e-3),
    ("hg_dagger", "learning_rate"): (3e-4, 1e-3, 3e-3, 1e-2),
    ("recap", "guidance"): (1.0, 2.5, 5.0, 10.0),
}
"""(method, setting) -> what is tried: each method's setting, three values, and one beyond an edge that was best."""


CANDIDATES = [
    Candidate(method=method, setting=setting, value=value)
    for (method, setting), values in SPACE.items()
    for value in values
]


def used(x: Experiment, tried: Sequence[Candidate] = tuple(CANDIDATES)) -> list[Candidate]:
    """The candidates that comparisons use: those whose value is the method's own in this experiment, one for each method.

    Raises:
        ConfigError: none of a method's values is its own, so that the comparison would use what was not tried.
    """

    def is_own(one: Candidate) -> bool:
        plain = METHODS[one.method](x).online.learner
        return SETTINGS[one.setting](plain, one.value) == plain

    found = [one for one in tried if is_own(one)]
    for method in dict.fromkeys(one.method for one in tried):
        if sum(one.method == method for one in found) != 1:
            values = [one.value for one in tried if one.method == method]
            setting = next(one.setting for one in tried if one.method == method)
            raise ConfigError(f"{method}'s own {setting} is not among the values searched, {values}.")
    return found
