"""What a process leaves behind for people: metrics as JSON lines, events as one log line each."""

from __future__ import annotations

import json
import logging
import math
import threading
import warnings
from pathlib import Path
from types import TracebackType

import numpy as np

from lwd.evaluate.jsonl import read_jsonl

MetricValue = str | bool | int | float | None


def _plain(value: object) -> MetricValue:
    """A value that JSON knows: NumPy and JAX scalars become Python ones."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value)  # also turns np.float64, which is a float, into one
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "bifu":
        raise TypeError(
            f"a metric is one number, text or None; got {type(value).__name__} of shape {array.shape}."
        )
    return array.reshape(()).item()


class MetricsLog:
    """Append-only JSON-lines file of metrics; each line is on disk's way as soon as it is written.

    Several threads may write to one log; several processes use a file each. Not-a-number and infinite values
    are written as null, since JSON has no word for them, and warned about once per name.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        torn = _ends_torn(self.path)
        self._file = self.path.open("a", buffering=1, encoding="utf-8")
        if torn:
            # A process was killed in mid-line: what is left of it is dropped, so that the file stays readable
            # after we append.
            with self.path.open("rb+") as file:
                file.truncate(_last_newline(self.path))

    def write(self, **fields: object) -> None:
        """Append one line; names with a slash go through `write(**{"value/tau": 0.6})`."""
        row: dict[str, MetricValue] = {}
        for name, value in fields.items():
            plain = _plain(value)
            if isinstance(plain, float) and not math.isfinite(plain):
                self._warn(name, plain)
                plain = None
            row[name] = plain
        line = json.dumps(row, allow_nan=False) + "\n"
        with self._lock:
            self._file.write(line)

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warn(self, name: str, value: float) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"{self.path.name}: metric {name!r} is {value}; written as null. Said once per metric.",
                RuntimeWarning,
                stacklevel=3,
            )


def _ends_torn(path: Path) -> bool:
    return path.exists() and path.stat().st_size != _last_newline(path)


def _last_newline(path: Path) -> int:
    """Bytes up to and including the last newline."""
    return path.read_bytes().rfind(b"\n") + 1


def read_metrics(path: str | Path) -> list[dict[str, object]]:
    """The lines of a metrics file, in order; a torn last line is left out."""
    return read_jsonl(path)


def _word(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    text = str(value)
    plain = text and not any(
        character.isspace() or character in '="\\' or ord(character) < 32 for character in text
    )
    return text if plain else json.dumps(text, ensure_ascii=False)


def event(logger: logging.Logger, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Log one event as one line `name key=value ...`, so that one grep follows an episode through the loop.

    Values with spaces, quotes or line breaks are quoted as in JSON. Fields that are None are left out.
    """
    words = [f"{key}={_word(value)}" for key, value in fields.items() if value is not None]
    logger.log(level, "%s", " ".join([name, *words]))
