"""Releases: signed, numbered, one per edition whoever makes them; what they name keeps its bytes."""

import dataclasses
import json
import threading

import numpy as np
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_cases import Fleet

from lwd.errors import ConfigError, SnapshotError, StoreError
from lwd.log import migrations, tables
from lwd.log.catalogue import Catalogue
from lwd.snapshot import retention
from lwd.snapshot.promotion import (
    Notice,
    Release,
    notice_message,
    parse_notice,
    sign,
    verify_notice,
    verify_release,
)
from lwd.snapshot.releases import OvertakenError, ReleaseStore, holding, newest_release, releases
from lwd.snapshot.store import SnapshotStore

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def snapshots(fleet: Fleet) -> SnapshotStore:
    """Nine policies of arms."""
    store = SnapshotStore(fleet.objects, fleet.catalogue, KEY)
    for number in range(1, 10):
        meta = {"stage": "online", "robot_spec": "arm"}
        store.publish({"w": np.full(3, number, np.float32)}, number, 1, meta)
    return store


@pytest.fixture
def store(fleet: Fleet, snapshots: SnapshotStore) -> ReleaseStore:
    return ReleaseStore(fleet.catalogue, snapshots, KEY)


def release(stable: int = 1, **changes) -> Release:
    values = {"edition": 1, "kind": "arm", "stable": stable, "reason": "a test", "created_at": 1.5}
    return Release(**(values | changes))


# ---- what is said and believed ---------------------------------------------------------------------------------------


def test_a_pin_counts_before_the_candidate_and_that_before_the_stable_one():
    found = release(5, candidate=8, canaries=("r1", "r2"), pins={"r2": 3, "r4": 2})
    assert [found.allowed(name) for name in ("r1", "r2", "r3", "r4")] == [8, 3, 5, 2]
    assert found.in_order == (5, 8, 2, 3)
    assert found.numbers == {2, 3, 5, 8}
    choices = [found.choices(name) for name in ("r1", "r2", "r3", "r4")]
    assert choices == [(8, 5), (3,), (5,), (2,)], (
        "a canary may do without its candidate, a pinned robot not without its pin"
    )
    assert release(5, canaries=("r1",)).allowed("r1") == 5, "no candidate"
    assert found.in_words() == (
        "release 1 for robots of kind arm: snapshot 5; 8 on r1, r2; 3 pinned on r2; 2 pinned on r4"
    )


def test_a_message_brings_what_it_names_and_trusts_nothing(store: ReleaseStore):
    signed = sign(release(5, candidate=8, canaries=("r1",), pins={"r2": 3}, reason="größer"), KEY)
    message = json.loads(json.dumps(notice_message(store.notice(signed))))
    notice = parse_notice(message)
    verify_notice(notice, KEY.public_key())
    assert notice.release == signed
    assert (notice.allowed("r1").number, notice.allowed("r2").number, notice.allowed("x").number) == (8, 3, 5)
    fields = message["release"]
    changes = {
        "edition": (0, True, "1", None), "kind": (None, "a\nb"), "stable": (0, None), "previous": ("x", 0),
        "candidate": (-1, 1.5), "canaries": (None, ["../x"], [3], ["r"] * 65), "pins": (None, {"../x": 1}, {"r": 0}, [1]),
        "reason": (None, "x" * 501), "created_at": (float("nan"), "x", True),
    }  # fmt: skip
    for name, values in changes.items():
        for value in values:
            with pytest.raises(SnapshotError, match="do not fit"):
                parse_notice({**message, "release": {**fields, name: value}})
    for name in fields:
        with pytest.raises(SnapshotError, match="do not fit"):
            parse_notice({**message, "release": {k: v for k, v in fields.items() if k != name}})
    with pytest.raises(SnapshotError, match="does not bring the row of snapshot 8"):
        parse_notice({**message, "snapshots": message["snapshots"][:2]})
    for broken in ({}, {"release": fields}, {**message, "snapshots": 3}, {**message, "signature": 7}):
        with pytest.raises(SnapshotError, match="does not fit"):
            parse_notice(broken)


def test_a_message_brings_what_robots_would_go_back_to(store: ReleaseStore):
    message = notice_message(store.notice(sign(release(5, previous=2), KEY)))
    notice = parse_notice(message)
    assert set(notice.snapshots) == {2, 5}
    verify_notice(notice, KEY.public_key())
    # A promoter of an older version does not bring it, and robots follow that one too.
    rows = [row for row in message["snapshots"] if row["number"] == 5]
    assert set(parse_notice({**message, "snapshots": rows}).snapshots) == {5}


