"""Frames of openpi's websocket policy protocol: msgpack with NumPy arrays. No JAX, no pickle.

An array travels as a map with the byte-string keys `__ndarray__`, `data`, `dtype` and `shape`, a NumPy scalar as one with
`__npgeneric__`, `data` and `dtype`; the server's first frame is its metadata, then each request frame has one answer frame.
A text frame is an error. Facts: Physical-Intelligence/openpi, openpi_client/msgpack_numpy.py and websocket_client_policy.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError, LwdError

MAX_NDIM = 8
MAX_ITEMS = 4096
"""Maps, lists and arrays of one frame together: an observation has a dozen, and each costs memory beyond its bytes."""
MAX_LENGTH = 1024
"""Entries of one map or list; bulk data comes as arrays."""

_NUMERIC = re.compile(r"[<>|=](b1|[iu][1248]|f[248])")
_TEXT = re.compile(r"[<>|=]U[0-9]{1,9}")


class FrameError(LwdError):
    """A frame that is no message of the protocol."""


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as a frame; arrays and NumPy scalars of numbers and booleans included.

    Raises:
        FrameError: it holds something that the protocol cannot carry.
    """
    try:
        return cast(bytes, _msgpack().packb(message, default=_packed))
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"a message cannot be sent: {error}.") from error


def unpack(frame: bytes) -> dict[str, Any]:
    """The message in a frame. Its arrays are read-only, numeric, and of this machine's byte order.

    Nothing in a frame is trusted: no object arrays, no extension types, a bounded number of items.

    Raises:
        FrameError: it is no map with text keys, or not of the protocol.
    """
    reader = _Reader()
    try:
        found = _msgpack().unpackb(
            frame,
            object_hook=reader.mapping,
            list_hook=reader.items,
            ext_hook=_no_extension,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
        )
    except FrameError:
        raise
    except Exception as error:  # msgpack names no common base for what it raises on damaged frames
        raise FrameError(f"a frame of {len(frame)} bytes is not msgpack: {error!s:.200}.") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in cast(dict[Any, Any], found)):
        raise FrameError(
            f"a frame holds {type(found).__name__}, expected a map with text keys: an observation."
        )
    return cast(dict[str, Any], found)


class _Reader:
    """The hooks of one frame: they count what they build."""

    def __init__(self) -> None:
        self._items = 0

    def items(self, found: list[Any]) -> list[Any]:
        self._count()
        return found

    def mapping(self, found: dict[Any, Any]) -> Any:
        self._count()
        if b"__ndarray__" in found:
            return _array(found)
        if b"__npgeneric__" in found:
            return _scalar(found)
        return found

    def _count(self) -> None:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise FrameError(f"a frame holds more than {MAX_ITEMS} maps, lists and arrays.")


def _array(found: Mapping[Any, Any]) -> NDArray[Any]:
    data, shape = found.get(b"data"), found.get(b"shape")
    dtype = _dtype(found.get(b"dtype"))
    if not isinstance(data, bytes) or not isinstance(shape, list):
        raise FrameError("an array in a frame has no data or no shape.")
    sizes = cast(list[Any], shape)
    if len(sizes) > MAX_NDIM or not all(type(size) is int and 0 <= size < 2**31 for size in sizes):
        raise FrameError(f"an array in a frame has shape {sizes!r:.100}.")
    count = 1
    for size in sizes:
        count *= size  # Python's integers do not overflow
    if count * dtype.itemsize != len(data):
        raise FrameError(f"an array of shape {sizes} and dtype {dtype.str} came with {len(data)} bytes.")
    if not data:
        return np.empty(sizes, dtype.newbyteorder("="))
    if dtype.kind == "b":  # any byte but 0 would be a boolean that is equal to neither
        flags: NDArray[Any] = np.frombuffer(data, np.uint8) != 0
        return flags.reshape(sizes)
    values: NDArray[Any] = np.frombuffer(data, dtype).reshape(sizes)
    return values if dtype.isnative else values.astype(dtype.newbyteorder("="))


def _scalar(found: Mapping[Any, Any]) -> Any:
    """A NumPy scalar, as Python's own: text, truth value, whole number or float."""
    value, name = found.get(b"data"), found.get(b"dtype")
    if isinstance(name, str) and _TEXT.fullmatch(name) and isinstance(value, str):
        return value
    kind = _dtype(name).kind
    if isinstance(value, bool if kind == "b" else int if kind in "iu" else int | float):
        return value
    raise FrameError(f"a scalar of dtype {name!r:.20} came with {type(value).__name__}.")


def _dtype(name: object) -> np.dtype[Any]:
    if not isinstance(name, str) or not _NUMERIC.fullmatch(name):
        raise FrameError(f"dtype {name!r:.40} is not carried; numbers and booleans of up to 8 bytes are.")
    return np.dtype(name)


def _packed(value: object) -> dict[bytes, Any]:
    """What msgpack itself cannot pack, as the client's own packer does it."""
    if isinstance(value, np.ndarray):
        array = cast(NDArray[Any], value)
        return {
            b"__ndarray__": True,
            b"data": array.tobytes(),
            b"dtype": _dtype(array.dtype.str).str,
            b"shape": array.shape,
        }
    if isinstance(value, np.generic):
        name = _dtype(value.dtype.str).str
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": name}
    raise TypeError(f"{type(value).__name__} has no place in a frame")


def _no_extension(code: int, data: bytes) -> Any:
    raise FrameError(f"a frame holds msgpack extension type {code}, which the protocol does not have.")


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise ConfigError(
            "policy servers and their robots need msgpack: pip install 'lwd[remote]'."
        ) from error
    return msgpack
