"""Robots of a policy server, and the server on a fleet's own snapshots: the same chunks as locally, and never two
snapshots in one episode, whatever dies.
"""

import ssl
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import pytest
import seeing_fleet
import toy_fleet
from serving import KEYS, SETTINGS, SPEC, Client, MarkedRunner, serving, until

from lwd import image
from lwd.errors import ConfigError, RobotError, SnapshotError
from lwd.fleet.acting import PolicyDriver, fleet_driver
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.policies import model_config, publish
from lwd.fleet.robot import Robot, RobotOptions
from lwd.fleet.robot_config import RobotConfig
from lwd.fleet.robot_policy import View
from lwd.fleet.serve.batcher import BatchSettings
from lwd.fleet.serve.client import RemoteOptions, RemotePolicies
from lwd.fleet.serve.held import HeldSnapshots
from lwd.fleet.serve.policies import DriverRunner, ServerFollower, Wanted, driver_runner, only
from lwd.fleet.serve.server import PolicyServer, ServerSettings
from lwd.fleet.serve.service import ServeOptions, run_serve
from lwd.fleet.serve.tokens import TokenFile, new_token
from lwd.fleet.service import ServiceContext
from lwd.fleet.services import encoder
from lwd.fleet.telemetry import Telemetry
from lwd.log.writer import EdgeClient
from lwd.models.mlp import MlpPolicy, Normalizer
from lwd.models.vla.networks import VlaModel
from lwd.robot.memory import MemoryRecorder
from lwd.snapshot.keys import load_private_key
from lwd.snapshot.promotion import Release
from lwd.snapshot.releases import ReleaseStore

FAST = {"answer_s": 5.0, "patience_s": 20.0}


@pytest.fixture(scope="module")
def policies():
    config = model_config(toy_fleet.experiment())
    return [MlpPolicy.init(jax.random.key(i), config, Normalizer.identity(2)) for i in range(3)]


def remote(url, context=None, choices=None, **options):
    context = context or ServiceContext("line-00", "robot")

    def say(waits_for):
        context.say(state="runs" if waits_for is None else "waits", waits_for=waits_for)

    options = RemoteOptions(url=url, **(FAST | options))
    return RemotePolicies(options, SPEC, context.telemetry, say, context.should_stop, choices)


# ---- the same chunks -------------------------------------------------------------------------------------


def test_a_served_chunk_is_the_local_one_bit_for_bit(policies, quick_compilation):
    """For the same seed and chunk index, under two snapshots, by the robot's own client and by openpi's keys."""
    x = toy_fleet.experiment()
    local = PolicyDriver(encoder(x), (SPEC.chunk_steps, SPEC.action_dim), x.model.flow_steps, pad_to=16)
    local.load(1, policies[0])
    local.load(2, policies[1])

    def expected(number, proprio, seed, index):
        state = np.array([proprio], np.float32)
        return local.act(state, ["Walk far."], [number], np.array([seed]), np.array([index]))[0]

    with serving([], runner=driver_runner(x, 16)) as s:
        s.held.add(1, policies[0])
        robot, other = remote(s.url), Client(s.url)
        episode = robot.newest()
        assert episode.number == 1
        s.held.add(2, policies[1])
        for index in range(3):
            chunk = episode.chunk(View(np.array([0.3, index], np.float32), "Walk far."), 10_000_007, index)
            np.testing.assert_array_equal(chunk, np.clip(expected(1, [0.3, index], 10_000_007, index), -1, 1))
            answer = other.ask(x=0.3, lwd_seed=5, lwd_chunk=index)
            assert answer["snapshot"] == 2
            np.testing.assert_array_equal(answer["actions"], expected(2, [0.3, 0.0], 5, index))
        # Without a seed the noise is the connection's own: another chunk each time.
        assert not np.array_equal(other.ask()["actions"], other.ask()["actions"])
        robot.close()
        other.socket.close()


