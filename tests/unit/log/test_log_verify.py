"""`verify` finds what is gone, changed or not what its row says."""

import sqlalchemy as sa
from log_cases import Fleet, make_episode

from lwd.log import tables
from lwd.log.deletion import delete
from lwd.log.verify import verify


def test_a_sound_log_has_no_problem(fleet: Fleet):
    for _ in range(3):
        fleet.send_episode(make_episode(4))
    fleet.drain()
    report = verify(fleet.catalogue, fleet.objects)
    assert (report.episodes, report.problems) == (3, ())
    assert report.bytes_read == sum(row.size for row in fleet.catalogue.episodes())


def test_what_is_deleted_meanwhile_is_no_damage(fleet: Fleet):
    for name in ("a", "b", "c"):
        fleet.send_episode(make_episode(4, episode_id=name))
    fleet.drain()

    class Busy:
        def get(self, key: str, max_bytes: int | None = None) -> bytes:
            if key.startswith("episodes/a/"):
                delete(fleet.catalogue, fleet.objects, "c", reason="blurred", deleted_by="kim")
            return fleet.objects.get(key, max_bytes)

    report = verify(fleet.catalogue, Busy())
    assert (report.episodes, report.problems) == (2, ())
    assert report.bytes_read == sum(row.size for row in fleet.catalogue.episodes())


def test_every_damage_is_named(fleet: Fleet):
    for _ in range(5):
        fleet.send_episode(make_episode(4))
    fleet.drain()
    gone, rotten, longer, lying, sound = fleet.catalogue.episodes()
    folder = fleet.folder / "objects"
    (folder / gone.key).unlink()
    data = bytearray((folder / rotten.key).read_bytes())
    data[50] ^= 1
    (folder / rotten.key).write_bytes(data)
    (folder / longer.key).write_bytes((folder / longer.key).read_bytes() + b"x")
    with fleet.catalogue.write() as connection:
        change = sa.update(tables.episodes).where(tables.episodes.c.seq == lying.seq)
        connection.execute(change.values(outcome="failure"))
    report = verify(fleet.catalogue, fleet.objects)
    assert report.episodes == 5
    found = {problem.episode_id: problem.reason for problem in report.problems}
    assert found == {
        gone.episode_id: "missing",
        rotten.episode_id: "hash",
        longer.episode_id: "hash",
        lying.episode_id: "row",
    }
    assert verify(fleet.catalogue, fleet.objects, [sound]).problems == ()
