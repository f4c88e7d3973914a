"""JSON lines that another process may still be writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from lwd.evaluate.jsonfile import ResultError, read_text


def read_jsonl(path: str | Path) -> list[dict[str, object]]:
    """The objects in a JSON-lines file, in order.

    A last line without its newline that does not parse is dropped: the writer was cut off there, or is still
    writing. The same damage anywhere else is an error, because then the file is not what it claims to be.
    """
    path = Path(path)
    lines = read_text(path).split("\n")
    rows: list[dict[str, object]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ResultError(f"{path}: line {number}", f"is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ResultError(f"{path}: line {number}", f"expected an object, got {line[:60]}.")
        rows.append(cast("dict[str, object]", row))
    return rows