def test_a_served_vla_sees_the_pictures_and_reads_the_prompt(quick_compilation):
    """As pixels by openpi's client and as JPEG by a robot of ours: the same chunk as computed here from the same pixels."""
    x = replace(seeing_fleet.experiment(), model=VlaModel(policy=toy_fleet.VLA, flow_steps=2))
    policy = model_config(x).make_policy(jax.random.key(0), Normalizer.identity(2))
    rng = np.random.default_rng(0)
    # Fresh gates are closed; open ones let the prefix through.
    policy = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(leaf.dtype), policy
    )
    policy = eqx.tree_at(lambda p: p.normalizer, policy, Normalizer.identity(2))
    jpeg = image.encode(rng.integers(0, 256, (8, 16, 3)).astype(np.uint8))
    local = fleet_driver(x, pad_to=4)
    local.load(1, policy)
    expected = local.act(
        np.array([[0.5, 0.0]], np.float32), ["Go."], [1], np.array([3]), np.array([0]), {"eye": [jpeg]}
    )[0]
    with serving([], runner=driver_runner(x, 4), spec=seeing_fleet.SPEC) as s:
        s.held.add(1, policy)
        with Client(s.url) as client:

            def chunk(picture, prompt="Go."):
                more = {"observation/eye": picture, "lwd_seed": 3, "lwd_chunk": 0}
                return client.ask(prompt=prompt, **more)["actions"]

            pixels = image.decode(jpeg, 8, 16)
            np.testing.assert_array_equal(chunk(pixels), expected)
            np.testing.assert_array_equal(chunk(jpeg), expected)
            assert np.any(chunk(255 - pixels) != expected)
            assert np.any(chunk(pixels, prompt="Stop.") != expected)


# ---- the service -----------------------------------------------------------------------------------------


@contextmanager
def service(x, folder, options):
    """`lwd serve` in a thread; its port is in its status."""
    context, ended = ServiceContext("server", "server"), []

    def run():
        try:
            run_serve(context, x, folder, options)
        except Exception as error:
            ended.append(error)
            context.stopping.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: ended or context.status().get("port"))
        yield context
    finally:
        context.stopping.set()
        thread.join(20)
        assert not thread.is_alive()
        assert ended == []


def test_the_server_follows_the_fleet_and_refuses_what_is_not_for_it(tmp_path, policies, quick_compilation):
    x, folder = toy_fleet.experiment(), RunFolder(tmp_path / "run")
    options = ServeOptions(server=ServerSettings(port=0))
    with open_services(folder) as services, service(x, folder, options) as context:
        assert "first snapshot" in context.status()["waits_for"]
        url = f"ws://127.0.0.1:{context.status()['port']}"

        def released(policy, experiment=x):
            return publish(experiment, services, policy, stage="sft", learner_step=0, manifest=None).number

        with Client(url) as client:
            assert client.ask().startswith("waits: ")
            first = released(policies[0])
            until(lambda: context.status()["snapshot"] == first)
            assert client.ask(lwd_episode="a")["snapshot"] == first
            second = released(policies[1])
            until(lambda: context.status()["snapshot"] == second)
            assert client.ask(lwd_episode="a")["snapshot"] == first
            assert client.ask(lwd_episode="b")["snapshot"] == second
            wrong = replace(x, model=replace(x.model, instruction_dim=16))
            other = MlpPolicy.init(jax.random.key(9), model_config(wrong), Normalizer.identity(2))
            released(other, wrong)
            until(lambda: context.telemetry.summary().get("snapshots_refused_total") == 1)
            assert client.ask(lwd_episode="c")["snapshot"] == second
            last = released(policies[2])
            until(lambda: context.status()["snapshot"] == last)
            assert client.ask(lwd_episode="d")["snapshot"] == last
        assert context.status()["numbers"]["snapshot_loaded_seconds"]["count"] == 3


