"""A catalogue that version 1 of the schema made: refused with the command to run, migrated with its data intact."""

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from log_cases import make_episode, open_fleet

from lwd import __version__
from lwd.errors import StoreError
from lwd.log import manifest, migrations, tables
from lwd.log.catalogue import Catalogue
from lwd.log.engine import Database

NOW = tables.CATALOGUE_VERSION

# As version 1 made them, word for word; {serial} and {double} are what the two engines call them.
VERSION_1 = """
CREATE TABLE info ("key" TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE episodes (seq {serial}, episode_id TEXT NOT NULL, task TEXT NOT NULL, instruction TEXT NOT NULL,
 source TEXT NOT NULL, robot TEXT NOT NULL, spec TEXT NOT NULL, control_hz {double} NOT NULL, snapshot BIGINT,
 software TEXT NOT NULL, seed BIGINT, operator TEXT, started_at {double} NOT NULL, outcome TEXT NOT NULL,
 stage_score {double} NOT NULL, steps INTEGER NOT NULL, cycle_time_s {double} NOT NULL,
 intervention_steps INTEGER NOT NULL, "key" TEXT NOT NULL, sha256 TEXT NOT NULL, size BIGINT NOT NULL,
 catalogued_at {double} NOT NULL{primary_seq}, UNIQUE (episode_id));
CREATE INDEX ix_episodes_task ON episodes (task);
CREATE TABLE events (id {serial}, subject TEXT NOT NULL, message_id TEXT NOT NULL, payload TEXT NOT NULL,
 published_at {double} NOT NULL, claimed_at {double} DEFAULT '0' NOT NULL, visible_at {double} DEFAULT '0' NOT NULL,
 deliveries INTEGER DEFAULT '0' NOT NULL{primary_id}, UNIQUE (subject, message_id));
CREATE INDEX ix_events_subject ON events (subject);
CREATE TABLE heads (name TEXT NOT NULL, number BIGINT NOT NULL, updated_at {double} NOT NULL, PRIMARY KEY (name));
CREATE TABLE manifests (number BIGINT NOT NULL, parent BIGINT, created_at {double} NOT NULL, episodes BIGINT NOT NULL,
 upto_seq BIGINT NOT NULL, PRIMARY KEY (number));
CREATE TABLE quarantine (id {serial}, episode_id TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
 "key" TEXT NOT NULL, sha256 TEXT NOT NULL, robot TEXT NOT NULL, quarantined_at {double} NOT NULL{primary_id},
 UNIQUE (episode_id, sha256));
CREATE TABLE snapshots (number BIGINT NOT NULL, parent BIGINT, learner_step BIGINT NOT NULL, manifest BIGINT,
 sha256 TEXT NOT NULL, size BIGINT NOT NULL, signature TEXT NOT NULL, "key" TEXT NOT NULL,
 created_at {double} NOT NULL, status TEXT NOT NULL, meta TEXT NOT NULL, PRIMARY KEY (number));
INSERT INTO info VALUES ('schema_version', '1')
"""
WORDS = {
    "sqlite": {
        "serial": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT",
        "double": "DOUBLE",
        "primary_seq": "",
        "primary_id": "",
    },
    "postgresql": {
        "serial": "BIGSERIAL NOT NULL",
        "double": "DOUBLE PRECISION",
        "primary_seq": ", PRIMARY KEY (seq)",
        "primary_id": ", PRIMARY KEY (id)",
    },
}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "catalogue.db")
    return request.getfixturevalue("postgres_server").create_database(f"migrate_{uuid.uuid4().hex}")


@pytest.fixture
def old(url: str) -> Iterator[Database]:
    """A version 1 catalogue with something in every table."""
    with closing(Database(url)) as database:
        with database.write() as connection:
            for statement in VERSION_1.format(**WORDS[database.backend]).split(";"):
                connection.exec_driver_sql(statement)
            for row in ROWS:
                names = ", ".join(f'"{name}"' for name in row[1])
                marks = ", ".join(f":{name}" for name in row[1])
                connection.execute(sa.text(f"INSERT INTO {row[0]} ({names}) VALUES ({marks})"), row[1])
        yield database


HEADER = {**vars(make_episode(1, episode_id="e1").header), "source": "online"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    (
        "episodes",
        {**HEADER, "outcome": "success", "stage_score": 1.0, "steps": 5, "cycle_time_s": 0.5}
        | {"intervention_steps": 0, "key": "k", "sha256": "0" * 64, "size": 9, "catalogued_at": 3.5},
    ),
    (
        "quarantine",
        {"episode_id": "bad", "reason": "nan", "detail": "d", "key": "", "sha256": "1", "robot": "r"}
        | {"quarantined_at": 1.0},
    ),
    ("events", {"subject": "s", "message_id": "m", "payload": "{}", "published_at": 1.0}),
    ("heads", {"name": "manifest", "number": 1, "updated_at": 1.0}),
    # Two more than it holds: earlier programs counted what had been deleted.
    ("manifests", {"number": 1, "parent": None, "created_at": 1.0, "episodes": 3, "upto_seq": 1}),
    (
        "snapshots",
        {"number": 1, "parent": None, "learner_step": 3, "manifest": 1, "sha256": "2", "size": 1, "key": "k"}
        | {"signature": "s", "created_at": 1.0, "status": "published", "meta": "{}"},
    ),
]


