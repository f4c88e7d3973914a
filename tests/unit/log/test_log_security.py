"""What a robot that turned hostile, or somebody on the way, can send; each entrance refuses it."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from log_cases import SPEC, Fleet, make_episode, make_header

from lwd.errors import EpisodeError, LwdError, StoreError
from lwd.log import codec, layout
from lwd.log.calls import LocalCalls
from lwd.log.events import EpisodeEvent
from lwd.log.granted_objects import GrantedObjects, Transfer
from lwd.log.grants import GET, PUT, Grants
from lwd.log.objects import TooLargeError
from lwd.log.robots import invite

HOSTILE = ["../x", "..", "a/b", "/etc/passwd", "a\\b", "a\0b", "", "é", "a" * 65, "a.b", "*", "a\n", "%2e%2e"]
SHA = "ab" * 32


@pytest.mark.parametrize("name", HOSTILE)
def test_an_id_that_could_leave_its_folder_is_refused_everywhere(fleet: Fleet, name: str):
    before = sorted(path for path in fleet.folder.rglob("*") if "spool" not in path.parts)
    with fleet.client() as client:
        with pytest.raises(EpisodeError, match="episode_id"):
            client.begin(make_header(episode_id=name))
        with pytest.raises(EpisodeError, match="episode_id"):
            client.submit(make_episode(2, episode_id=name))
        names = [path.name for path in (fleet.folder / "spool").rglob("*")]
        assert names == ["robot-1", ".lock"]
    invite(fleet.catalogue, "robot-1", SPEC.name)
    granting = Grants(fleet.catalogue, fleet.objects)
    for verb in (PUT, GET):
        for key in (name, f"episodes/{name}/{SHA}", f"snapshots/{name}"):
            with pytest.raises(LwdError):
                granting.answer(f"calls.robot-1.{verb}", {"key": key, "size": 1})
    with pytest.raises(LwdError):
        granting.answer(f"calls.{name}.{PUT}", {"key": f"episodes/e/{SHA}", "size": 1})
    fleet.bus.publish(
        "episodes.robot-1", EpisodeEvent(episode_id=name, robot="robot-1", sha256=SHA, size=1).payload()
    )
    fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert (row.episode_id, row.reason, row.key) == ("?", "schema", "")
    after = sorted(path for path in fleet.folder.rglob("*") if "spool" not in path.parts)
    assert {path.name for path in after} - {path.name for path in before} <= {
        "catalogue.db-wal",
        "catalogue.db-shm",
    }


@pytest.mark.parametrize("lie", [{}, {"size": 3}, {"size": 1 << 40}])
def test_who_announces_anothers_episode_gains_nothing_and_stops_nobody(fleet: Fleet, lie: dict[str, Any]):
    episode = make_episode(3, robot="robot-2")
    data, name = codec.encode(episode), episode.header.episode_id
    stolen = fleet.send(data, name, robot="robot-1", **lie)
    fleet.drain()
    (row,) = fleet.catalogue.quarantined()
    assert row.robot == "robot-1"
    assert fleet.catalogue.episode(name) is None
    fleet.send(data, name, robot="robot-2")  # the owner's event comes later
    fleet.drain()
    held = fleet.catalogue.episode(name)
    assert held is not None
    assert (held.robot, held.key) == ("robot-2", stolen.key)


def test_sizes_are_bounded_at_each_entrance(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    episode = make_episode(3)
    data, name = codec.encode(episode), episode.header.episode_id
    invite(fleet.catalogue, "robot-1", SPEC.name)
    granting = Grants(fleet.catalogue, fleet.objects, max_bytes=100)
    key = EpisodeEvent(episode_id=name, robot="robot-1", sha256=SHA, size=101).key
    for size in (101, -1, True, None, "9", 2**70, 1.5):
        with pytest.raises(StoreError, match="expected 0 to 100 bytes"):
            granting.answer(f"calls.robot-1.{PUT}", {"key": key, "size": size})
    with pytest.raises(StoreError, match="at most"):
        fleet.bus.publish("episodes.robot-1", {"x": "y" * 20_000})
    read: list[int | None] = []
    get = fleet.objects.get

    def bounded(key: str, max_bytes: int | None = None) -> bytes:
        read.append(max_bytes)
        return get(key, max_bytes)

    monkeypatch.setattr(fleet.objects, "get", bounded)
    fleet.send(data, name, size=layout.MAX_EPISODE_BYTES + 1)  # not even asked for
    fleet.send(data, name + "b", size=len(data) - 1)  # larger than announced: never read
    fleet.drain()
    assert read == [len(data) - 1]
    assert {row.reason for row in fleet.catalogue.quarantined()} == {"shape", "hash"}
    monkeypatch.setattr(layout, "MAX_EPISODE_BYTES", 10)
    with pytest.raises(EpisodeError, match="more than"):
        codec.decode(data)


@pytest.fixture
def bomber() -> Iterator[str]:
    """A server whose answers are small and say that they unpack to 64 MiB."""
    body = gzip.compress(bytes(64 << 20))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-encoding", "gzip")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_compressed_answer_is_not_unpacked(bomber: str):
    calls = LocalCalls()
    size = len(gzip.compress(bytes(64 << 20)))
    answer = {"url": f"{bomber}/b/k", "headers": {}, "size": size}
    serving = calls.serve(f"calls.r1.{GET}", lambda subject, payload: answer)
    quick = Transfer(timeout_s=20.0, tries=1)
    data = GrantedObjects(calls, "r1", limits=quick).get("snapshots/x")
    assert len(data) == size  # as it came: 64 KiB, not 64 MiB
    with pytest.raises(TooLargeError):
        GrantedObjects(calls, "r1", limits=quick).get("snapshots/x", max_bytes=size - 1)
    answer["size"] = 1000
    with pytest.raises(StoreError, match="more than the announced 1000 bytes"):
        GrantedObjects(calls, "r1", limits=quick).get("snapshots/x")
    serving.close()


def test_a_refused_episode_cannot_name_a_file_elsewhere(fleet: Fleet):
    with fleet.client() as client:
        folder: Path = fleet.folder / "spool" / "robot-1"
        (folder / "refused").mkdir()
        (folder / "refused" / "a b.mcap").write_bytes(b"x")
        (folder / "refused" / "good.mcap").write_bytes(b"x")
        (folder / "refused" / "good.json").write_text("[" * 10_000)
        assert [(item.episode_id, item.reason) for item in client.refused()] == [("good", "?")]
