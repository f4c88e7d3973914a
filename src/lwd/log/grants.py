"""Grants: robots hold no bucket key; they ask for each object, and get a signed URL that allows that one request.

    calls.<robot>.grant-put  {"key", "size"}  PUT of an episode of this robot, create-only, exactly these bytes
    calls.<robot>.grant-get  {"key"}          GET of a published snapshot, or of an episode of this robot

The robot's name is that of the subject, which the broker has checked. An episode id belongs to the robot that first asked
for it, for good.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lwd.errors import ConfigError, StoreError
from lwd.log import tables
from lwd.log.calls import Calls, Closeable
from lwd.log.catalogue import Catalogue
from lwd.log.layout import MAX_EPISODE_BYTES
from lwd.log.objects import MissingObjectError, ObjectStore, check_key
from lwd.log.robots import NotAllowedError, check_active
from lwd.log.s3 import check_base_url, presign

log = logging.getLogger(__name__)

PUT, GET = "grant-put", "grant-get"
EXPIRY_S = 300
"""How long a URL can be used; a transfer that has begun may take longer."""

_EPISODE = re.compile(r"episodes/([A-Za-z0-9_-]{1,64})/([0-9a-f]{64})")
_SUBJECT = re.compile(r"calls\.([A-Za-z0-9_-]{1,64})\.(grant-put|grant-get)")


class Grants:
    """The coordinator's side. Thread-safe; several coordinators may serve.

    Args:
        catalogue: knows robots, snapshots, and whose an episode is.
        objects: on S3, opened with a bucket key; or a local directory, whose path is then the answer (embedded mode:
            robots on the same machine).
        public_url: `scheme://host[:port]` under which robots reach the object store, where it differs from its endpoint.
        expires_s: how long a URL can be used.
        max_bytes: largest episode.

    Raises:
        ConfigError: such a store cannot be granted, or there is no key to sign with.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        objects: ObjectStore,
        *,
        public_url: str | None = None,
        expires_s: int = EXPIRY_S,
        max_bytes: int = MAX_EPISODE_BYTES,
    ) -> None:
        if objects.root is None and objects.location is None:
            raise ConfigError(
                f"grants: {objects.url!r} cannot be granted; expected an s3:// URL or a directory."
            )
        if objects.root is None and objects.credentials is None:
            raise ConfigError(
                "grants: no key to sign with; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the coordinator."
            )
        self._catalogue, self._objects = catalogue, objects
        self._public_url = check_base_url(public_url) if public_url else None
        self._expires_s, self._max_bytes = expires_s, max_bytes

    def serve(self, calls: Calls) -> Closeable:
        """Answer robots from now on, until the result is closed."""
        return _All([calls.serve(f"calls.*.{verb}", self.answer) for verb in (PUT, GET)])

    def answer(self, subject: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """One grant, or "later" if catalogue or store do not answer now; NotAllowedError if it is refused."""
        found = _SUBJECT.fullmatch(subject)
        if found is None:
            raise NotAllowedError(
                f"grants: {subject!r:.120} is not calls.<robot>.{PUT} or calls.<robot>.{GET}."
            )
        robot, verb = found.groups()
        key = payload.get("key")
        if not isinstance(key, str):
            raise NotAllowedError(f"grants: the request of robot {robot!r} names no key.")
        try:
            check_key(key)  # before it reaches a query
        except StoreError as error:
            raise NotAllowedError(f"grants: {error}") from error
        try:
            answer = self._put(robot, key, payload.get("size")) if verb == PUT else self._get(robot, key)
        except NotAllowedError:
            raise
        except StoreError as error:  # its text names servers that robots need not know
            log.warning("grant_failed robot=%s verb=%s key=%s cause=%r", robot, verb, key, str(error))
            return {"later": True}
        log.info("granted robot=%s verb=%s key=%s done=%s", robot, verb, key, "done" in answer)
        return answer

    def _put(self, robot: str, key: str, size: object) -> dict[str, Any]:
        found = _EPISODE.fullmatch(key)
        if found is None:
            raise NotAllowedError(
                f"grants: key {key!r:.200} is not episodes/<episode id>/<sha256>; nothing else is uploaded."
            )
        if type(size) is not int or not 0 <= size <= self._max_bytes:
            raise NotAllowedError(
                f"grants: episode {found[1]} has size {size!r:.40}, expected 0 to {self._max_bytes} bytes."
            )
        if self._claim(robot, found[1], found[2]):
            return {"done": True}
        digest = base64.b64encode(bytes.fromhex(found[2])).decode()
        headers = {"content-length": str(size), "if-none-match": "*", "x-amz-checksum-sha256": digest}
        return self._grant("PUT", key, headers)

    def _get(self, robot: str, key: str) -> dict[str, Any]:
        found = _EPISODE.fullmatch(key)
        with self._catalogue.read() as connection:
            check_active(connection, robot)
            if found is not None:
                allowed = _known(connection, found[1]).owner == robot
            else:
                query = sa.select(tables.snapshots.c.number).where(tables.snapshots.c.key == key)
                allowed = connection.execute(query.limit(1)).first() is not None
        if not allowed:
            raise NotAllowedError(
                f"grants: robot {robot!r} may not read {key!r:.200}; it may read published snapshots and its own episodes."
            )
        try:
            size = self._objects.size(key)
        except MissingObjectError:
            return {"missing": True}
        return {**self._grant("GET", key, {}), "size": size}

    def _grant(self, method: str, key: str, headers: dict[str, str]) -> dict[str, Any]:
        location, credentials = self._objects.location, self._objects.credentials
        if location is None or credentials is None:
            return {"files": str(self._objects.root)}
        url = presign(
            location,
            credentials,
            method,
            key,
            expires_s=self._expires_s,
            headers=headers,
            base_url=self._public_url,
        )
        return {"url": url, "headers": headers, "expires_s": self._expires_s}

    def _claim(self, robot: str, episode_id: str, sha256: str) -> bool:
        """Make sure that the id is the robot's; whether nothing is left to upload."""
        with self._catalogue.read() as connection:
            check_active(connection, robot)
            known = _known(connection, episode_id)
        owner, done = known.owner, known.done(sha256)
        if owner is None and not done:
            with self._catalogue.write() as connection:
                owner = _known(connection, episode_id).owner  # another may have been quicker
                if owner is None:
                    values = {"episode_id": episode_id, "robot": robot, "claimed_at": time.time()}
                    connection.execute(_CLAIM, values)
                    owner = robot
        if owner != robot:
            raise NotAllowedError(
                f"grants: episode {episode_id} is not robot {robot!r}'s; nothing was granted."
            )
        return done


@dataclass(frozen=True)
class _Known:
    """What the catalogue knows of an episode id: whose it is, the bytes that are catalogued, whether it was deleted."""

    owner: str | None
    sha256: str | None
    deleted: bool

    def done(self, sha256: str) -> bool:
        """Whether these bytes are catalogued, or the episode was deleted: it must not be uploaded again."""
        return self.deleted or self.sha256 == sha256


def _of(table: sa.Table, column: str) -> sa.ScalarSelect[str | None]:
    return sa.select(table.c[column]).where(table.c.episode_id == sa.bindparam("id")).scalar_subquery()


# Built once: building it takes longer than running it, and grants are most of what an episode costs the coordinator.
_CLAIM = sa.insert(tables.claims)
_KNOWN = sa.select(
    _of(tables.episodes, "robot"),
    _of(tables.claims, "robot"),
    _of(tables.deletions, "robot"),
    _of(tables.episodes, "sha256"),
)


def _known(connection: sa.Connection, episode_id: str) -> _Known:
    values: list[Any] = list(connection.execute(_KNOWN, {"id": episode_id}).one())
    catalogued, claimed, deleted, sha256 = values
    return _Known(catalogued or claimed or deleted, sha256, deleted is not None)


class _All:
    def __init__(self, parts: list[Closeable]) -> None:
        self._parts = parts

    def close(self) -> None:
        for part in self._parts:
            part.close()
