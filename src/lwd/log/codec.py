"""Episode <-> MCAP bytes. `layout` says what is in the file; here it is written step by step and read back whole."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any, Protocol, cast, runtime_checkable

import numpy as np
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from lwd.episode import Episode, EpisodeHeader, Outcome, Verdict
from lwd.errors import EpisodeError
from lwd.log import layout
from lwd.log.checks import LAST_TIME
from lwd.log.layout import CAMERA_PREFIX, FINAL_TOPIC, HEADER_TOPIC, STEP_TOPIC, VERDICT_TOPIC
from lwd.log.scan import Scan, TornError, scan

CHUNK_BYTES = 1024 * 1024
_NOTHING = np.empty(0, np.float32)


@runtime_checkable
class ByteSink(Protocol):
    """All that is asked of a file that an episode is written into."""

    def write(self, data: bytes, /) -> int:
        """Append."""
        ...

    def tell(self) -> int:
        """Bytes so far."""
        ...

    def flush(self) -> None:
        """Hand them on."""
        ...


class EpisodeStream:
    """Writes one episode file as the episode runs.

    Args:
        stream: where to write; stays open, the caller closes and syncs it.
        header: of the episode.
        flush_steps: control steps after which what was written is handed to the operating system, so that it
            survives the death of this process. Larger is faster and loses more; None leaves it to CHUNK_BYTES.
    """

    def __init__(self, stream: ByteSink, header: EpisodeHeader, flush_steps: int | None = None) -> None:
        layout.check_header(header)
        self._header, self._flush_steps = header, flush_steps
        self._start_ns = int(header.started_at * 1e9)
        self._writer = Writer(
            cast(IO[Any], stream),
            chunk_size=CHUNK_BYTES,
            compression=CompressionType.NONE,
            enable_data_crcs=True,
        )
        self._writer.start(profile="", library="lwd")  # a fixed name: equal episodes give equal bytes
        header_schema = self._writer.register_schema("lwd.EpisodeHeader", "jsonschema", layout.HEADER_SCHEMA)
        verdict_schema = self._writer.register_schema("lwd.Verdict", "jsonschema", layout.VERDICT_SCHEMA)
        step_schema = self._writer.register_schema("lwd_msgs/msg/Step", "ros2msg", layout.STEP_SCHEMA)
        header_channel = self._writer.register_channel(HEADER_TOPIC, "json", header_schema)
        self._verdict_channel = self._writer.register_channel(VERDICT_TOPIC, "json", verdict_schema)
        self._step_channel = self._writer.register_channel(STEP_TOPIC, "cdr", step_schema)
        self._final_channel = self._writer.register_channel(FINAL_TOPIC, "cdr", step_schema)
        self._cameras: dict[str, tuple[int, bytes, int]] = {}  # name -> channel, frame, pictures so far
        self._image_schema: int | None = None
        self._steps = 0
        self._writer.add_message(header_channel, self._start_ns, layout.pack_header(header), self._start_ns)
        if flush_steps is not None:
            self._writer.flush()

    @property
    def steps(self) -> int:
        """Control steps written so far."""
        return self._steps

    def step(
        self,
        proprio: NDArray[np.float32],
        action: NDArray[np.float32],
        intervention: bool,
        time_s: float,
        images: Mapping[str, bytes],
    ) -> None:
        """Append one control step: state [P] sensed at `time_s`, action [A] then executed, a JPEG per camera.

        Raises:
            EpisodeError: reason "shape": it would be more steps than an episode may have.
        """
        if self._steps >= layout.MAX_STEPS:
            detail = (
                f"an episode has at most {layout.MAX_STEPS} control steps; end it and begin the next one."
            )
            raise EpisodeError(self._header.episode_id, "shape", detail)
        self._write(self._step_channel, self._steps, proprio, action, intervention, time_s, images)
        self._steps += 1
        if self._flush_steps is not None and self._steps % self._flush_steps == 0:
            self._writer.flush()

    def flush(self) -> None:
        """Hand all steps so far to the operating system."""
        self._writer.flush()

    def finish(
        self, proprio: NDArray[np.float32], time_s: float, images: Mapping[str, bytes], verdict: Verdict
    ) -> None:
        """Append the final state [P] and the verdict, and close the MCAP file (not the stream)."""
        self._write(self._final_channel, 0, proprio, _NOTHING, False, time_s, images)
        time_ns = self._time_ns(time_s)
        self._writer.add_message(
            self._verdict_channel, time_ns, layout.pack_verdict(verdict, self._steps), time_ns
        )
        self._writer.flush()
        self._writer.finish()

    def _write(
        self,
        channel: int,
        sequence: int,
        proprio: NDArray[np.float32],
        action: NDArray[np.float32],
        intervention: bool,
        time_s: float,
        images: Mapping[str, bytes],
    ) -> None:
        time_ns = self._time_ns(time_s)
        state, command = np.asarray(proprio, "<f4").tobytes(), np.asarray(action, "<f4").tobytes()
        payload = layout.pack_step(self._steps, float(time_s), bool(intervention), state, command)
        for camera in sorted(images):
            self._write_image(camera, time_ns, images[camera])
        # The pictures come first: a step that is whole in a torn file has all its pictures.
        self._writer.add_message(channel, time_ns, payload, time_ns, sequence)

    def _write_image(self, camera: str, time_ns: int, jpeg: bytes) -> None:
        if camera not in self._cameras:
            if not layout.NAME.fullmatch(camera):
                detail = f"camera name {camera!r:.80} is not 1 to 64 of [A-Za-z0-9_-]."
                raise EpisodeError(self._header.episode_id, "schema", detail)
            if self._image_schema is None:
                self._image_schema = self._writer.register_schema(
                    "sensor_msgs/msg/CompressedImage", "ros2msg", layout.IMAGE_SCHEMA
                )
            channel = self._writer.register_channel(CAMERA_PREFIX + camera, "cdr", self._image_schema)
            self._cameras[camera] = (channel, layout.image_frame(camera), 0)
        channel, frame, count = self._cameras[camera]
        self._writer.add_message(channel, time_ns, layout.pack_image(frame, time_ns, jpeg), time_ns, count)
        self._cameras[camera] = (channel, frame, count + 1)

    def _time_ns(self, time_s: float) -> int:
        """For viewers only; the exact time is in the message."""
        if not math.isfinite(time_s):
            return self._start_ns
        time_s = min(max(time_s, -LAST_TIME), LAST_TIME)  # 1e300 times 1e9 is infinite
        return min(max(self._start_ns + int(time_s * 1e9), 0), 2**63 - 1)


def encode(episode: Episode) -> bytes:
    """Encode an episode as a file; equal episodes give equal bytes.

    Values are not judged here, so that whatever a robot recorded can be delivered.

    Raises:
        EpisodeError: reason "shape": the arrays do not fit each other.
    """
    steps = episode.steps
    lengths = {
        "proprio": len(episode.proprio) - 1,
        "interventions": len(episode.interventions),
        "times_s": len(episode.times_s) - 1,
        **{f"images of {camera}": len(pictures) - 1 for camera, pictures in episode.images.items()},
    }
    for name, length in lengths.items():
        if length != steps:
            raise EpisodeError(
                episode.header.episode_id, "shape", f"{steps} actions but {name} is for {length} steps."
            )
    buffer = io.BytesIO()
    stream = EpisodeStream(buffer, episode.header)
    proprio, actions = np.asarray(episode.proprio, "<f4"), np.asarray(episode.actions, "<f4")
    times, interventions = (
        np.asarray(episode.times_s, "<f8").tolist(),
        np.asarray(episode.interventions).tolist(),
    )
    images = episode.images
    for t in range(steps):
        pictures = {camera: images[camera][t] for camera in images}
        stream.step(proprio[t], actions[t], interventions[t], times[t], pictures)
    stream.finish(proprio[-1], times[-1], {camera: images[camera][-1] for camera in images}, episode.verdict)
    return buffer.getvalue()


def decode(data: bytes) -> Episode:
    """Read and check a whole episode file.

    Raises:
        EpisodeError: whatever is wrong with the bytes, and nothing else: truncated, corrupt, schema, shape or nan.
            Whether the episode fits its robot and task is `validate`'s question.
    """
    if len(data) > layout.MAX_EPISODE_BYTES:
        raise EpisodeError(
            "?", "shape", f"{len(data)} bytes, more than the {layout.MAX_EPISODE_BYTES} allowed."
        )
    found = scan(data)
    first = found.messages.get(HEADER_TOPIC, [])
    header = layout.unpack_header(first[0]) if first else None
    episode_id = "?" if header is None else header.episode_id
    if found.broken is not None:
        reason = "truncated" if isinstance(found.broken, TornError) else "corrupt"
        raise EpisodeError(episode_id, reason, f"{found.broken}.")
    if header is None:
        raise EpisodeError("?", "schema", f"an MCAP file without {HEADER_TOPIC}; it is not an episode.")
    for topic in (HEADER_TOPIC, FINAL_TOPIC, VERDICT_TOPIC):
        if len(found.messages.get(topic, ())) != 1:
            detail = f"{len(found.messages.get(topic, ()))} messages on {topic}, expected 1."
            raise EpisodeError(episode_id, "schema", detail)
    verdict, steps = layout.unpack_verdict(found.messages[VERDICT_TOPIC][0], episode_id)
    if steps != len(found.messages.get(STEP_TOPIC, ())):
        detail = f"the verdict counts {steps} steps, the file has {len(found.messages.get(STEP_TOPIC, ()))}."
        raise EpisodeError(episode_id, "shape", detail)
    episode = _assemble(found, header, verdict, steps, final=True)
    _check_finite(episode)
    return episode


def recover(data: bytes) -> Episode | None:
    """What is whole in a half-written file, as an UNJUDGED episode; None if that is no complete control step.

    The last recorded action is dropped unless the state after it is there too, since its result was not seen.
    A file that lacks only its index keeps the verdict that it got.

    Raises:
        EpisodeError: the bytes are not the beginning of an episode file of this version.
    """
    found = scan(data[: layout.MAX_EPISODE_BYTES])
    first = found.messages.get(HEADER_TOPIC, [])
    if not first:
        if isinstance(found.broken, TornError):
            return None
        raise EpisodeError("?", "corrupt", f"{found.broken or 'no header'}; nothing can be recovered.")
    header = layout.unpack_header(first[0])
    recorded = min(len(found.messages.get(STEP_TOPIC, ())), layout.MAX_STEPS)
    pictures = [len(found.messages[topic]) for topic in found.messages if topic.startswith(CAMERA_PREFIX)]
    final = len(found.messages.get(FINAL_TOPIC, ())) == 1 and all(count == recorded + 1 for count in pictures)
    verdict = Verdict(outcome=Outcome.UNJUDGED, stage_score=0.0)
    if final and found.messages.get(VERDICT_TOPIC):
        verdict, _ = layout.unpack_verdict(found.messages[VERDICT_TOPIC][0], header.episode_id)
    steps = recorded if final else min([recorded, *pictures]) - 1
    if steps < 1:
        return None
    return _assemble(found, header, verdict, steps, final=final)


def _assemble(found: Scan, header: EpisodeHeader, verdict: Verdict, steps: int, *, final: bool) -> Episode:
    """The episode of `steps` steps; its last state is the final message, or else the state of the step after."""
    if not 1 <= steps <= layout.MAX_STEPS:
        detail = f"{steps} control steps, expected 1 to {layout.MAX_STEPS}."
        raise EpisodeError(header.episode_id, "shape", detail)
    payloads = found.messages[STEP_TOPIC][: steps if final else steps + 1]
    try:
        dtype = layout.step_dtype(payloads[0])
        records = layout.unpack_steps(payloads, dtype)
        last = records[-1:]
        if final:
            ending = found.messages[FINAL_TOPIC]
            last = layout.unpack_steps(ending, layout.step_dtype(ending[0]), first=steps)
            if last["proprio"].shape[1] != records["proprio"].shape[1] or last["action"].shape[1] != 0:
                raise ValueError("the final state's width differs from the steps'")
        images = _images(found, steps + 1)
    except ValueError as error:
        raise EpisodeError(header.episode_id, "shape", f"{error}.") from error
    body = records[:steps]
    return Episode(
        header=header,
        verdict=verdict,
        proprio=np.concatenate([body["proprio"], last["proprio"]]).astype(np.float32, copy=False),
        actions=np.ascontiguousarray(body["action"], np.float32),
        interventions=body["intervention"].astype(np.bool_),
        times_s=np.concatenate([body["time_s"], last["time_s"]]).astype(np.float64, copy=False),
        images=images,
    )


def _images(found: Scan, count: int) -> dict[str, Sequence[bytes]]:
    topics = [topic for topic in found.messages if topic.startswith(CAMERA_PREFIX)]
    if len(topics) > layout.MAX_CAMERAS:
        raise ValueError(f"{len(topics)} cameras, more than {layout.MAX_CAMERAS}")
    images: dict[str, Sequence[bytes]] = {}
    for topic in topics:
        camera = topic.removeprefix(CAMERA_PREFIX)
        payloads = found.messages[topic]
        if (
            not layout.NAME.fullmatch(camera)
            or len(payloads) < count
            or (found.broken is None and len(payloads) != count)
        ):
            raise ValueError(f"camera {camera!r:.80} has {len(payloads)} pictures, expected {count}")
        frame = layout.image_frame(camera)
        images[camera] = [layout.unpack_image(frame, payload) for payload in payloads[:count]]
    return images


def _check_finite(episode: Episode) -> None:
    arrays = {"proprio": episode.proprio, "actions": episode.actions, "times_s": episode.times_s}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise EpisodeError(episode.header.episode_id, "nan", f"{name}[{row}] is not finite.")
