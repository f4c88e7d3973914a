"""The catalogue's tables. Every change here needs a new CATALOGUE_VERSION and a step in `migrations`."""

from __future__ import annotations

import sqlalchemy as sa

CATALOGUE_VERSION = 5
"""Version of these tables; a program refuses a catalogue of another version."""

metadata = sa.MetaData()

# SQLite counts up by itself only in a column that is exactly INTEGER; Postgres wants 64 bits.
_serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

info = sa.Table(
    "info", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)

# Written by the coordinator only. `seq` grows and is never used twice (hence autoincrement): a manifest is
# "everything up to this seq", so membership never changes once the manifest is committed.
episodes = sa.Table(
    "episodes",
    metadata,
    sa.Column("seq", _serial, primary_key=True, autoincrement=True),
    sa.Column("episode_id", sa.Text, nullable=False, unique=True),
    sa.Column("task", sa.Text, nullable=False, index=True),
    sa.Column("instruction", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("control_hz", sa.Double, nullable=False),
    sa.Column("snapshot", sa.BigInteger, index=True),
    sa.Column("software", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger),
    sa.Column("operator", sa.Text),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("stage_score", sa.Double, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("cycle_time_s", sa.Double, nullable=False),
    sa.Column("intervention_steps", sa.Integer, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("catalogued_at", sa.Double, nullable=False),
    sa.Column("received_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sqlite_autoincrement=True,
)

# What arrived and must not be trained on. One row per content that arrived, however often it was delivered.
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", _serial, primary_key=True, autoincrement=True),
    sa.Column("episode_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("quarantined_at", sa.Double, nullable=False),
    sa.UniqueConstraint("episode_id", "sha256"),
    sqlite_autoincrement=True,
)

# The embedded bus: a row lives from publish to acknowledge. `claimed_at`/`visible_at` are seconds since the epoch.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _serial, primary_key=True, autoincrement=True),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("message_id", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("published_at", sa.Double, nullable=False),
    sa.Column("claimed_at", sa.Double, nullable=False, server_default="0"),
    sa.Column("visible_at", sa.Double, nullable=False, server_default="0"),
    sa.Column("deliveries", sa.Integer, nullable=False, server_default="0"),
    sa.UniqueConstraint("subject", "message_id"),
    sqlite_autoincrement=True,
)

manifests = sa.Table(
    "manifests",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("parent", sa.BigInteger),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("episodes", sa.BigInteger, nullable=False),
    sa.Column("upto_seq", sa.BigInteger, nullable=False, index=True),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("parent", sa.BigInteger),
    sa.Column("learner_step", sa.BigInteger, nullable=False),
    sa.Column("manifest", sa.BigInteger),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("meta", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
)

# Which robot of a kind may run which policy: the row with the largest edition holds. `body` is the JSON that is signed.
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("edition", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
)

# The only rows that are ever updated besides events: pointers such as "manifest" and "snapshot".
heads = sa.Table(
    "heads",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)

# Who may take part. A robot is invited once; revoking is for good, its computer gets a new name.
robots = sa.Table(
    "robots",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("public_key", sa.Text),
    sa.Column("invited_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)

# What each process last said of itself; overwritten, never a source of truth. `payload` is a JSON object.
statuses = sa.Table(
    "statuses",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("sent_at", sa.Double, nullable=False),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
)

# Which robot an episode id belongs to, from the first time that it asked to upload until the episode is catalogued.
claims = sa.Table(
    "claims",
    metadata,
    sa.Column("episode_id", sa.Text, primary_key=True),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("claimed_at", sa.Double, nullable=False),
)

# Tombstones: what was deleted, what had used it, and that it must never come back. The manifests from `first_manifest` to
# `last_manifest` held it. `snapshots` is a JSON list of the numbers that may have learned from it when it was deleted; later
# ones follow from `first_manifest`.
deletions = sa.Table(
    "deletions",
    metadata,
    sa.Column("episode_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("first_manifest", sa.BigInteger),
    sa.Column("last_manifest", sa.BigInteger, index=True),
    sa.Column("snapshots", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("deleted_by", sa.Text, nullable=False),
    sa.Column("deleted_at", sa.Double, nullable=False),
    sa.Column("object_deleted_at", sa.Double),
)
