"""Seeded damage: bytes with flipped bits, lies about lengths and pieces of nowhere; JSON with swapped types."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

_INTEGERS = (
    0,
    1,
    -1,
    2**7,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_TEXTS = (
    "",
    "\0",
    "\ud800",
    "../../etc/passwd",
    "a/../b",
    "//",
    "%2e%2e/x",
    "x" * 5000,
    "é",
    "\n",
    "'; --",
    "*",
    "{}",
    "a.b",
    "\u202e",
)
_FLOATS = (0.0, -1.0, 1e308, 5e-324, 1e400, float("nan"), -float("inf"))


def damage(rng: random.Random, data: bytes) -> bytes:
    """One to four of the byte mutations."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTES)(rng, data)
    return data[: 1 << 20]


def damage_json(rng: random.Random, data: bytes) -> bytes:
    """One to three of the values in a JSON text replaced by another type, dropped, doubled or nested deeply."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _change(rng, value)
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = text.replace("}", "," * rng.randrange(3) + "}", 1)
    return text.encode()


def _change(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {key: inner for key, inner in value.items() if key != name}
        if rng.random() < 0.1:
            return {**value, rng.choice(_TEXTS): _odd(rng)}
        return {**value, name: _change(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return value[:place] + [_change(rng, value[place])] * rng.choice((0, 1, 2)) + value[place + 1 :]
    if isinstance(value, str) and rng.random() < 0.3:
        return damage(rng, value.encode("utf-8", "surrogatepass")).decode("latin-1")
    return _odd(rng)


def _odd(rng: random.Random) -> Any:
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice(_INTEGERS)
    if kind == 1:
        return rng.choice(_TEXTS)
    if kind == 2:
        return rng.choice(_FLOATS)
    if kind == 3:
        return rng.choice((None, True, False, [], {}))
    if kind == 4:
        return [_odd(rng) for _ in range(rng.randrange(3))]
    if kind == 5:
        return {rng.choice(_TEXTS): _odd(rng)}
    deep: Any = 0
    for _ in range(rng.choice((10, 400))):
        deep = [deep]
    return deep


def _flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\0"
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[place + rng.randrange(64) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 4, 8, 100))) + data[place:]


def _length(rng: random.Random, data: bytes) -> bytes:
    """Overwrite what may be a length field."""
    place, width = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8))
    value = rng.choice((*_INTEGERS, len(data), len(data) - place)) % (1 << (8 * width))
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randrange(1, 200)]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def _random(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 8, 100, 3000)))


def _head(rng: random.Random, data: bytes) -> bytes:
    """A sound beginning, then anything."""
    return data[: rng.choice((4, 8, 16, 60))] + rng.randbytes(rng.randrange(300))


_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _cut, _remove, _insert, _length, _length, _repeat, _random, _head,
)  # fmt: skip
