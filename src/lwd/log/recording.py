"""One running episode on its way into the spool."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lwd.episode import EpisodeHeader, Outcome, Verdict
from lwd.errors import EpisodeError, StoreError
from lwd.log import codec, layout
from lwd.log.keeper import Keeper
from lwd.log.spool import Spool, reporting
from lwd.log.spool_file import SpoolFile
from lwd.log.worth import About, worth_so_far

log = logging.getLogger(__name__)

MAX_RECORDED_BYTES = layout.MAX_EPISODE_BYTES - 32 * 2**20
"""What a running episode may have, so that what its end adds (last pictures, index) still fits: more is never delivered."""


class EpisodeRecording:
    """One running episode; implements `lwd.robot.recorder.Recording`. Made by `EdgeClient.begin`; one thread."""

    def __init__(
        self,
        spool: Spool,
        keeper: Keeper,
        header: EpisodeHeader,
        flush_steps: int,
        on_end: Callable[[EpisodeRecording], bool],
        on_torn: Callable[[], None],
    ) -> None:
        self._spool, self._keeper, self._header = spool, keeper, header
        self._on_end, self._on_torn = on_end, on_torn
        self._interventions = 0
        self.path = spool.new_part(header.episode_id)
        with reporting(self.path, "create"):
            self._file = SpoolFile(self.path, self._room)
        spool.index.runs(self.path)
        try:
            with reporting(self.path, "write"):
                self._stream = codec.EpisodeStream(self._file, header, flush_steps)
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                spool.discard(
                    self.path
                )  # it holds no step, and nobody would look at it before the next start
            raise

    def step(
        self,
        proprio: NDArray[np.float32],
        action: NDArray[np.float32],
        intervention: bool,
        time_s: float,
        images: Mapping[str, bytes],
    ) -> None:
        """Append a control step: state [P] sensed `time_s` seconds into the episode, action [A] then executed.

        Raises:
            EpisodeError: the episode has as many steps or bytes as one may have; what is written so far is kept.
            StoreError: the spool cannot be written, and on a full disk nothing may go for this episode; what is
                written so far is kept.
        """
        size = self._file.tell() + sum(map(len, images.values()))
        if size > MAX_RECORDED_BYTES:
            detail = (
                f"{size} bytes after {self._stream.steps} control steps, at most {MAX_RECORDED_BYTES} are recorded; end it "
                "and begin the next one, or make the pictures smaller."
            )
            raise EpisodeError(self._header.episode_id, "shape", detail)
        self._interventions += bool(intervention)
        with reporting(self.path, "write"):
            self._stream.step(proprio, action, intervention, time_s, images)

    def finish(
        self, proprio: NDArray[np.float32], time_s: float, images: Mapping[str, bytes], verdict: Verdict
    ) -> None:
        """Close with the final state [P] and the verdict; from then on the episode is in the spool for good.

        An episode without a control step is dropped, and so is one that a full budget has no room for: it is counted
        then. StoreError as in `step`.
        """
        steps, header = self._stream.steps, self._header
        if steps == 0:
            self.abort()
            return
        about = About(source=header.source, outcome=verdict.outcome, intervention_steps=self._interventions)
        with reporting(self.path, "write"):
            self._stream.finish(proprio, time_s, images, verdict)
            self._file.sync()
            self._file.close()
            self._spool.promote(self.path, about)
        self._on_end(self)
        log.info(
            "episode_recorded episode=%s task=%s snapshot=%s outcome=%s steps=%d",
            *(header.episode_id, header.task, header.snapshot, verdict.outcome, steps),
        )
        try:
            self._keeper.settle()
        except OSError as error:  # the episode is whole and safe; room is made at the next occasion
            log.error("spool_over_budget path=%s cause=%r", self.path, str(error))

    def abort(self) -> None:
        """Give up: what is whole becomes an UNJUDGED episode. Does nothing after `finish` or `abort`.

        Raises:
            StoreError: the spool cannot be written; the torn file stays, and the client tries it again.
        """
        with self._spool.mending:  # from its end until it is whole nobody else may take it for a torn file
            if not self._on_end(self):
                return
            self._close()
            left = About(
                source=self._header.source, outcome=Outcome.UNJUDGED, intervention_steps=self._interventions
            )
            try:
                with reporting(self.path, "write"):
                    self._keeper.store(lambda: self._spool.salvage(self.path), left)
            except StoreError:
                self._on_torn()
                raise

    def _room(self, size: int, full: bool) -> bool:
        return self._keeper.room(size, full, worth_so_far(self._header, self._interventions))

    def _close(self) -> None:
        try:
            if not self._file.closed:
                self._stream.flush()
        except (OSError, StoreError) as error:
            log.warning("spool_flush_failed path=%s cause=%r", self.path, str(error))
        try:
            self._file.close()
        except OSError as error:  # a full disk can refuse the last buffered bytes
            log.warning("spool_close_failed path=%s cause=%r", self.path, str(error))