def test_an_old_catalogue_is_refused_with_the_command_and_then_migrated(
    old: Database, url: str, tmp_path: Path
):
    with pytest.raises(
        StoreError, match=rf"version 1, this program needs {NOW}.*lwd log migrate --catalogue"
    ):
        Catalogue(url)
    report = migrations.migrate(url)
    assert (report.before, report.after) == (1, NOW)
    assert migrations.migrate(url) == migrations.MigrationReport(before=NOW, after=NOW, backup=None)
    with open_fleet(tmp_path, url) as fleet:
        assert fleet.catalogue.counts() == dict.fromkeys(fleet.catalogue.counts(), 1)
        (row,) = fleet.catalogue.episodes()
        assert {name: getattr(row, name) for name in ROWS[0][1]} == ROWS[0][1]
        assert (row.seq, row.received_at) == (1, None)
        newest = manifest.latest(fleet.catalogue)
        assert newest is not None
        assert (newest.number, newest.episodes) == (1, 1)
        episode = make_episode(3)  # and it works on
        fleet.send_episode(episode)
        fleet.coordinator.step()
        committed = fleet.coordinator.commit()
        assert committed is not None
        assert (committed.number, committed.episodes, committed.upto_seq) == (2, 2, 2)
        with fleet.catalogue.read() as connection:
            info = {row.key: row.value for row in connection.execute(sa.select(tables.info))}
    assert (info["schema_version"], info["software"]) == (str(NOW), __version__)
    assert json.loads(info["migrated_2"])["from"] == 1
    if old.file is None:
        assert report.backup is None
    else:
        assert report.backup is not None
        with closing(sqlite3.connect(report.backup)) as copy:
            assert copy.execute("SELECT value FROM info WHERE key = 'schema_version'").fetchall() == [("1",)]
            assert copy.execute("SELECT count(*) FROM episodes").fetchone() == (1,)


def test_a_migrated_schema_is_the_one_that_a_new_catalogue_gets(old: Database, url: str, tmp_path: Path):
    migrations.migrate(url)
    migrated = shape(old)
    with old.write() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            table.drop(connection)
    Catalogue(url).close()
    assert shape(old) == migrated


def shape(database: Database) -> dict[str, Any]:
    """What can be told of a schema."""
    with database.read() as connection:
        found = sa.inspect(connection)
        return {
            name: (
                [
                    (column["name"], column["type"].compile(connection.dialect), column["nullable"])
                    for column in found.get_columns(name)
                ],
                found.get_pk_constraint(name)["constrained_columns"],
                sorted(str(item["column_names"]) for item in found.get_unique_constraints(name)),
                sorted(str(item["name"]) for item in found.get_indexes(name)),
            )
            for name in found.get_table_names()
        }


def test_a_step_that_fails_changes_nothing(old: Database, url: str, monkeypatch: pytest.MonkeyPatch):
    step = migrations.STEPS[0]

    def die(connection: sa.Connection) -> None:
        step.apply(connection)
        raise RuntimeError("power cut")

    before = shape(old)
    monkeypatch.setattr(migrations, "STEPS", (migrations.Step(2, die),))
    with pytest.raises(RuntimeError):
        migrations.migrate(url)
    assert shape(old) == before
    with pytest.raises(StoreError, match="version 1"):
        Catalogue(url)


def test_two_migrations_at_once_do_it_once(old: Database, url: str):
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.append(migrations.migrate(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [report.after for report in reports] == [NOW] * 3
    Catalogue(url).close()


def test_a_newer_catalogue_says_what_to_install(url: str):
    Catalogue(url).close()
    with closing(Database(url)) as database:
        with database.write() as connection:
            column = tables.info.c
            change = sa.update(tables.info)
            connection.execute(change.where(column.key == "schema_version").values(value="99"))
            connection.execute(change.where(column.key == "software").values(value="7.1.0"))
        for opener in (Catalogue, migrations.migrate):
            with pytest.raises(
                StoreError, match=rf"version 99, this program knows {NOW}\. Install lwd 7\.1\.0"
            ):
                opener(url)
        with database.write() as connection:
            connection.execute(sa.delete(tables.info).where(column.key == "software"))
        with pytest.raises(StoreError, match="Install the lwd version that wrote it"):
            Catalogue(url)
        with database.write() as connection:
            connection.execute(sa.update(tables.info).values(value="two"))
        with pytest.raises(StoreError, match="no catalogue of lwd"):
            Catalogue(url)


def test_nothing_to_migrate(url: str):
    with pytest.raises(StoreError, match="none to migrate"):
        migrations.migrate(url)