def test_what_is_changed_or_signed_by_others_is_not_believed(store: ReleaseStore):
    signed = sign(release(5, candidate=8, canaries=("r1",)), KEY)
    strange = Ed25519PrivateKey.generate()
    changes = [{"edition": 2}, {"stable": 4}, {"candidate": 9}, {"canaries": ("r2",)}, {"pins": {"r3": 8}},
               {"kind": "leg"}, {"previous": 1}, {"created_at": 2.5}, {"reason": "another"}, {"signature": "zz"}]  # fmt: skip
    for forged in [dataclasses.replace(signed, **change) for change in changes] + [sign(signed, strange)]:
        with pytest.raises(SnapshotError, match="does not fit this fleet's public key"):
            verify_release(forged, KEY.public_key())
    row = dataclasses.replace(store.notice(signed).snapshots[8], sha256="ab" * 32)
    swapped = Notice(signed, {**store.notice(signed).snapshots, 8: row})
    with pytest.raises(SnapshotError, match="snapshot 8: its signature"):
        verify_notice(swapped, KEY.public_key())


# ---- the table -------------------------------------------------------------------------------------------------------


def test_editions_grow_per_kind_and_the_newest_holds(
    fleet: Fleet, store: ReleaseStore, snapshots: SnapshotStore
):
    assert store.newest("arm") is None
    first = store.issue(release(1), after=None)
    second = store.issue(dataclasses.replace(first, stable=3), after=first)
    leg = snapshots.publish({"w": np.ones(3, np.float32)}, 1, 1, {"robot_spec": "leg"}).number
    other = store.issue(release(leg, kind="leg"), after=None)
    assert (first.edition, second.edition, other.edition) == (1, 2, 1)
    assert store.newest("arm") == second
    assert newest_release(fleet.catalogue, "leg") == other
    assert holding(fleet.catalogue) == [second, other]
    assert releases(fleet.catalogue, "arm") == [first, second]
    assert releases(fleet.catalogue, limit=2) == [second, other]
    back = store.issue(dataclasses.replace(second, stable=1), after=second)
    assert (back.edition, back.stable) == (3, 1), "a lower snapshot, a higher edition"


def test_nobodys_release_is_overwritten_unseen(fleet: Fleet, store: ReleaseStore):
    first = store.issue(release(1), after=None)
    made, refused = [], []

    def make(stable: int) -> None:
        try:
            made.append(store.issue(dataclasses.replace(first, stable=stable), after=first))
        except OvertakenError as error:
            refused.append(error)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 5)
    assert [r.edition for r in releases(fleet.catalogue, "arm")] == [1, 2]
    with pytest.raises(OvertakenError):
        store.issue(release(4), after=None)


def test_a_restored_catalogue_goes_on_above_what_robots_know(store: ReleaseStore):
    first = store.issue(release(1), after=None, above=41)
    assert first.edition == 42
    assert store.issue(first, after=first, above=7).edition == 43


def test_what_is_rejected_is_marked_in_the_same_transaction(store: ReleaseStore, snapshots: SnapshotStore):
    first = store.issue(release(1, candidate=9, canaries=("r",)), after=None)
    with pytest.raises(SnapshotError, match="snapshot 77 does not exist"):
        store.issue(dataclasses.replace(first, stable=77), after=first, rejected={9: "no"})
    assert snapshots.read(9).status == "published"
    store.issue(dataclasses.replace(first, candidate=None), after=first, rejected={9: "worse on canaries"})
    assert (snapshots.read(9).status, snapshots.read(9).reason) == ("rejected", "worse on canaries")
    assert snapshots.load(9)[1].number == 9, "its bytes are there"


def test_what_no_robot_could_follow_is_not_issued(
    fleet: Fleet, store: ReleaseStore, snapshots: SnapshotStore
):
    with pytest.raises(SnapshotError, match="private key"):
        ReleaseStore(fleet.catalogue, snapshots, KEY.public_key()).issue(release(1), after=None)
    with pytest.raises(SnapshotError, match="do not fit"):
        store.issue(release(1, reason="x" * 501), after=None)
    for number in range(10, 60):
        snapshots.publish({"w": np.full(3, number, np.float32)}, number, 1, {"robot_spec": "arm"})
    pins = {f"robot-{number:02d}": number for number in range(1, 60)}
    with pytest.raises(ConfigError, match=r"names 59 snapshots and 59 pins\. Unpin robots"):
        store.issue(release(1, pins=pins), after=None)
    retention.apply(fleet.catalogue, fleet.objects, retention.plan(fleet.catalogue, 1))
    with pytest.raises(SnapshotError, match="snapshot 3 was removed"):
        store.issue(release(3), after=None)
    assert store.newest("arm") is None


