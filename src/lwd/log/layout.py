"""What is inside an episode file: topics, schemas and the bytes of each message.

An episode is one MCAP file, uncompressed, in chunks with a CRC each:

| topic             | schema                          | messages                                                |
|-------------------|---------------------------------|---------------------------------------------------------|
| `/episode/header` | JSON, `lwd.EpisodeHeader`       | 1, first                                                |
| `/episode/step`   | CDR, `lwd_msgs/msg/Step`        | T, the state sensed and the action then executed        |
| `/episode/final`  | CDR, `lwd_msgs/msg/Step`        | 1, the state in which the episode ended, empty action   |
| `/episode/verdict`| JSON, `lwd.Verdict`             | 1, last                                                 |
| `/camera/<name>`  | CDR, `sensor_msgs/CompressedImage` | T + 1 JPEG pictures per camera                       |

CDR with a `ros2msg` schema is what Foxglove and Rerun plot without a plug-in, holds float32 exactly, and is one
`struct.pack` per step. The message's `sequence` is the control step; its log time is started_at + time_s.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.episode import SCHEMA_VERSION, EpisodeHeader, Outcome, Source, Verdict
from lwd.errors import EpisodeError
from lwd.log.checks import LAST_TIME, integer_in, is_deep, number_in

HEADER_TOPIC = "/episode/header"
STEP_TOPIC = "/episode/step"
FINAL_TOPIC = "/episode/final"
VERDICT_TOPIC = "/episode/verdict"
CAMERA_PREFIX = "/camera/"

MAX_EPISODE_BYTES = 512 * 1024 * 1024
MAX_STEPS = 100_000
MAX_WIDTH = 65_536
"""Longest state or action vector."""
MAX_CAMERAS = 16
MAX_IMAGE_BYTES = 16 * 1024 * 1024
MAX_JSON_BYTES = 64 * 1024
MAX_TEXT_CHARS = 4096

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an episode id, a robot's name and a camera's name may be: they become keys, subjects and file names."""

STEP_SCHEMA = b"""float64 time_s        # seconds since the episode's started_at
uint32 index          # control step, from 0
bool intervention     # a human commanded this step
float32[] proprio     # the state sensed at time_s
float32[] action      # executed from time_s on, in [-1, 1]; empty in /episode/final
"""
IMAGE_SCHEMA = b"""std_msgs/Header header
string format
uint8[] data
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
HEADER_SCHEMA = json.dumps(
    {
        "type": "object",
        "title": "lwd.EpisodeHeader",
        "properties": {
            "schema_version": {"type": "integer", "description": "version of fields and file layout"},
            **{
                name: {"type": "string"}
                for name in ("episode_id", "task", "instruction", "source", "robot", "spec", "software")
            },
            "operator": {"type": ["string", "null"]},
            "snapshot": {
                "type": ["integer", "null"],
                "description": "number of the policy snapshot that drives",
            },
            "seed": {"type": ["integer", "null"]},
            "control_hz": {"type": "number", "description": "control steps per second"},
            "started_at": {"type": "number", "description": "seconds since the epoch"},
        },
    }
).encode()
VERDICT_SCHEMA = json.dumps(
    {
        "type": "object",
        "title": "lwd.Verdict",
        "properties": {
            "outcome": {"enum": [outcome.value for outcome in Outcome]},
            "stage_score": {"type": "number", "description": "milestones reached / total"},
            "steps": {"type": "integer", "description": "T, control steps in this file"},
        },
    }
).encode()

_CDR = b"\x00\x01\x00\x00"  # encapsulation: plain CDR, little-endian; alignment counts from here
_STEP_HEAD = struct.Struct("<4sdIB3xI")
_LENGTH = struct.Struct("<I")
_STAMP = struct.Struct("<4siI")


def pack_header(header: EpisodeHeader) -> bytes:
    """The header message."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(header)}).encode()


def pack_verdict(verdict: Verdict, steps: int) -> bytes:
    """The verdict message."""
    fields = {"outcome": verdict.outcome.value, "stage_score": float(verdict.stage_score), "steps": steps}
    return json.dumps(fields).encode()