def test_a_server_that_follows_releases_has_all_that_one_names(tmp_path, policies, quick_compilation):
    x, folder = toy_fleet.experiment(), RunFolder(tmp_path / "run")
    options = ServeOptions(server=ServerSettings(port=0), follow="releases", room=3, linger_s=0.0)
    with open_services(folder) as services, service(x, folder, options) as context:
        store = ReleaseStore(
            services.catalogue, services.snapshots, load_private_key(services.folder.snapshot_key)
        )
        for policy in policies:
            publish(x, services, policy, stage="sft", learner_step=0, manifest=None)

        def issue(stable, **more):
            release = Release(edition=1, kind=SPEC.name, stable=stable, reason="", created_at=0.0, **more)
            store.issue(release, after=store.newest(SPEC.name))

        def has(snapshot, loaded):
            found = context.status()
            return (found["snapshot"], found["loaded"]) == (snapshot, loaded)

        with Client(f"ws://127.0.0.1:{context.status()['port']}") as client:
            assert client.metadata["follow"] == "releases"
            assert client.ask(lwd_reset=True).startswith("waits: ")
            issue(1)
            until(lambda: has(1, 1))
            issue(1, candidate=2, canaries=("line-00",))
            until(lambda: has(1, 2))
            assert client.ask(lwd_reset=True)["snapshot"] == 1, "who asks for none gets the stable one"
            assert client.ask(lwd_reset=True, lwd_snapshot=2)["snapshot"] == 2
            assert "snapshot 3 is not loaded here" in client.ask(lwd_reset=True, lwd_snapshot=3)
            issue(2, previous=1, pins={"line-01": 3, "line-02": 1})
            until(lambda: has(2, 3))
            issue(1)  # back to a lower number
            assert client.ask(lwd_reset=True, lwd_snapshot=1)["snapshot"] == 1
            until(lambda: has(1, 1))
            issue(1, pins={"line-00": 2, "line-01": 3, "line-02": 1})
            until(lambda: has(1, 3))
            assert context.status()["waits_for"] is None
    with pytest.raises(ConfigError, match="one snapshot or follows releases"):
        ServeOptions(snapshot=1, follow="releases")


def test_a_server_says_when_a_release_names_more_than_it_has_room_for():
    runner = MarkedRunner()
    held = HeldSnapshots(runner, room=2)
    row = SimpleNamespace(created_at=0.0, learner_step=0)
    follower = ServerFollower(lambda: Wanted(5, (5, 7, 3)), lambda n: (None, row), held, Telemetry({}))
    try:
        until(lambda: follower.waits_for and "room for snapshot 3 (--room)" in follower.waits_for)
        assert (held.newest, held.loaded()) == (5, [5, 7])
    finally:
        follower.close()


def test_clients_that_stay_silent_do_not_keep_a_server_from_the_newest_snapshot():
    """Three ask once, each under another snapshot, and stay connected; room is four."""
    wanted, row = [only(1)], SimpleNamespace(created_at=0.0, learner_step=0)
    with serving([], room=4, linger_s=0.0, silent_s=0.5) as s, ExitStack() as stack:
        follower = ServerFollower(lambda: wanted[0], lambda n: (None, row), s.held, s.telemetry)
        stack.callback(follower.close)
        silent = []
        for number in (2, 3, 4, 5):
            wanted[0] = only(number)
            until(lambda number=number: s.held.newest == number)
            silent.append(stack.enter_context(Client(s.url)))
            assert silent[-1].ask()["snapshot"] == number
        with Client(s.url) as busy:
            assert busy.ask()["snapshot"] == 5
            wanted[0] = only(6)
            until(lambda: s.held.newest == 6, timeout_s=20)
            assert busy.ask(lwd_reset=True)["snapshot"] == 6
        assert silent[0].ask().startswith("snapshot: snapshot 2 is not loaded here any more")
        assert silent[0].ask(lwd_reset=True)["snapshot"] == 6