def test_a_row_that_the_fleet_did_not_sign_is_not_built_upon(fleet: Fleet, store: ReleaseStore):
    store.issue(release(1), after=None)
    with fleet.catalogue.write() as connection:
        column = tables.releases.c
        body = connection.execute(sa.select(column.body)).scalar_one().replace('"stable": 1', '"stable": 2')
        connection.execute(sa.update(tables.releases).values(body=body))
    with pytest.raises(SnapshotError, match="does not fit this fleet's public key"):
        store.newest("arm")
    with fleet.catalogue.write() as connection:
        connection.execute(sa.update(tables.releases).values(body="{"))
    with pytest.raises(SnapshotError, match="its row is not JSON"):
        store.newest("arm")


def test_retention_keeps_what_releases_name_and_what_a_way_back_needs(fleet: Fleet, store: ReleaseStore):
    first = store.issue(release(2), after=None)
    second = store.issue(dataclasses.replace(first, stable=4, previous=2), after=first)
    store.issue(
        dataclasses.replace(second, previous=None, candidate=6, canaries=("r1",), pins={"r2": 1}),
        after=second,
    )
    found = {s.number: why for s, why in retention.plan(fleet.catalogue, 1).stay}
    assert found == {
        1: "pinned for r2",
        2: "the stable one before that of release 3 for robots of kind arm",
        4: "the stable one of release 3 for robots of kind arm",
        6: "the candidate of release 3 for robots of kind arm",
        9: "one of the newest 1",
    }
    assert [s.number for s in retention.plan(fleet.catalogue, 1).remove] == [3, 5, 7, 8]


def test_a_catalogue_of_version_4_is_brought_up(tmp_path):
    """As the last version made it: without releases, reasons and the index."""
    url = tmp_path / "old.db"
    with Catalogue(url) as fresh:
        snapshots = SnapshotStore(_NoObjects(), fresh, KEY)
        snapshots.publish({"w": np.ones(3, np.float32)}, 1, None, {"robot_spec": "arm"})
        with fresh.write() as connection:
            before = _schema(connection)
            for statement in (
                "DROP TABLE releases",
                "ALTER TABLE snapshots DROP COLUMN reason",
                "DROP INDEX ix_episodes_snapshot",
                "UPDATE info SET value = '4' WHERE key = 'schema_version'",
            ):
                connection.exec_driver_sql(statement)
    with pytest.raises(StoreError, match="lwd log migrate"):
        Catalogue(url)
    report = migrations.migrate(url)
    assert (report.before, report.after) == (4, 5)
    with Catalogue(url) as migrated:
        with migrated.read() as connection:
            assert _schema(connection) == before
        store = SnapshotStore(_NoObjects(), migrated, KEY)
        assert (store.read(1).status, store.read(1).reason) == ("published", "")
        assert ReleaseStore(migrated, store, KEY).issue(release(1), after=None).edition == 1


def test_postgres_holds_releases_too(fleet: Fleet, postgres_server):
    with Catalogue(postgres_server.create_database("releases")) as catalogue:
        snapshots = SnapshotStore(fleet.objects, catalogue, KEY)
        for number in (1, 2):
            snapshots.publish({"w": np.full(3, number, np.float32)}, number, 1, {"robot_spec": "arm"})
        store = ReleaseStore(catalogue, snapshots, KEY)
        first = store.issue(release(1, reason="größer"), after=None)
        changes = {"candidate": 2, "canaries": ("r1",), "pins": {"r2": 1}}
        second = store.issue(dataclasses.replace(first, **changes), after=first, rejected={2: "no"})
        assert store.newest("arm") == second
        assert (holding(catalogue), releases(catalogue)) == ([second], [first, second])
        assert snapshots.read(2).status == "rejected"
        assert catalogue.episodes(snapshot=2) == []


class _NoObjects:
    def put_once(self, key, data):
        return None

    def get(self, key, max_bytes=None):
        raise AssertionError


def _schema(connection: sa.Connection) -> dict[str, object]:
    found = sa.inspect(connection)
    return {
        name: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name)),
            sorted((i["name"], tuple(i["column_names"])) for i in found.get_indexes(name)),
            found.get_pk_constraint(name)["constrained_columns"],
        )
        for name in found.get_table_names()
    }
