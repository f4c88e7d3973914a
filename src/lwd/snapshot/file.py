"""The snapshot file: safetensors, with one metadata entry. No code can hide in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save

from lwd.errors import SnapshotError

MAX_META_BYTES = 64 * 1024
MAX_HEADER_BYTES = 100_000_000
"""As in safetensors."""
MAX_DIMENSIONS = 32
_RESERVED = "__metadata__"
_SURROGATE = re.compile("[\ud800-\udfff]")
_META = "lwd"  # a single metadata key: safetensors does not promise an order for several, and the bytes are hashed

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def pack(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> bytes:
    """Arrays and metadata as bytes; equal content gives equal bytes.

    Raises:
        SnapshotError: nothing to save, an array whose name, type or shape no reader takes, or with a value that is not
            finite (such a policy must never reach a robot), metadata that is not JSON or too large.
    """
    if not arrays:
        raise SnapshotError("a snapshot without arrays; expected at least one.")
    whole: dict[str, NDArray[Any]] = {}
    for name in arrays:
        _check_name(name)
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        if array.ndim > MAX_DIMENSIONS:
            raise SnapshotError(
                f"array {name!r} has {array.ndim} dimensions, at most {MAX_DIMENSIONS} can be loaded."
            )
        if array.dtype.name not in _DTYPES.values():
            raise SnapshotError(
                f"array {name!r} has dtype {array.dtype}; expected one of {sorted(_DTYPES.values())}."
            )
        if not _finite(array):
            raise SnapshotError(f"array {name!r} holds NaN or infinity; this policy was not published.")
        whole[name] = array
    text = _meta_text(meta)
    try:
        return save(whole, {_META: text})
    except SafetensorError as error:
        raise SnapshotError(f"the snapshot cannot be written as safetensors: {error}.") from error


def unpack(data: bytes, where: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays (read-only) and metadata of a snapshot file; SnapshotError, naming `where`, if it is not one.

    The arrays are views of `data`: the library's reader copies every array, which for 600 MB is longer than hashing it.
    """
    try:
        header, begin = _header(data)
        meta = json.loads(header.pop(_RESERVED)[_META])
        arrays = _arrays(header, memoryview(data)[begin:].toreadonly())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        cause = f"{type(error).__name__}: {str(error)[:120]}"
        raise SnapshotError(f"{where} is not a snapshot file ({cause}); it was not loaded.") from error
    if not isinstance(meta, dict):
        raise SnapshotError(f"{where}: its metadata is not a JSON object; it was not loaded.")
    return arrays, meta


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The file's header, and where the arrays' bytes begin."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header, 8 + length


def _arrays(header: Mapping[str, Any], body: memoryview) -> dict[str, NDArray[Any]]:
    """Views of `body`. As safetensors demands, the arrays cover it from its first byte to its last, without a gap."""
    arrays: dict[str, NDArray[Any]] = {}
    end = 0
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (first, last) = _dtype(info["dtype"]), info["shape"], info["data_offsets"]
        whole = [*shape, first, last]
        if not all(type(number) is int and number >= 0 for number in whole) or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"array {name!r:.80} has shape {shape!r:.80} at {first!r:.20} to {last!r:.20}")
        if first != end or last - first != math.prod(shape) * dtype.itemsize or last > len(body):
            raise ValueError(
                f"array {name!r:.80}: its bytes {first} to {last} do not fit its shape or the file"
            )
        arrays[name], end = np.frombuffer(body[first:last], dtype).reshape(shape), last
    if end != len(body):
        raise ValueError(f"{len(body) - end} bytes after the last array")
    return arrays


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name == _RESERVED or _SURROGATE.search(name):
        raise SnapshotError(
            f"an array is named {name!r:.80}; expected text without lone surrogates, and not {_RESERVED!r}."
        )


def _meta_text(meta: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(meta), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SnapshotError(f"the snapshot's metadata is not JSON: {error}.") from error
    if len(text) > MAX_META_BYTES:
        raise SnapshotError(
            f"the snapshot's metadata has {len(text)} bytes, at most {MAX_META_BYTES} are allowed."
        )
    return text


def _finite(array: NDArray[Any]) -> bool:
    if array.dtype.kind in "iub":
        return True
    return bool(np.isfinite(array).all())


def _dtype(name: str) -> np.dtype[Any]:
    known = _DTYPES[name]
    if known == "bfloat16":
        try:
            import ml_dtypes  # comes with the learner extra; robots with float32 policies lack it
        except ImportError as error:
            raise ValueError("bfloat16 arrays need the package ml_dtypes; install lwd[learner]") from error
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(known)
