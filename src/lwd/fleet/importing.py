"""Bring in the episodes of a LeRobot data set, as a robot would deliver them: once each, checked, part of a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from lwd.config import Experiment
from lwd.errors import EpisodeError
from lwd.fleet.folder import Services
from lwd.fleet.progress import progress
from lwd.fleet.recording import recording
from lwd.log.lerobot.convert import Converter
from lwd.log.validate import validate


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of a data set's episodes.

    Attributes:
        imported: how many are in the log now that were not.
        kept: how many were there already.
        deleted: how many somebody deleted from this log; they stay out of it.
        problems: the others, and why; `EpisodeError.episode_id` is the episode's number in the data set.
    """

    imported: int
    kept: int
    deleted: int
    problems: tuple[EpisodeError, ...]


def import_lerobot(
    experiment: Experiment, services: Services, converter: Converter, console: Console
) -> ImportReport:
    """Import what fits; an episode that does not is reported and holds up no other. Cut off, it goes on when run again.

    Raises:
        ConfigError: one of the data set's files cannot be read.
        StoreError: the log cannot be written.
    """
    spec, entries = converter.spec, converter.dataset.entries
    imported = kept = deleted = 0
    problems: list[EpisodeError] = []

    def known(episode_id: str, *, deleted: bool) -> bool:
        return bool(services.catalogue.ids(episode_id, 1, deleted=deleted))

    with recording(experiment, services) as recorder, progress(console, "import", len(entries)) as bar:
        for entry in entries:
            try:
                episode = converter.without_pictures(entry)
                name = episode.header.episode_id
                there = known(name, deleted=False)
                gone = not there and known(name, deleted=True)
                if not (there or gone):  # decoding pictures is most of the work
                    episode = converter.with_pictures(entry, episode)
                    validate(episode, {spec.name: spec}, converter.tasks)
            except EpisodeError as error:
                problems.append(EpisodeError(str(entry.index), error.reason, error.detail))
            else:
                if there:
                    kept += 1
                elif gone:
                    deleted += 1
                else:
                    recorder.submit(episode)
                    imported += 1
            bar.advance(note=f"{imported} imported, {len(problems)} refused")
    return ImportReport(imported=imported, kept=kept, deleted=deleted, problems=tuple(problems))