def pack_step(index: int, time_s: float, intervention: bool, proprio: bytes, action: bytes) -> bytes:
    """One step message; `proprio` and `action` are little-endian float32."""
    head = _STEP_HEAD.pack(_CDR, time_s, index, intervention, len(proprio) // 4)
    return b"".join((head, proprio, _LENGTH.pack(len(action) // 4), action))


def image_frame(camera: str) -> bytes:
    """The bytes between the time stamp and the picture, the same in every message of a camera."""
    name = camera.encode() + b"\0"
    return _LENGTH.pack(len(name)) + name + b"\0" * (-len(name) % 4) + _LENGTH.pack(5) + b"jpeg\0" + b"\0" * 3


def pack_image(frame: bytes, time_ns: int, jpeg: bytes) -> bytes:
    """One picture message; `frame` is `image_frame(camera)`."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    stamp = _STAMP.pack(_CDR, min(seconds, 2**31 - 1), rest)
    return b"".join((stamp, frame, _LENGTH.pack(len(jpeg)), jpeg))


def unpack_image(frame: bytes, payload: bytes) -> bytes:
    """The JPEG in a picture message; ValueError if it is not one."""
    start = _STAMP.size + len(frame) + _LENGTH.size
    jpeg = payload[start:]
    if payload[: len(_CDR)] != _CDR or payload[_STAMP.size : start] != frame + _LENGTH.pack(len(jpeg)):
        raise ValueError("a picture message is malformed")
    if not jpeg.startswith(b"\xff\xd8\xff"):
        raise ValueError("a picture is not a JPEG")
    if len(jpeg) > MAX_IMAGE_BYTES:
        raise ValueError(f"a picture has {len(jpeg)} bytes, more than {MAX_IMAGE_BYTES}")
    return jpeg


def step_dtype(payload: bytes) -> np.dtype[Any]:
    """The layout of the step messages that are like `payload`; ValueError if it is not one."""
    if len(payload) < _STEP_HEAD.size + _LENGTH.size:
        raise ValueError(f"a step message has {len(payload)} bytes")
    width = _STEP_HEAD.unpack_from(payload)[4]
    rest = len(payload) - _STEP_HEAD.size - _LENGTH.size - 4 * width
    if width > MAX_WIDTH or rest < 0 or rest % 4 or rest // 4 > MAX_WIDTH:
        raise ValueError(
            f"a step message has {len(payload)} bytes and says that its state has {width} numbers"
        )
    return np.dtype(
        [
            ("cdr", "V4"),
            ("time_s", "<f8"),
            ("index", "<u4"),
            ("intervention", "u1"),
            ("pad", "V3"),
            ("proprio_len", "<u4"),
            ("proprio", "<f4", (width,)),
            ("action_len", "<u4"),
            ("action", "<f4", (rest // 4,)),
        ]
    )


def unpack_steps(payloads: list[bytes], dtype: np.dtype[Any], first: int = 0) -> NDArray[Any]:
    """Step messages as records [n] of `dtype`, indices first, first + 1, ...; ValueError if one is malformed."""
    odd = next((index for index, payload in enumerate(payloads) if len(payload) != dtype.itemsize), None)
    if odd is not None:
        raise ValueError(f"step {odd} has {len(payloads[odd])} bytes where the others have {dtype.itemsize}")
    steps = np.frombuffer(b"".join(payloads), dtype)
    whole = (
        (steps["proprio_len"] == dtype["proprio"].shape[0])
        & (steps["action_len"] == dtype["action"].shape[0])
        & (steps["intervention"] <= 1)
        & (steps["index"] == np.arange(first, first + len(steps)))
    )
    if not whole.all():
        raise ValueError(f"step {int(np.argmin(whole))} is malformed or out of order")
    return steps


def unpack_header(payload: bytes) -> EpisodeHeader:
    """Read a header message; EpisodeError with reason "schema" or "corrupt"."""
    fields = _load_json(payload, "?", "header")
    version = fields.pop("schema_version", None)
    shown = fields.get("episode_id")
    episode_id = shown if isinstance(shown, str) and NAME.fullmatch(shown) else "?"
    if version != SCHEMA_VERSION:
        raise EpisodeError(
            episode_id,
            "schema",
            f"the file has schema version {version!r:.20}, this program reads {SCHEMA_VERSION}; update lwd.",
        )
    try:
        fields["source"] = Source(fields.get("source"))
        header = EpisodeHeader(**fields)
    except (TypeError, ValueError) as error:
        raise EpisodeError(
            episode_id, "schema", f"the header's fields do not fit: {str(error)[:200]}"
        ) from error
    check_header(header)
    return header


def check_header(header: EpisodeHeader) -> None:
    """Check the types and ranges of all header fields; EpisodeError with reason "schema" or "nan"."""
    for field, (fits, expected) in _HEADER_FIELDS.items():
        value = getattr(header, field)
        if not fits(value):
            shown = header.episode_id if _is_name(header.episode_id) else "?"
            detail = f"header field {field} is {value!r:.80}, expected {expected}."
            raise EpisodeError(shown, "nan" if _is_infinite(value) else "schema", detail)


def unpack_verdict(payload: bytes, episode_id: str) -> tuple[Verdict, int]:
    """Read a verdict message: the verdict and T. EpisodeError with reason "schema", "nan" or "corrupt"."""
    fields = _load_json(payload, episode_id, "verdict")
    score, steps = number_in(fields.get("stage_score"), 0, 1), integer_in(fields.get("steps"), 0)
    try:
        outcome = Outcome(fields.get("outcome"))
    except ValueError as error:
        raise EpisodeError(
            episode_id, "schema", f"the verdict's outcome does not fit: {str(error)[:80]}"
        ) from error
    if score is None:
        said = fields.get("stage_score")
        detail = f"the verdict's stage_score is {said!r:.80}, expected a number from 0 to 1."
        raise EpisodeError(episode_id, "nan" if _is_infinite(said) else "schema", detail)
    if steps is None:
        detail = f"the verdict's steps is {fields.get('steps')!r:.80}, expected an integer from 0 on."
        raise EpisodeError(episode_id, "schema", detail)
    return Verdict(outcome=outcome, stage_score=score), steps


def _load_json(payload: bytes, episode_id: str, what: str) -> dict[str, Any]:
    if len(payload) > MAX_JSON_BYTES:
        raise EpisodeError(
            episode_id, "schema", f"the {what} has {len(payload)} bytes, more than {MAX_JSON_BYTES}."
        )
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise EpisodeError(episode_id, "corrupt", f"the {what} is not JSON: {str(error)[:80]}") from error
    if not isinstance(fields, dict):
        raise EpisodeError(episode_id, "schema", f"the {what} is not a JSON object.")
    if is_deep(fields):
        raise EpisodeError(episode_id, "schema", f"the {what} is nested too deep to be shown.")
    return fields


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    # Printable excludes line breaks, which would forge log lines, and lone surrogates, which no database stores.
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARS and value.isprintable()


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


_TEXT = f"printable text of at most {MAX_TEXT_CHARS} characters"
_NAME = "1 to 64 of the characters [A-Za-z0-9_-]"
_HEADER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "episode_id": (_is_name, _NAME),
    "robot": (_is_name, _NAME),
    "task": (_is_text, _TEXT),
    "instruction": (_is_text, _TEXT),
    "spec": (_is_text, _TEXT),
    "software": (_is_text, _TEXT),
    "operator": (lambda value: value is None or _is_text(value), f"{_TEXT}, or null"),
    "source": (lambda value: isinstance(value, Source), "demo, rollout, play or online"),
    "snapshot": (
        lambda value: value is None or integer_in(value, 0) is not None,
        "a number from 0 on, or null",
    ),
    "seed": (
        lambda value: value is None or integer_in(value, -(2**63)) is not None,
        "a 64-bit integer, or null",
    ),
    "control_hz": (lambda value: bool(number_in(value, 0, 1e6)), "a number above 0, at most 1e6"),
    "started_at": (
        lambda value: number_in(value, 0, LAST_TIME) is not None,
        f"seconds since the epoch, at most {LAST_TIME:g}",
    ),
}
