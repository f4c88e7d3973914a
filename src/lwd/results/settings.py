"""What an experiment is set to, setting by setting, so that two can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NamedTuple

from lwd.config import Experiment
from lwd.errors import ConfigError

_ALWAYS = ("fleet", "collect", "model", "clone", "evaluate", "gamma")
_OF_STAGE = {
    "sft": _ALWAYS,
    "offline": (*_ALWAYS, "offline"),
    "online": (*_ALWAYS, "offline", "online", "takeover_fails"),
    "consolidated": (*_ALWAYS, "offline", "online", "takeover_fails", "consolidated"),
}

Settings = Mapping[str, str]
"""Path of a setting -> its value as Python writes it; of a dataclass its name."""


class _Leaf(NamedTuple):
    path: str
    value: str
    default: bool


def settings(experiment: Experiment, stage: str) -> dict[str, str]:
    """Everything that a result at this stage depends on, except the seed.

    A later stage's settings do not count, so tuning the online stage leaves SFT and offline results valid.
    """
    return {leaf.path: leaf.value for leaf in _of_stage(experiment, stage)}


def agree(written: Settings, experiment: Experiment, stage: str) -> bool:
    """Whether a result with these settings is a result of this experiment.

    A setting that the program learned since counts as agreed where it has its default value, so that a new option does not
    make every result a result of another experiment. A default that changed is a difference.
    """
    return completed(written, experiment, stage) == settings(experiment, stage)


def completed(written: Settings, experiment: Experiment, stage: str) -> dict[str, str]:
    """The settings of a result and, at their defaults, those that the program learned since: old and new can be averaged."""
    learned = {leaf.path: leaf.value for leaf in _of_stage(experiment, stage) if leaf.default}
    return {**learned, **written}


def differences(plain: Experiment, changed: Experiment) -> dict[str, str]:
    """Path of each setting that was changed -> "its value (the plain one)"; of another class its name alone."""
    old, new = settings(plain, "consolidated"), settings(changed, "consolidated")
    classes = [p for p in old if p in new and old[p] != new[p] and any(q.startswith(f"{p}.") for q in new)]
    return {
        path: f"{new.get(path, 'none')} ({old.get(path, 'none')})"
        for path in dict.fromkeys((*old, *new))
        if old.get(path) != new.get(path) and not any(path.startswith(f"{within}.") for within in classes)
    }


def _of_stage(experiment: Experiment, stage: str) -> Iterator[_Leaf]:
    of = {item.name: item for item in fields(experiment)}
    for name in _OF_STAGE[stage]:
        value = getattr(experiment, name)
        yield from _leaves(name, value, default=value == _default(of[name]))


def _leaves(path: str, value: Any, default: bool) -> Iterator[_Leaf]:
    if is_dataclass(value):
        yield _Leaf(path, type(value).__name__, default)
        for item in fields(value):
            inner = getattr(value, item.name)
            yield from _leaves(f"{path}.{item.name}", inner, default or inner == _default(item))
    elif isinstance(value, Mapping):
        yield _Leaf(path, ", ".join(map(str, value)), default)
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner, default)
    else:
        text = repr(value)
        if " at 0x" in text:
            raise ConfigError(f"{path} is set to {text}, which says nothing; settings must be plain values.")
        yield _Leaf(path, text, default)


def _default(item: Field[Any]) -> Any:
    """A field's default; MISSING, which equals nothing else, where it has none."""
    return item.default_factory() if item.default_factory is not MISSING else item.default
