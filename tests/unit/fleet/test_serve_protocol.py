"""Frames and observations from strangers: what is read, what is refused, and with which words."""

import io
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from serving import SPEC, frame, message

from lwd.errors import ConfigError
from lwd.fleet.serve.observation import ObservationError, ObservationKeys, control, seen
from lwd.fleet.serve.protocol import FrameError, pack, unpack
from lwd.fleet.serve.tokens import TokenFile, load_token, new_token
from lwd.spec import CameraSpec, RobotSpec

DTYPES = ["<f4", ">f4", "<f8", "<f2", "|u1", "|i1", "<i4", ">i8", "<u2", "|b1"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0))
    )
)
def test_arrays_come_back_as_they_were_whoever_packs_them(array):
    for data in (frame({"a": array}), pack({"a": array})):
        found = unpack(data)["a"]
        assert found.shape == array.shape
        assert found.dtype.isnative
        assert found.dtype.kind == array.dtype.kind
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(message(pack({"a": array}))["a"], array)


def test_scalars_and_nested_messages():
    sent = {"n": np.int64(7), "x": np.float32(0.5), "deep": {"list": [1, "two", None]}}
    assert unpack(frame(sent)) == {
        "n": 7,
        "x": 0.5,
        "deep": {"list": [1, "two", None]},
    }
    text = {b"__npgeneric__": True, b"data": "Walk.", b"dtype": "<U5"}
    assert unpack(msgpack.packb({"prompt": text})) == {"prompt": "Walk."}


def array_frame(**changes):
    fields = {"data": b"\0" * 16, "dtype": "<f4", "shape": [4]} | changes
    return msgpack.packb({"a": {b"__ndarray__": True} | {k.encode(): v for k, v in fields.items()}})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"garbage frame", "not msgpack"),
        (msgpack.packb([1, 2]), "expected a map"),
        (msgpack.packb(7), "expected a map"),
        (msgpack.packb({b"bytes": 1}), "text keys"),
        (array_frame(dtype="|O"), "not carried"),
        (array_frame(dtype="|O8"), "not carried"),
        (array_frame(dtype="<U4"), "not carried"),
        (array_frame(dtype="<c8"), "not carried"),
        (array_frame(dtype="<M8[s]"), "not carried"),
        (array_frame(dtype="f4,f4"), "not carried"),
        (array_frame(dtype=[["a", "<f4"]]), "not carried"),
        (array_frame(shape=[5]), "16 bytes"),
        (array_frame(shape=[-4]), "shape"),
        (array_frame(shape=[2**31 - 1] * 8), "16 bytes"),
        (array_frame(shape=[1] * 40), "shape"),
        (array_frame(shape=4), "no shape"),
        (array_frame(data="text"), "no data"),
        (msgpack.packb({"a": {b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}}), "scalar"),
        (msgpack.packb({"a": msgpack.ExtType(5, b"code")}), "extension"),
        (msgpack.packb({"a": [[] for _ in range(1000)], "b": [[[]] * 500] * 10}), "more than"),
        (msgpack.packb({"a": list(range(2000))}), "not msgpack"),
        (b"\x81\xa1a" + b"\x91" * 100_000, "not msgpack"),
    ],
)
def test_what_is_no_message_is_refused(data, says):
    with pytest.raises(FrameError, match=says):
        unpack(data)


def test_objects_are_not_sent_either():
    for value in (object(), np.array([object()]), np.array([1j]), {1, 2}):
        with pytest.raises(FrameError):
            pack({"a": value})


KEYS = ObservationKeys()
CAMERA = RobotSpec(
    name="eye",
    proprio_dim=2,
    action_dim=2,
    control_hz=10.0,
    chunk_steps=4,
    cameras=(CameraSpec(name="front", height=8, width=16),),
)


def good(**changes):
    found = {"observation/state": np.array([1.0, 2.0]), "prompt": "Walk."} | changes
    return {key: value for key, value in found.items() if value is not None}


def test_states_of_any_numeric_kind_are_joined_in_order():
    keys = ObservationKeys(state=("joints", "gripper"), prompt="task")
    found = seen({"joints": np.array([3], np.int64), "gripper": 0.5, "task": "Grip.", "other": 1}, SPEC, keys)
    np.testing.assert_array_equal(found.proprio, np.array([3.0, 0.5], np.float32))
    assert found.prompt == "Grip."
    assert seen({"observation/state": [1, 2.5], "prompt": "x"}, SPEC, KEYS).proprio.tolist() == [1.0, 2.5]
    assert seen(good(prompt=None), SPEC, ObservationKeys(default_prompt="Go.")).prompt == "Go."


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"observation/state": None, "observation/sate": 1}, r"'observation/state' is missing.*Did you mean"),
        ({"observation/state": np.zeros(3)}, "has 3 numbers .*robot 'line' has 2"),
        ({"observation/state": np.zeros((1, 2))}, r"must be a vector of numbers, got \(1, 2\)"),
        ({"observation/state": "1, 2"}, "must be a vector"),
        ({"observation/state": ["1", None]}, "must be a vector"),
        ({"observation/state": np.array([np.nan, 1.0])}, "1 of 2 numbers are NaN"),
        ({"observation/state": np.array([1e300, 1.0])}, "1 of 2 numbers are NaN or infinite"),
        ({"prompt": None}, "'prompt' is missing"),
        ({"prompt": 5}, "'prompt' must be text"),
        ({"prompt": "x" * 5000}, "'prompt' must be text"),
    ],
)
def test_errors_name_the_key(changes, says):
    with pytest.raises(ObservationError, match=says):
        seen(good(**changes), SPEC, KEYS)


