"""Strict JSON for result files.

What is read is checked field by field, and an error names the file, the field and what was expected.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from lwd.errors import LwdError

_PLAIN_LIST = re.compile(r"\[\n[^\[\]{}]*\]")
"""A list without lists or objects inside, as `json.dumps` indents it. A text inside cannot hold a line break."""
_BREAK = re.compile(r"\n\s*")


class ResultError(LwdError):
    """A result file that cannot be trusted: unreadable, unknown schema, a missing or impossible field.

    Attributes:
        where: file and field, e.g. "summary.json: sft.restock.success".
        detail: what was found and what was expected.
    """

    def __init__(self, where: str, detail: str) -> None:
        self.where, self.detail = where, detail
        super().__init__(f"{where}: {detail}")


class Node:
    """One JSON object while it is read: each field is taken once, and `done` refuses what nobody took."""

    def __init__(self, value: object, where: str, prefix: str = "") -> None:
        self.where, self._prefix = where, prefix
        if not isinstance(value, dict):
            raise self.error("", f"expected an object, got {_shown(value)}.")
        self._rest = dict(cast("dict[str, object]", value))
        self._taken: list[str] = []

    def error(self, key: str, detail: str) -> ResultError:
        """The error about a field of this object."""
        path = self._path(key)
        return ResultError(f"{self.where}: {path}" if path else self.where, detail)

    def _path(self, key: str) -> str:
        return ".".join(part for part in (self._prefix, key) if part)

    def names(self) -> tuple[str, ...]:
        """Fields not taken yet, in the file's order."""
        return tuple(self._rest)

    def take(self, key: str) -> object:
        """The raw value of a field that must be there."""
        if key not in self._rest:
            near = difflib.get_close_matches(key, self._rest, n=1)
            raise self.error(key, "is missing." + (f" Is {near[0]!r} meant?" if near else ""))
        self._taken.append(key)
        return self._rest.pop(key)

    def is_null(self, key: str) -> bool:
        """Whether a field is there and null."""
        return key in self._rest and self._rest[key] is None

    def number(self, key: str, low: int | float = -math.inf, high: int | float = math.inf) -> float:
        """A finite number in [low, high]."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            limits = "" if math.isinf(low) and math.isinf(high) else f" in [{low:g}, {high:g}]"
            raise self.error(key, f"expected a number{limits}, got {_shown(value)}.")
        return float(value)

    def integer(self, key: str, low: int = 0) -> int:
        """A whole number of at least `low`."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.error(key, f"expected a whole number of at least {low}, got {_shown(value)}.")
        return value

    def text(self, key: str) -> str:
        """A string."""
        value = self.take(key)
        if not isinstance(value, str):
            raise self.error(key, f"expected a text, got {_shown(value)}.")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, got {_shown(value)}.")
        return value

    def child(self, key: str) -> Node:
        """An object inside this one."""
        return Node(self.take(key), self.where, self._path(key))

    def optional_child(self, key: str) -> Node | None:
        """An object inside this one, or None where the file says null."""
        if self.is_null(key):
            self.take(key)
            return None
        return self.child(key)

    def numbers(self, key: str, low: int | float = -math.inf, high: int | float = math.inf) -> list[float]:
        """A list of finite numbers in [low, high]."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self.error(key, f"expected a list of numbers, got {_shown(value)}.")
        items = Node(
            {str(i): item for i, item in enumerate(cast("list[object]", value))}, self.where, self._path(key)
        )
        return [items.number(name, low, high) for name in items.names()]

    def list_of_nodes(self, key: str) -> list[Node]:
        """A list of objects."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self.error(key, f"expected a list, got {_shown(value)}.")
        items = cast("list[object]", value)
        return [Node(item, self.where, f"{self._path(key)}[{index}]") for index, item in enumerate(items)]

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are all strings."""
        node = self.child(key)
        return {name: node.text(name) for name in node.names()}

    def done(self) -> None:
        """Refuse fields that nobody knows."""
        for key in self._rest:
            near = difflib.get_close_matches(key, self._taken, n=1)
            hint = f" Is {near[0]!r} meant?" if near else ""
            raise self.error(key, f"unknown field.{hint} Known here: {', '.join(sorted(self._taken))}.")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def parse_json(text: str, where: str) -> object:
    """JSON without NaN and infinities; `where` names the file in errors."""
    try:
        return cast(object, json.loads(text, parse_constant=_refuse_constant))
    except ValueError as error:
        raise ResultError(where, f"is not valid JSON: {error}.") from error


def read_text(path: Path) -> str:
    """The text of a result file, or a `ResultError` that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(str(path), f"cannot be read: {error}.") from error


def read_node(path: Path, schema: int) -> Node:
    """The object in `path`, after checking its field "schema" against the one version this program knows."""
    node = Node(parse_json(read_text(path), str(path)), str(path))
    found = node.take("schema")
    if found != schema:
        raise node.error(
            "schema", f"expected {schema}, got {_shown(found)}. It was written by another version of lwd."
        )
    return node


def write_json(path: Path, value: object, *, flat_lists: bool = False) -> None:
    """Write whole or not at all: a reader never sees half a file.

    With `flat_lists`, a list of plain values stands on one line.

    Raises:
        ResultError: there is a NaN or an infinity.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise ResultError(
            str(path), f"not written: {error}. Every number of a result must be finite."
        ) from error
    if flat_lists:
        text = _PLAIN_LIST.sub(lambda found: f"[{_BREAK.sub(' ', found[0][1:-1]).strip()}]", text)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def write_checked(
    path: Path, content: object, read: Callable[[Path], object], *, flat_lists: bool = False
) -> None:
    """Write a file of results as `write_json` does, but only if `read` accepts it; what it raises leaves the old file there.

    Args:
        path: of the file. What is checked lies beside it under the same name with the suffix .part, and errors name that.
        content: of the file.
        flat_lists: see `write_json`.
        read: raises if it cannot trust the file at a path.
    """
    part = path.with_suffix(".part")
    try:
        write_json(part, content, flat_lists=flat_lists)
        read(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
