"""From openpi's observation dictionaries to what our policies see, with an error for each key that is missing or misshapen.

No JAX.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, LwdError
from lwd.spec import CameraSpec, RobotSpec

OWN = "lwd/"
"""Prefix of the keys that are ours and no observation."""
CONTROL_KEYS = ("begin", "episode", "seed", "chunk", "snapshot", "reset")
OWN_STATE, OWN_PROMPT = "lwd/proprio", "lwd/prompt"
"""What our own robots send: the whole proprio and the instruction, whatever keys others use here."""
MAX_PROMPT = 4096
MAX_HEADER = 1 << 16
"""Bytes of a JPEG beside its pixels, and those never take twice what they take decoded."""


class ObservationError(LwdError):
    """A request that cannot be answered as it is: a key is missing, misshapen or has a value that makes no sense."""


@dataclass(frozen=True, kw_only=True)
class ObservationKeys:
    """Under which keys clients send what the policy sees.

    Attributes:
        state: joined in this order to the proprio [P]; openpi's examples send one key, or joints and gripper apart.
        prompt: of the instruction.
        images: camera name -> key; a camera that is not named is "observation/NAME".
        default_prompt: the instruction where the client sends none, None to insist on one.
    """

    state: tuple[str, ...] = ("observation/state",)
    prompt: str = "prompt"
    images: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str | None = None

    def image(self, camera: str) -> str:
        """The key of a camera's picture."""
        return self.images.get(camera, f"observation/{camera}")