def encoded(kind, size=(16, 8), **options):
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, (250, 0, 0)).save(file, kind, **options)
    return file.getvalue()


def test_pictures():
    picture = np.zeros((8, 16, 3), np.uint8)
    for key, keys in (("observation/front", KEYS), ("cam", ObservationKeys(images={"front": "cam"}))):
        assert seen(good(**{key: picture}), CAMERA, keys).images["front"].shape == (8, 16, 3)
    for wrong in (np.zeros((3, 8, 16), np.uint8), np.zeros((8, 16, 3), np.float32), "picture", b"no jpeg"):
        with pytest.raises(ObservationError, match="'observation/front'"):
            seen(good(**{"observation/front": wrong}), CAMERA, KEYS)

    found = seen(good(**{"observation/front": encoded("JPEG")}), CAMERA, KEYS).images["front"]
    assert found.shape == (8, 16, 3)
    assert abs(int(found[0, 0, 0]) - 250) < 6
    with pytest.raises(ObservationError, match="'observation/front' is no JPEG"):
        seen(good(**{"observation/front": encoded("PNG")}), CAMERA, KEYS)


LARGE = (2048, 2048)
SPLIT = b"\xff\xfe\x00\x02" * 20_000
"""Empty comments of a JPEG."""


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: encoded("JPEG", (4, 4)), "has 4 x 4 pixels; expected 16 x 8"),
        (lambda: encoded("JPEG", (8, 16)), "has 8 x 16 pixels; expected 16 x 8"),
        (lambda: encoded("JPEG", LARGE), "has 2048 x 2048 pixels; expected 16 x 8"),
        (
            lambda: encoded("JPEG", progressive=True),
            "has 16 x 8 pixels and is progressive; expected 16 x 8, not",
        ),
        (lambda: encoded("JPEG")[:2] + SPLIT + encoded("JPEG")[2:], "has 80.* bytes, expected at most 66304"),
    ],
)
def test_a_jpeg_that_would_take_long_to_decode_is_not_decoded(make, says, monkeypatch):
    from PIL import Image

    data = make()
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(ObservationError, match=f"key 'observation/front': the JPEG {says}"):
        seen(good(**{"observation/front": data}), CAMERA, KEYS)


def test_a_jpeg_with_a_damaged_header_is_refused_like_any_other_that_is_none():
    data = bytearray(encoded("JPEG"))
    size = data.index(b"\xff\xc0") + 5  # of the frame's header
    for height, width in ((12_000, 12_000), (60_000, 60_000)):  # Pillow warns of one and raises for the other
        data[size : size + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        with pytest.raises(ObservationError, match="'observation/front' is no JPEG: Image size"):
            seen(good(**{"observation/front": bytes(data)}), CAMERA, KEYS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lwd/sed", 1),
        ("lwd/seed", -1),
        ("lwd/seed", 1.5),
        ("lwd/seed", True),
        ("lwd/chunk", 2**31),
        ("lwd/snapshot", "3"),
        ("lwd/reset", 1),
        ("lwd/begin", "yes"),
        ("lwd/episode", ""),
        ("lwd/episode", "x" * 200),
    ],
)
def test_keys_of_our_own_are_checked(key, value):
    with pytest.raises(ObservationError, match=key):
        control(good(**{key: value}))


def test_tokens(tmp_path):
    path = tmp_path / "tokens"
    first, second = new_token(path, "arm-1"), new_token(path, "arm-2")
    assert path.stat().st_mode & 0o777 == 0o600
    tokens = TokenFile(path)
    assert (tokens.name_of(first), tokens.name_of(second)) == ("arm-1", "arm-2")
    for wrong in ("", "arm-1", first[:-1], first + "x", "\udcff"):
        assert tokens.name_of(wrong) is None
    replaced = new_token(path, "arm-1")
    assert tokens.refresh()
    assert not tokens.refresh()
    assert tokens.name_of(first) is None
    assert tokens.name_of(replaced) == "arm-1"
    path.write_text("arm-1 short\n")  # a slip of the pen locks nobody out
    assert not tokens.refresh()
    assert tokens.name_of(second) == "arm-2"


def test_tokens_that_are_made_at_once_are_all_kept(tmp_path):
    path = tmp_path / "tokens"
    names = [f"arm-{i}" for i in range(16)]
    with ThreadPoolExecutor(len(names)) as pool:
        made = list(pool.map(lambda name: new_token(path, name), names))
    tokens = TokenFile(path)
    assert [tokens.name_of(token) for token in made] == names


def test_token_files_that_are_refused(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match="cannot be read"):
        TokenFile(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_token(path)
    path.write_text("arm-1 " + "x" * 20 + "\n")
    path.chmod(0o644)
    for read in (TokenFile, load_token, lambda p: new_token(p, "arm-2")):
        with pytest.raises(ConfigError, match="chmod 600"):
            read(path)
    path.chmod(0o600)
    assert load_token(path) == "x" * 20
    assert TokenFile(path).name_of("x" * 20) == "arm-1"
    path.write_text(2 * ("arm-1 " + "x" * 20 + "\n"))
    with pytest.raises(ConfigError, match="line 2"):
        TokenFile(path)
    with pytest.raises(ConfigError, match="one token"):
        load_token(path)
    with pytest.raises(ConfigError, match="must be 1 to 64"):
        new_token(path, "arm 1")