def test_a_policy_that_fails_its_warm_up_leaves_nothing_behind(policies):
    class Driver(PolicyDriver):
        """Keeps policies, fails to compute with number 2."""

        def __init__(self):
            self.policies = {}

        def load(self, number, policy):
            self.policies[number] = policy

        def keep_only(self, numbers):
            self.policies = {n: policy for n, policy in self.policies.items() if n in numbers}

        def act(self, proprio, prompts, snapshots, *_):
            if 2 in snapshots:
                raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return np.zeros((len(snapshots), SPEC.chunk_steps, SPEC.action_dim), np.float32)

    driver = Driver()
    held = HeldSnapshots(DriverRunner(driver, SPEC))
    held.add(1, policies[0])
    with pytest.raises(RuntimeError, match="out of memory"):
        held.add(2, policies[1])
    assert list(driver.policies) == [1]
    assert (held.newest, held.loaded()) == (1, [1])


def test_another_kinds_newest_does_not_keep_a_server_from_its_own(tmp_path, policies, quick_compilation):
    x, folder = toy_fleet.experiment(), RunFolder(tmp_path / "run")
    with open_services(folder) as services:
        mine = publish(x, services, policies[0], stage="sft", learner_step=0, manifest=None).number
        arrays, row = services.snapshots.load(mine)
        services.snapshots.publish(arrays, 1, None, {**row.meta, "robot_spec": "crane"})
        with service(x, folder, ServeOptions(server=ServerSettings(port=0))) as context:
            until(lambda: context.status()["snapshot"] == mine)
            assert context.telemetry.summary().get("snapshots_refused_total", 0) == 0


def test_options_that_cannot_work():
    with pytest.raises(ConfigError, match="--token-file"):
        ServeOptions(server=ServerSettings(host="0.0.0.0"))
    with pytest.raises(ConfigError, match="room"):
        ServeOptions(room=1)
    with pytest.raises(
        ConfigError, match=r"silent_s must be more than the 10 s that a request may wait, got 10\."
    ):
        ServeOptions(silent_s=10.0)
    with pytest.raises(ConfigError, match="ws://"):
        RemoteOptions(url="http://127.0.0.1")
    for url in ("ws://", "ws://h:abc", "ws://h:99999", "ws://h:0", "ws://[::1"):
        with pytest.raises(ConfigError, match="expected ws://host:port"):
            RemoteOptions(url=url)
    for url in ("wss://h:1", "WSS://h:1"):
        with pytest.raises(ConfigError, match="--policy-ca-file 'nofile' cannot be read"):
            RemoteOptions(url=url, ca_file="nofile")
    with pytest.raises(ConfigError, match="'ws://h:1' is not encrypted"):
        RemoteOptions(url="ws://h:1", ca_file="nofile")
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match="expected 0 to 65535"):
            ServerSettings(port=port)
    with pytest.raises(ConfigError, match="--max-batch"):
        BatchSettings(max_batch=0)
    for seconds in (-0.001, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="--collect-ms"):
            BatchSettings(collect_s=seconds)


def test_only_an_encrypted_connection_has_certificates(monkeypatch):
    assert RemoteOptions(url="WSS://h:1").tls() is not None
    monkeypatch.setattr(ssl, "create_default_context", None)  # hundreds of certificates, at every reconnect
    assert RemoteOptions(url="ws://h:1").tls() is None


@contextmanager
def stops_after(context, seconds):
    """The service is told to stop if the test's own end does not come first."""
    timer = threading.Timer(seconds, context.stopping.set)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_a_pinned_snapshot_that_does_not_exist_is_not_waited_for(tmp_path):
    context = ServiceContext("server", "server")
    options = ServeOptions(server=SETTINGS, snapshot=99)
    with stops_after(context, 20), pytest.raises(SnapshotError, match="snapshot 99 does not exist"):
        run_serve(context, toy_fleet.experiment(), RunFolder(tmp_path), options, lambda *_: MarkedRunner())