@dataclass(frozen=True, eq=False)
class Seen:
    """What one robot senses at the beginning of a chunk.

    Attributes:
        proprio: float32 [P]; prompt: the instruction.
        images: camera name -> uint8 [h, w, 3].
    """

    proprio: NDArray[np.float32]
    prompt: str
    images: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a client says of the request itself, all optional: openpi's own client sends none of it.

    Attributes:
        begin: no observation; only begin the episode and say which snapshot drives it.
        episode: name of the running episode; another one than before begins a new one.
        seed, chunk: of the chunk's noise; the same pair draws the same noise.
        snapshot: the only snapshot that may answer.
        reset: begin a new episode with this request.
    """

    begin: bool = False
    episode: str | None = None
    seed: int | None = None
    chunk: int | None = None
    snapshot: int | None = None
    reset: bool = False


def control(message: Mapping[str, Any]) -> Control:
    """Read the keys that begin with `lwd/`.

    Raises:
        ObservationError: an unknown one, or a value of the wrong kind.
    """
    found = {key.removeprefix(OWN): value for key, value in message.items() if key.startswith(OWN)}
    for observed in (OWN_STATE, OWN_PROMPT):
        found.pop(observed.removeprefix(OWN), None)
    for name in found:
        if name not in CONTROL_KEYS:
            known = ", ".join([*(OWN + key for key in CONTROL_KEYS), OWN_STATE, OWN_PROMPT])
            raise ObservationError(f"key {OWN + name!r:.80} is not known; known: {known}.")
    for name in ("begin", "reset"):
        if type(found.get(name, False)) is not bool:
            raise ObservationError(f"key {OWN + name!r} must be true or false, got {found[name]!r:.40}.")
    for name in ("seed", "chunk", "snapshot"):
        value = found.get(name)
        if value is not None and not (type(value) is int and 0 <= value < 2**31):
            raise ObservationError(
                f"key {OWN + name!r} must be a whole number from 0 to 2**31 - 1, got {value!r:.40}."
            )
    episode = found.get("episode")
    if episode is not None and not (isinstance(episode, str) and 0 < len(episode) <= 128):
        raise ObservationError(
            f"key {OWN + 'episode'!r} must be text of 1 to 128 characters, got {episode!r:.40}."
        )
    return Control(**found)


def seen(message: Mapping[str, Any], spec: RobotSpec, keys: ObservationKeys) -> Seen:
    """The observation in a request; keys that the policy does not need are left alone.

    Raises:
        ObservationError: a key is missing, misshapen, not finite or of the wrong kind; it names the key.
    """
    names = (OWN_STATE,) if OWN_STATE in message else keys.state
    parts = [_state(message, key) for key in names]
    proprio = np.concatenate(parts)
    if proprio.shape != (spec.proprio_dim,):
        shown = " + ".join(f"{key!r} {part.shape[0]}" for key, part in zip(names, parts, strict=True))
        raise ObservationError(
            f"the state has {proprio.shape[0]} numbers ({shown}), robot {spec.name!r} has {spec.proprio_dim}."
        )
    images = {camera.name: _image(message, keys.image(camera.name), camera) for camera in spec.cameras}
    return Seen(proprio, _prompt(message, keys), images)


def _state(message: Mapping[str, Any], key: str) -> NDArray[np.float32]:
    value = _value(message, key)
    if isinstance(value, int | float | list):
        items: list[Any] = value if isinstance(value, list) else [value]
        # msgpack's whole numbers have at most 64 bits, so each is a float too.
        plain = all(isinstance(item, int | float) for item in items)
        value = np.array(items, np.float64) if plain else None
    if not isinstance(value, np.ndarray) or value.ndim > 1:
        shape = getattr(cast(Any, value), "shape", type(value).__name__)
        raise ObservationError(f"key {key!r} must be a vector of numbers, got {shape}.")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and refused below
        numbers = np.atleast_1d(cast(NDArray[Any], value)).astype(np.float32)
    bad = int(np.count_nonzero(~np.isfinite(numbers)))
    if bad:
        raise ObservationError(f"key {key!r}: {bad} of {numbers.size} numbers are NaN or infinite.")
    return numbers


def _image(message: Mapping[str, Any], key: str, camera: CameraSpec) -> NDArray[np.uint8]:
    value, expected = _value(message, key), (camera.height, camera.width, 3)
    if isinstance(value, bytes):
        return _decoded(value, key, camera)
    if not isinstance(value, np.ndarray):
        raise ObservationError(
            f"key {key!r} must be a picture, uint8 {expected}, got {type(value).__name__}."
        )
    picture = cast(NDArray[Any], value)
    if picture.dtype != np.uint8 or picture.shape != expected:
        raise ObservationError(
            f"key {key!r} must be a picture, uint8 {expected}, got {picture.dtype} {picture.shape}. "
            "Resize it on the robot (openpi_client.image_tools does)."
        )
    return picture


def _decoded(data: bytes, key: str, camera: CameraSpec) -> NDArray[np.uint8]:
    """A JPEG, as robots of our own send it. Every other client waits meanwhile, so nothing is decoded but a JPEG of the
    camera's size that is not progressive: that could have a scan in every twelve bytes.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("pictures as JPEG need Pillow on the policy server: pip install pillow.") from error
    most = 2 * 3 * camera.height * camera.width + MAX_HEADER
    if len(data) > most:
        raise ObservationError(f"key {key!r}: the JPEG has {len(data)} bytes, expected at most {most}.")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            found, progressive = picture.size, "progressive" in picture.info
            if found == (camera.width, camera.height) and not progressive:
                return np.asarray(picture.convert("RGB"), np.uint8)
    except Exception as error:  # Pillow names no common base for what it raises on damaged files
        raise ObservationError(f"key {key!r} is no JPEG: {error!s:.200}.") from error
    raise ObservationError(
        f"key {key!r}: the JPEG has {found[0]} x {found[1]} pixels{' and is progressive' if progressive else ''}; expected "
        f"{camera.width} x {camera.height}, not progressive. Resize it on the robot (openpi_client.image_tools does)."
    )


def _prompt(message: Mapping[str, Any], keys: ObservationKeys) -> str:
    name = OWN_PROMPT if OWN_PROMPT in message else keys.prompt
    if name not in message and keys.default_prompt is not None:
        return keys.default_prompt
    value = _value(message, name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PROMPT:
        raise ObservationError(f"key {name!r} must be text of 1 to {MAX_PROMPT} characters.")
    return value


def _value(message: Mapping[str, Any], key: str) -> Any:
    if key in message:
        return message[key]
    sent = sorted(str(name)[:80] for name in message)[:20]
    near = difflib.get_close_matches(key, sent, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ObservationError(f"key {key!r} is missing.{hint} Sent: {', '.join(sent) or 'nothing'}.")
