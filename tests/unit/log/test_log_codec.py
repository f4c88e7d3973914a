"""The episode file: exact, readable by the stock MCAP reader, and safe against anything that is not one."""

import contextlib
import io
import json
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from log_cases import assert_equal, change, forge, forge_parts, jpeg, make_episode, make_header
from mcap.reader import make_reader
from mcap.writer import CompressionType

from lwd.episode import SCHEMA_VERSION, Episode, Outcome, Verdict
from lwd.errors import EpisodeError
from lwd.log import codec, layout
from lwd.log.scan import MalformedError, scan


def reason_of(data: bytes) -> str:
    with pytest.raises(EpisodeError) as caught:
        codec.decode(data)
    return caught.value.reason


@given(
    steps=st.integers(1, 6),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    data=st.data(),
    seed=st.integers(-(2**63), 2**63 - 1) | st.none(),
    instruction=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_round_trip_is_bit_exact(steps, widths, data, seed, instruction):
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    episode = Episode(
        header=make_header(seed=seed, instruction=instruction, operator="Ada", snapshot=None),
        verdict=Verdict(outcome=Outcome.UNJUDGED, stage_score=0.25),
        proprio=data.draw(hnp.arrays(np.float32, (steps + 1, widths[0]), elements=floats)),
        actions=data.draw(hnp.arrays(np.float32, (steps, widths[1]), elements=floats)),
        interventions=data.draw(hnp.arrays(np.bool_, (steps,))),
        times_s=data.draw(hnp.arrays(np.float64, (steps + 1,), elements=st.floats(0, 1e9))),
    )
    encoded = codec.encode(episode)
    assert_equal(codec.decode(encoded), episode)
    assert codec.encode(codec.decode(encoded)) == encoded


def test_pictures_round_trip():
    episode = make_episode(5, cameras={"wrist": (8, 12), "a_very-long_camera_name": (4, 4)})
    assert_equal(codec.decode(codec.encode(episode)), episode)


def test_a_large_episode_spans_chunks():
    picture = jpeg(8, 8) + b"\0" * 200_000
    episode = change(make_episode(40), images={"wrist": [picture] * 41})
    assert_equal(codec.decode(codec.encode(episode)), episode)


def test_the_stock_reader_understands_it():
    episode = make_episode(7, cameras={"wrist": (8, 12)})
    reader = make_reader(io.BytesIO(codec.encode(episode)), validate_crcs=True)
    topics: dict[str, list[bytes]] = {}
    for schema, channel, message in reader.iter_messages():
        topics.setdefault(channel.topic, []).append(message.data)
        assert schema.encoding in ("ros2msg", "jsonschema")
        if channel.topic == "/episode/step" and message.sequence == 3:
            # As any CDR reader does: 4 bytes of encapsulation, then aligned little-endian fields.
            time_s, index, human = struct.unpack_from("<dI?", message.data, 4)
            (width,) = struct.unpack_from("<I", message.data, 4 + 16)
            state = struct.unpack_from(f"<{width}f", message.data, 4 + 20)
            assert (time_s, index, human) == (0.3, 3, bool(episode.interventions[3]))
            assert state == tuple(episode.proprio[3].tolist())
    counts = {topic: len(messages) for topic, messages in topics.items()}
    assert counts == {
        "/episode/header": 1,
        "/episode/step": 7,
        "/episode/final": 1,
        "/episode/verdict": 1,
        "/camera/wrist": 8,
    }
    assert json.loads(topics["/episode/header"][0])["schema_version"] == SCHEMA_VERSION
    assert episode.images["wrist"][2] in topics["/camera/wrist"][2]


def test_every_prefix_is_refused_and_recovers_its_whole_steps():
    episode = make_episode(25, cameras={"wrist": (8, 12)})
    buffer = io.BytesIO()
    stream = codec.EpisodeStream(buffer, episode.header, flush_steps=2)
    for t in range(25):
        stream.step(
            episode.proprio[t],
            episode.actions[t],
            bool(episode.interventions[t]),
            float(episode.times_s[t]),
            {"wrist": episode.images["wrist"][t]},
        )
    stream.finish(
        episode.proprio[25],
        float(episode.times_s[25]),
        {"wrist": episode.images["wrist"][25]},
        episode.verdict,
    )
    data = buffer.getvalue()
    assert_equal(codec.decode(data), episode)
    steps = 0
    for end in [*range(0, 4000, 7), *range(4000, len(data), 101), *range(len(data) - 40, len(data))]:
        assert reason_of(data[:end]) == "truncated"
        whole = codec.recover(data[:end])
        if whole is None:
            assert steps == 0
            continue
        assert whole.steps >= steps
        steps = whole.steps
        assert np.array_equal(whole.proprio, episode.proprio[: steps + 1])
        assert np.array_equal(whole.actions, episode.actions[:steps])
        assert list(whole.images["wrist"]) == list(episode.images["wrist"][: steps + 1])
        if steps < 25:
            assert whole.verdict == Verdict(outcome=Outcome.UNJUDGED, stage_score=0.0)
        assert_equal(codec.decode(codec.encode(whole)), whole)
    assert steps == 25
    assert_equal(codec.recover(data), episode)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_flipped_bit_goes_unnoticed(data):
    encoded = bytearray(codec.encode(make_episode(6, episode_id="flip", started_at=1.0)))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= 1 << data.draw(st.integers(0, 7))
    assert reason_of(bytes(encoded)) in ("corrupt", "truncated", "schema")


@given(st.binary(max_size=400), st.integers(0, 3000), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_garbage_raises_only_episode_errors(garbage, place, cut):
    encoded = codec.encode(make_episode(6, episode_id="garbage", started_at=1.0))
    for data in (garbage, b"\x89MCAP0\r\n" + garbage, encoded[:place] + garbage + encoded[place + cut :]):
        if data != encoded:
            reason_of(data)
        with contextlib.suppress(EpisodeError):
            codec.recover(data)


def parts(steps: int = 3, cameras: dict[str, tuple[int, int]] | None = None) -> dict[str, list[bytes]]:
    episode = make_episode(steps, cameras=cameras, episode_id="parts", started_at=1.0)
    return scan(codec.encode(episode)).messages


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_hostile_messages_in_sound_framing_raise_only_episode_errors(data):
    messages = parts(3, {"wrist": (8, 8)})
    topic = data.draw(st.sampled_from(sorted(messages)))
    kind = data.draw(st.sampled_from(["bytes", "json", "field", "drop", "repeat", "sequence"]))
    if kind == "bytes":
        payload = bytearray(messages[topic][0])
        place = data.draw(st.integers(0, len(payload)))
        payload[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        messages[topic][0] = bytes(payload)
    elif kind == "json":
        messages[topic][0] = json.dumps(data.draw(json_values)).encode()
    elif kind == "field" and topic in (layout.HEADER_TOPIC, layout.VERDICT_TOPIC):
        fields = json.loads(messages[topic][0])
        name = data.draw(st.sampled_from(sorted(fields)) | st.text(max_size=5))
        messages[topic][0] = json.dumps({**fields, name: data.draw(json_values)}).encode()
    elif kind == "drop":
        messages[topic].pop()
    elif kind == "repeat":
        messages[topic].append(messages[topic][-1])
    forged = forge_parts(messages)
    reasons: list[str] = []
    for read in (codec.decode, codec.recover):
        try:
            read(forged)
        except EpisodeError as error:
            reasons.append(error.reason)
    assert set(reasons) <= {"corrupt", "truncated", "shape", "nan", "schema"}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("schema_version", SCHEMA_VERSION + 1, "schema"),
        ("schema_version", None, "schema"),
        ("episode_id", "../../etc/passwd", "schema"),
        ("episode_id", 5, "schema"),
        ("robot", "a.b", "schema"),
        ("task", "two\nlines", "schema"),
        ("task", "\ud800", "schema"),
        ("source", "stolen", "schema"),
        ("snapshot", -1, "schema"),
        ("seed", 2**63, "schema"),
        ("control_hz", 0, "schema"),
        ("control_hz", float("nan"), "nan"),
        ("started_at", float("inf"), "nan"),
        ("surprise", 1, "schema"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(field, value, reason):
    messages = parts()
    fields = {**json.loads(messages[layout.HEADER_TOPIC][0]), field: value}
    messages[layout.HEADER_TOPIC] = [json.dumps(fields).encode()]
    assert reason_of(forge_parts(messages)) == reason


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("outcome", "great", "schema"),
        ("stage_score", 1.5, "schema"),
        ("stage_score", 10**400, "schema"),  # an integer that no float holds
        ("stage_score", float("nan"), "nan"),
        ("steps", 4, "shape"),
    ],
)
def test_a_verdict_that_does_not_fit_is_refused(field, value, reason):
    messages = parts()
    fields = {**json.loads(messages[layout.VERDICT_TOPIC][0]), field: value}
    messages[layout.VERDICT_TOPIC] = [json.dumps(fields).encode()]
    assert reason_of(forge_parts(messages)) == reason


def test_nested_json_and_missing_parts_are_refused():
    messages = parts()
    assert reason_of(forge_parts({**messages, layout.HEADER_TOPIC: [b"[" * 60_000]})) == "corrupt"
    assert reason_of(forge_parts({**messages, layout.HEADER_TOPIC: [b'{"a":' * 20_000]})) in (
        "schema",
        "corrupt",
    )
    fields = json.loads(messages[layout.HEADER_TOPIC][0])
    for depth in range(900, 1000, 5):  # what can just be read can not be shown
        nested = json.dumps({**fields, "task": "@"}).replace('"@"', "[" * depth + "]" * depth).encode()
        assert reason_of(forge_parts({**messages, layout.HEADER_TOPIC: [nested]})) in ("schema", "corrupt")
    for topic in messages:
        assert reason_of(forge_parts({**messages, topic: []})) in ("schema", "shape")


def test_a_step_of_another_width_or_out_of_order_is_refused():
    messages = parts()
    steps = messages[layout.STEP_TOPIC]
    assert (
        reason_of(forge_parts({**messages, layout.STEP_TOPIC: [*steps[:2], steps[2] + b"\0" * 4]})) == "shape"
    )
    assert reason_of(forge_parts({**messages, layout.STEP_TOPIC: [steps[1], steps[0], steps[2]]})) == "shape"


def test_not_a_number_is_refused_by_name():
    for name in ("proprio", "actions"):
        episode = make_episode(4)
        getattr(episode, name)[2, 1] = np.nan
        with pytest.raises(EpisodeError, match=rf"{name}\[2\] is not finite") as caught:
            codec.decode(codec.encode(episode))
        assert caught.value.reason == "nan"
        assert caught.value.episode_id == episode.header.episode_id


def test_arrays_that_do_not_fit_each_other_are_not_encoded():
    episode = make_episode(4)
    with pytest.raises(EpisodeError, match="4 actions but times_s"):
        codec.encode(change(episode, times_s=episode.times_s[:-1]))
    assert reason_of(codec.encode(make_episode(0))) == "shape"


def test_compressed_chunks_are_refused_unread():
    """A small file cannot unpack into a large one."""
    bomb = forge([("/episode/step", b"\0" * 50_000_000, 0)], CompressionType.LZ4) if has_lz4() else None
    if bomb is not None:
        assert reason_of(bomb) == "corrupt"


def has_lz4() -> bool:
    try:
        import lz4.frame  # noqa: F401
    except ImportError:
        return False
    return True


def test_a_file_of_empty_records_is_refused_quickly():
    began = time.perf_counter()
    flood = b"\x89MCAP0\r\n" + struct.pack("<BQ", 0x0C, 0) * 3_000_000
    assert isinstance(scan(flood).broken, MalformedError)
    assert time.perf_counter() - began < 10.0
