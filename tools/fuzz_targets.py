"""What is fuzzed: everything that reads what came over a network or from a disk that others can write."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mcap.writer import CompressionType, Writer

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.errors import LwdError
from lwd.fleet.authority import Authority
from lwd.fleet.credential import load_credential
from lwd.log import calls, codec, grants, layout
from lwd.log.admission import Admission
from lwd.log.bus import Message, decode_payload, encode_payload
from lwd.log.catalogue import Catalogue
from lwd.log.events import DroppedEvent, EpisodeEvent
from lwd.log.granted_objects import GrantedObjects, Transfer
from lwd.log.losses import Drop, Losses
from lwd.log.objects import ObjectStore
from lwd.log.robots import invite
from lwd.log.scan import scan
from lwd.log.spool import Spool
from lwd.log.validate import validate
from lwd.log.worth import Worth
from lwd.snapshot.announcement import announcement, parse_announcement
from lwd.snapshot.file import pack, unpack
from lwd.snapshot.store import Snapshot, verify
from lwd.spec import CameraSpec, RobotSpec, TaskSpec
from tools.mutate import damage, damage_json

JPEG = bytes.fromhex("ffd8ffc00011080004000603012200021101031101") + b"\0" * 16 + b"\xff\xd9"
SPEC = RobotSpec(
    name="arm", proprio_dim=3, action_dim=2, control_hz=10.0, chunk_steps=2,
    cameras=(CameraSpec(name="wrist", height=4, width=6),),
)  # fmt: skip
TASK = TaskSpec(name="t", instruction="do it", milestones=("m",), time_limit_steps=9, horizon="short")


@dataclass(frozen=True)
class Target:
    """A reader: how a payload is made from a seeded generator, and what reads it."""

    make: Callable[[random.Random], bytes]
    run: Callable[[bytes], object]


@contextlib.contextmanager
def targets(folder: Path) -> Generator[dict[str, Target]]:
    """All targets by name; `folder` is empty and theirs."""
    with contextlib.ExitStack() as stack:
        found = {**_episodes(), **_snapshots()}
        found |= _messages(stack.enter_context(Catalogue(folder / "catalogue.db")), folder)
        found |= _files(folder)
        yield found


def _episodes() -> dict[str, Target]:
    episode = _episode()
    seed = codec.encode(episode)
    messages = scan(seed).messages
    header, verdict = messages[layout.HEADER_TOPIC][0], messages[layout.VERDICT_TOPIC][0]
    step, picture = messages[layout.STEP_TOPIC][0], messages["/camera/wrist"][0]

    def read(data: bytes) -> None:
        validate(codec.decode(data), {SPEC.name: SPEC}, {TASK.name: TASK})

    def reframe(rng: random.Random) -> bytes:
        """Damaged messages in a file whose framing and checksums are sound."""
        changed = {topic: list(payloads) for topic, payloads in messages.items()}
        topic = rng.choice(sorted(changed))
        place = rng.randrange(len(changed[topic]))
        is_json = topic in (layout.HEADER_TOPIC, layout.VERDICT_TOPIC)
        change = damage_json if is_json and rng.random() < 0.8 else damage
        changed[topic][place] = change(rng, changed[topic][place])
        if rng.random() < 0.2:
            changed[rng.choice(sorted(changed))] *= rng.choice((0, 2, 40))
        return _forge(changed)

    return {
        "episode bytes": Target(lambda rng: damage(rng, seed), read),
        "episode messages": Target(reframe, read),
        "episode recovery": Target(lambda rng: damage(rng, seed), codec.recover),
        "episode compressed": Target(_bomb, read),
        "episode header": Target(lambda rng: damage_json(rng, header), layout.unpack_header),
        "episode verdict": Target(lambda rng: damage_json(rng, verdict), lambda data: layout.unpack_verdict(data, "e")),
        "step message": Target(lambda rng: damage(rng, step), _value_error(_read_step)),
        "picture message": Target(
            lambda rng: damage(rng, picture), _value_error(lambda data: layout.unpack_image(layout.image_frame("wrist"), data))
        ),
    }  # fmt: skip


def _snapshots() -> dict[str, Target]:
    key = Ed25519PrivateKey.generate()
    unsigned = Snapshot(
        number=3, parent=2, learner_step=7, manifest=1, sha256="ab" * 32, size=9, key="", signature="", created_at=1.0,
        status="published", meta={"a": [1]},
    )  # fmt: skip
    row = replace(unsigned, signature=key.sign(unsigned.signed_bytes()).hex())
    seed = json.dumps(announcement(row)).encode()
    file = pack({"w": np.zeros((3, 2), np.float32), "b": np.zeros(4, np.int64)}, {"stage": "sft"})

    def read(data: bytes) -> None:
        verify(parse_announcement(decode_payload("snapshot.newest", data)), key.public_key())

    def reheaded(rng: random.Random) -> bytes:
        """A safetensors header whose values are swapped, with its right length."""
        length = int.from_bytes(file[:8], "little")
        header = damage_json(rng, file[8 : 8 + length])
        return len(header).to_bytes(8, "little") + header + file[8 + length :]

    return {
        "announcement": Target(lambda rng: damage_json(rng, seed), read),
        "announcement bytes": Target(lambda rng: damage(rng, seed), read),
        "snapshot file": Target(lambda rng: damage(rng, file), lambda data: unpack(data, "here")),
        "snapshot header": Target(reheaded, lambda data: unpack(data, "here")),
    }


def _messages(catalogue: Catalogue, folder: Path) -> dict[str, Target]:
    objects = ObjectStore(folder / "objects")
    admission = Admission(objects, {SPEC.name: SPEC}, {TASK.name: TASK})
    invite(catalogue, "r1", SPEC.name)
    serving = grants.Grants(catalogue, objects)
    event = EpisodeEvent(episode_id="e1", robot="r1", sha256="ab" * 32, size=10)
    dropped = DroppedEvent(episode_id="e1", robot="r1", worth="success", size=10, why="budget", at=1.0)
    events = [json.dumps(item.payload()).encode() for item in (event, dropped)]
    asked = [
        json.dumps(item).encode()
        for item in ({"key": event.key, "size": 10}, {"key": "snapshots/x.safetensors"})
    ]
    answers = [
        json.dumps(item).encode()
        for item in (
            {
                "answer": {
                    "url": "http://127.0.0.1:1/b/k?X=1",
                    "headers": {"a": "b"},
                    "size": 3,
                    "expires_s": 3,
                }
            },
            {"answer": {"files": "/nowhere", "done": True, "missing": True, "later": True}},
            {"error": {"kind": "NotAllowedError", "text": "no"}},
        )
    ]

    def judge(data: bytes) -> None:
        payload = decode_payload("episodes.r1", data)
        message = Message(subject="episodes.r1", payload=payload, receipt="1", deliveries=1, published_at=0.0)
        row = getattr(admission.judge(message), "row", None)
        if row is not None:  # what is written must fit any database
            json.dumps(row, allow_nan=False).encode()
            row["detail"].encode()

    def ask(data: bytes) -> None:
        for verb in (grants.PUT, grants.GET):
            answer = calls.answer(serving.answer, f"calls.r1.{verb}", data)
            calls.read_answer("calls.r1.x", answer)

    def answered(data: bytes) -> None:
        robot = GrantedObjects(
            _Answering(data),
            "r1",
            hosts=["127.0.0.1:1"],
            limits=Transfer(timeout_s=2.0, tries=1, pause_s=(0.0, 0.0)),
        )
        with contextlib.suppress(LwdError):
            robot.put_once(event.key, b"0123456789")
        robot.get(event.key, 10)

    def jsons(seeds: list[bytes]) -> Callable[[random.Random], bytes]:
        def make(rng: random.Random) -> bytes:
            return rng.choice((damage, damage_json, damage_json))(rng, rng.choice(seeds))

        return make

    return {
        "event": Target(jsons(events), judge),
        "call": Target(jsons(asked), ask),
        "answer": Target(jsons(answers), answered),
        "subject": Target(lambda rng: damage(rng, b"episodes.robot7"), lambda data: encode_payload(data.decode("latin-1"), {})),
        "object key": Target(lambda rng: damage(rng, event.key.encode()), lambda data: objects.exists(data.decode("latin-1"))),
    }  # fmt: skip


def _files(folder: Path) -> dict[str, Target]:
    key = Ed25519PrivateKey.generate()
    authority = Authority.create(folder / "fleet", "kitchen", ["tls://127.0.0.1:1"], key.public_key())
    good = folder / "good.json"
    authority.invite("r1").save(good)
    credential, seed = folder / "credential.json", good.read_bytes()
    journal = folder / "journal"
    losses = Losses(journal)
    losses.add(Drop(episode_id="a", worth=Worth.SUCCESS, size=3, at=1.0, why="budget"))
    losses.told("a")
    lines = journal.read_bytes()
    spool = Spool(folder / "spool")
    note = json.dumps({"source": "online", "outcome": "success", "intervention_steps": 3}).encode()

    def read_credential(data: bytes) -> None:
        credential.write_bytes(data)
        credential.chmod(0o600)
        found = load_credential(credential)
        found.snapshot_public_key()
        found.identity().context()

    def read_journal(data: bytes) -> None:
        journal.write_bytes(data)
        asdict(Losses(journal).totals()[Worth.SUCCESS])

    def read_note(data: bytes) -> None:
        (spool.folder / ".a.about").write_bytes(data)
        spool.about(spool.folder / "a.mcap")

    return {
        "credential": Target(lambda rng: rng.choice((damage, damage_json))(rng, seed), read_credential),
        "spool journal": Target(lambda rng: damage(rng, lines), read_journal),
        "spool note": Target(lambda rng: rng.choice((damage, damage_json))(rng, note), read_note),
    }


@dataclass
class _Answering:
    """Calls whose every answer is the same bytes."""

    data: bytes

    def call(self, subject: str, payload: Mapping[str, Any], timeout_s: float = 1.0) -> dict[str, Any]:
        return calls.read_answer(subject, self.data)

    def serve(self, subject: str, handler: calls.Handler) -> calls.Closeable:
        raise NotImplementedError


def _episode() -> Episode:
    header = EpisodeHeader(
        task="t", instruction="do it", source=Source.ONLINE, robot="r1", spec="arm", control_hz=10.0, snapshot=1, software="0",
        episode_id="e1", started_at=1.0,
    )  # fmt: skip
    return Episode(
        header=header, verdict=Verdict(outcome=Outcome.SUCCESS, stage_score=1.0), proprio=np.zeros((5, 3), np.float32),
        actions=np.zeros((4, 2), np.float32), interventions=np.zeros(4, np.bool_), times_s=np.arange(5) / 10,
        images={"wrist": [JPEG] * 5},
    )  # fmt: skip


def _forge(messages: Mapping[str, list[bytes]], compression: CompressionType = CompressionType.NONE) -> bytes:
    buffer = io.BytesIO()
    writer = Writer(buffer, compression=compression, enable_data_crcs=True)
    writer.start()
    for topic, payloads in messages.items():
        channel = writer.register_channel(topic, "cdr", 0)
        for sequence, payload in enumerate(payloads):
            writer.add_message(channel, 0, payload, 0, sequence)
    writer.finish()
    return buffer.getvalue()


def _bomb(rng: random.Random) -> bytes:
    """A few kilobytes that say of themselves, rightly or not, to unpack to very many."""
    name = rng.choice((b"zstd", b"lz4", b"", b"gzip", rng.randbytes(3)))
    # A zstd frame of zeros: magic, window descriptor, then blocks "repeat one byte 131071 times".
    blocks = (struct.pack("<I", (0x1FFFF << 3) | 2)[:3] + b"\0") * rng.choice((1, 100, 1000))
    body = b"\x28\xb5\x2f\xfd\x00\x88" + blocks if rng.random() < 0.7 else rng.randbytes(rng.randrange(200))
    size = rng.choice((0, len(body), 131_071 * 1000, 2**40, 2**63))
    chunk = (
        struct.pack("<QQQI", 0, 0, size, 0)
        + struct.pack("<I", len(name))
        + name
        + struct.pack("<Q", len(body))
        + body
    )
    return b"\x89MCAP0\r\n" + struct.pack("<BQ", 6, len(chunk)) + chunk


def _read_step(data: bytes) -> None:
    layout.unpack_steps([data] * 3, layout.step_dtype(data))


def _value_error(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """These say ValueError, which `decode` turns into an EpisodeError."""

    def run(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            read(data)

    return run
