"""A snapshot's row as a message: what a robot needs to find, fetch and check a policy without a catalogue."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from lwd.errors import SnapshotError
from lwd.log.checks import LAST_TIME, integer_in, number_in
from lwd.snapshot.store import Snapshot

MAX_META_BYTES = 8 * 1024
"""Larger metadata stays out of the message; the file holds it, under the signature."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_STATUS = re.compile(r"[a-z_-]{1,32}")


def announcement(snapshot: Snapshot) -> dict[str, Any]:
    """The message that announces a snapshot: its whole row. Robots must not trust what the signature does not cover."""
    row = {**asdict(snapshot), "meta": dict(snapshot.meta)}
    del row["reason"]  # for people with the catalogue
    if len(json.dumps(row["meta"])) > MAX_META_BYTES:
        row["meta"] = {}
    return row


def parse_announcement(payload: Mapping[str, Any]) -> Snapshot:
    """Read a message, trusting nothing in it; SnapshotError if it does not fit. The signature is not checked here."""
    number, sha256, signature = payload.get("number"), payload.get("sha256"), payload.get("signature")
    created_at = number_in(payload.get("created_at"), 0, LAST_TIME)
    status, meta = payload.get("status"), payload.get("meta")
    fits = (
        _is_count(number)
        and number != 0
        and all(_is_count(payload.get(name)) for name in ("learner_step", "size"))
        and all(
            payload.get(name, "") is None or _is_count(payload.get(name)) for name in ("parent", "manifest")
        )
        and _matches(_SHA256, sha256)
        and _matches(_SIGNATURE, signature)
        and _matches(_STATUS, status)
        and isinstance(meta, dict)
    )
    if not fits or created_at is None:
        raise SnapshotError(f"an announcement's fields do not fit: {dict(payload)!r:.300}")
    row = cast(dict[str, Any], payload)
    return Snapshot(
        number=row["number"],
        parent=row["parent"],
        learner_step=row["learner_step"],
        manifest=row["manifest"],
        sha256=row["sha256"],
        size=row["size"],
        key=f"snapshots/{row['sha256']}.safetensors",  # it follows from the hash, so it cannot point elsewhere
        signature=row["signature"],
        created_at=created_at,
        status=row["status"],
        meta=row["meta"],
    )


def _is_count(value: object) -> bool:
    return integer_in(value, 0) is not None


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