def test_a_pinned_snapshot_that_is_refused_is_not_waited_for(tmp_path, policies):
    x, folder = toy_fleet.experiment(), RunFolder(tmp_path / "run")
    wrong = replace(x, model=replace(x.model, instruction_dim=16))
    other = MlpPolicy.init(jax.random.key(9), model_config(wrong), Normalizer.identity(2))
    context = ServiceContext("server", "server")
    with open_services(folder) as services:
        number = publish(wrong, services, other, stage="sft", learner_step=0, manifest=None).number
        unheard = publish(x, services, policies[0], stage="unheard", learner_step=0, manifest=None).number
    for pinned, said in ((number, " has "), (unheard, ": .* has no stage 'unheard'")):
        with (
            stops_after(context, 20),
            pytest.raises(SnapshotError, match=f"snapshot {pinned}{said}") as refused,
        ):
            run_serve(context, x, folder, ServeOptions(server=ServerSettings(port=0), snapshot=pinned))
        # What is kept of a refusal must not hold the frames that loaded it, and with them its arrays.
        assert "load_policy" not in [entry.name for entry in refused.traceback]
        assert refused.value.__cause__ is refused.value.__context__ is None


# ---- a robot of the server -------------------------------------------------------------------------------


class Recorder(EdgeClient):
    """In place of the delivery: keeps episodes in memory, the headers of all, and which were given up."""

    def __init__(self):
        self._memory = MemoryRecorder()
        self.episodes, self.headers, self.given_up = self._memory.episodes, [], []

    def begin(self, header):
        recording = self._memory.begin(header)
        self.headers.append(header)

        def abort():
            if not self.episodes or self.episodes[-1].header is not header:
                self.given_up.append(header)

        recording.abort = abort
        return recording


@contextmanager
def robot_at(url, pace=4.0, **options):
    """A robot at work in a thread: its context, and what it recorded."""
    context, recorder = ServiceContext("line-00", "robot"), Recorder()
    fleet = toy_fleet.experiment().fleet.deployed
    config = RobotConfig(
        spec=SPEC,
        tasks={"near": toy_fleet.TASKS["near"]},
        fleet=fleet,
        takeover=None,
        instruction_dim=8,
        first_seed=0,
        last_seed=9,
        software="test",
    )
    source = remote(url, context, **options)
    robot = Robot(
        context,
        "line-00",
        config,
        recorder,
        source,
        toy_fleet.Line(),
        {},
        RobotOptions(folder=Path("unused"), pace=pace),
    )
    thread = threading.Thread(target=robot.run)
    thread.start()
    try:
        yield context, recorder
    finally:
        context.stopping.set()
        thread.join(20)
        source.close()
        assert not thread.is_alive()


def check_pure(recorder):
    """No action of an episode comes from another snapshot than its header names."""
    assert recorder.episodes
    for episode in recorder.episodes:
        numbers = np.round(100 * episode.actions[:, 0]).astype(int)
        assert set(numbers.tolist()) == {episode.header.snapshot}


def test_a_robot_works_under_the_servers_newest_snapshot():
    with serving([1]) as s, robot_at(s.url, pace=0.0) as (context, recorder):
        until(lambda: len(recorder.episodes) >= 2)
        s.held.add(2, None)
        until(lambda: recorder.episodes[-1].header.snapshot == 2)
        assert context.status()["state"] == "runs"
        assert context.telemetry.summary()["chunk_answer_seconds"]["count"] > 0
    check_pure(recorder)
    assert [e.header.snapshot for e in recorder.episodes] == sorted(
        e.header.snapshot for e in recorder.episodes
    )


def test_a_robot_under_releases_asks_for_what_it_is_allowed_and_for_nothing_else():
    allowed = []
    with serving([4]) as s:
        source = remote(s.url, choices=lambda: allowed)
        assert source.newest() is None
        assert source.waits_for == "the first release"
        allowed[:] = [5, 4]  # a canary
        assert source.newest().number == 4, "the candidate is not loaded yet"
        s.held.add(5, None, serve=False)
        assert source.newest().number == 5
        allowed[:] = [6]  # a pin
        assert source.newest() is None
        assert "snapshot 6 is not loaded here (it has [4, 5])" in source.waits_for
        source.close()


def again(s, held=None, runner=None):
    """The server of `s` on its old port, as a restarted process would be."""
    settings = replace(SETTINGS, port=s.server.port)
    return PolicyServer(held or s.held, runner or s.runner, SPEC, KEYS, settings, None, Telemetry({}))


def test_a_robot_waits_for_a_server_that_died_and_goes_on_with_its_episode():
    with serving([1]) as s, robot_at(s.url) as (context, recorder):
        until(lambda: len(s.runner.batches) >= 2)
        s.server.close()
        until(lambda: "is away" in str(context.status().get("waits_for")))
        assert context.status()["state"] == "waits"
        episode = recorder.headers[-1]
        s.held.add(2, None)  # the restarted server also has a newer one; the episode keeps its own
        with again(s):
            until(lambda: any(e.header is episode for e in recorder.episodes))
            until(lambda: recorder.episodes[-1].header.snapshot == 2)
    assert episode.snapshot == 1
    check_pure(recorder)


def test_an_episode_is_given_up_if_the_server_came_back_without_its_snapshot():
    with serving([1]) as s, robot_at(s.url) as (context, recorder):
        until(lambda: len(s.runner.batches) >= 2)
        s.server.close()
        until(lambda: "is away" in str(context.status().get("waits_for")))
        episode = recorder.headers[-1]
        with serving([2], settings=replace(SETTINGS, port=s.server.port)):
            until(lambda: recorder.episodes and recorder.episodes[-1].header.snapshot == 2)
        assert episode in recorder.given_up
    check_pure(recorder)


def test_an_episode_is_given_up_when_patience_ends_and_the_robot_goes_on_asking():
    with serving([1]) as s, robot_at(s.url, patience_s=0.3) as (context, recorder):
        until(lambda: len(s.runner.batches) >= 2)
        s.server.close()
        until(lambda: recorder.given_up)
        until(lambda: "episodes_failed_total" in context.telemetry.summary())  # counted after it was given up
        until(lambda: "is away" in str(context.status().get("waits_for")))
        assert context.telemetry.summary()["episodes_failed_total"] == 1
        began = len(recorder.headers)
        with again(s):
            until(lambda: len(recorder.headers) > began)


class Liar(MarkedRunner):
    """Computes what it likes."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def chunks(self, rows):
        return np.zeros((len(rows), *self.shape), np.float32)


def test_answers_that_do_not_fit_are_not_executed():
    view = View(np.zeros(2, np.float32), "Walk.")
    with serving([1], runner=Liar((3, 2))) as s:
        source = remote(s.url)
        with pytest.raises(RobotError, match="no finite chunk"):
            source.newest().chunk(view, 1, 0)
        source.close()
    with serving([1]) as s:
        source = remote(s.url, patience_s=0.0)
        episode = source.newest()
        with pytest.raises(RobotError, match=r"given up.*runs under snapshot 1, not 7"):
            replace(episode, number=7).chunk(view, 1, 0)
        source.close()
    with serving([1], spec=replace(SPEC, name="other")) as s:
        source = remote(s.url)
        with pytest.raises(ConfigError, match="robot_spec 'other'"):
            source.newest()
        source.close()


def test_a_robot_shows_its_token(tmp_path):
    token = new_token(tmp_path / "tokens", "line-00")
    with serving([1], tokens=TokenFile(tmp_path / "tokens")) as s:
        source = remote(s.url, token=token)
        assert source.newest().number == 1
        source.close()
        with pytest.raises(ConfigError, match="refuses this robot's token"):
            remote(s.url, token="x" * 20).newest()
    away = remote(s.url)
    assert away.newest() is None
    assert "is away" in away.waits_for
