"""Gates: what cannot be loaded, is not finite, saturated or far away meets no robot, and says why."""

import dataclasses

import numpy as np
import pytest
import toy_fleet
from toy_policies import publish, walking

from lwd.episode import Episode, EpisodeHeader, Outcome, Source, Verdict
from lwd.errors import ConfigError, SnapshotError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.gates import GateLimits, Seen, chunks_of, examine, observations, refusal
from lwd.fleet.services import make_coordinator
from lwd.instruction import InstructionEncoder
from lwd.log.writer import EdgeClient
from lwd.robot.state_policy import StatePolicy

ENCODER, LIMITS, SPEC = InstructionEncoder(dim=8), GateLimits(), toy_fleet.SPEC
SEEN = [Seen(np.float32([i / 10, 0.5]), "Walk far.") for i in range(40)]


@pytest.fixture
def services(tmp_path):
    with open_services(RunFolder(tmp_path / "run")) as opened:
        yield opened


@pytest.fixture
def gates(services):
    """Puts a policy through the gates beside one that walks at 0.5; what was refused, what was looked at."""
    stable = services.snapshots.load(publish(services, walking(0.5)))

    def ask(content, beside=stable, limits=LIMITS, seen=SEEN):
        candidate = services.snapshots.load(publish(services, content))
        return examine(candidate, beside, SPEC, ENCODER, seen, limits)

    return ask


def test_what_moves_like_the_stable_one_passes(gates):
    found = gates(walking(0.6))
    assert (found.refused, found.said) == (None, "its chunks on 40 recorded observations")
    assert gates(walking(0.5), beside=None).refused is None, "the first one of all"
    assert gates(walking(9.0), beside=None).refused is None, "which is compared with nothing"
    assert gates(walking(0.6), seen=[]).refused is None


def test_what_computes_no_numbers_is_refused(gates):
    arrays, meta = walking(0.5)
    arrays["out.weight"] = np.full_like(arrays["out.weight"], 3e38)
    arrays["hidden.0.weight"] = np.full_like(arrays["hidden.0.weight"], -3e38)
    for beside in ({}, {"beside": None}):
        assert gates((arrays, meta), **beside).refused.endswith("of its chunks hold NaN or infinity")


def test_what_pushes_at_the_end_of_its_range_is_refused(gates):
    found = gates(walking(9.0))
    assert "of its action coordinates are at the end of their range" in found.refused
    assert "allowed are 20% more" in found.refused
    assert gates(walking(9.0), limits=GateLimits(saturated_more=1.0, distance=2.0)).refused is None


def test_what_is_far_from_the_stable_one_is_refused(gates):
    found = gates(walking(-0.5), limits=GateLimits(saturated_more=1.0))
    assert "(RMS) away from the stable one's; allowed are 0.5" in found.refused
    assert gates(walking(-0.5), limits=GateLimits(saturated_more=1.0, distance=1.0)).refused is None


def test_what_does_not_load_as_a_robot_loads_it_is_refused(gates):
    arrays, meta = walking(0.5)
    assert (
        "for robots of kind 'crane', not 'line'" in gates((arrays, {**meta, "robot_spec": "crane"})).refused
    )
    assert "instruction_encoder" in gates((arrays, {**meta, "instruction_encoder": "words-v9"})).refused
    assert "chunk_steps 9" in gates((arrays, {**meta, "chunk_steps": 9})).refused
    assert (
        "array 'out.bias' is missing"
        in gates(({k: v for k, v in arrays.items() if k != "out.bias"}, meta)).refused
    )
    short = {**arrays, "out.bias": arrays["out.bias"][:3]}
    assert "shape (3,)" in gates((short, meta)).refused


def test_what_fails_when_it_is_asked_is_refused(gates, monkeypatch):
    def fails(self, proprio, instruction, seed, index):
        if self._steps == 2:
            raise MemoryError("too many flow steps")
        return np.zeros((4, 2), np.float32)

    monkeypatch.setattr(StatePolicy, "chunk", fails)
    arrays, meta = walking(0.5)
    found = gates((arrays, {**meta, "flow_steps": 2}))
    assert found.refused == "it fails on recorded observations: MemoryError: too many flow steps"


def test_a_policy_that_this_computer_does_not_run_is_let_through_and_that_is_said(gates, services):
    arrays, meta = walking(0.5)
    found = gates((arrays, {**meta, "model": "vla"}))
    assert (found.refused, found.said) == (None, "its kind only: this computer does not run a 'vla' policy")
    vla = services.snapshots.load(services.snapshots.newest())
    assert gates(walking(9.0), beside=vla).refused is None, "nothing to compare with"


def test_a_stable_policy_that_is_damaged_refuses_nobody(gates, services):
    arrays, meta = walking(0.5)
    broken = services.snapshots.load(publish(services, (arrays, {**meta, "chunk_steps": 9})))
    with pytest.raises(SnapshotError, match="chunk_steps"):
        gates(walking(0.5), beside=broken)


def test_refusals_by_hand():
    stable = np.zeros((4, 2, 2), np.float32)
    assert refusal(stable, stable, LIMITS) is None
    one = stable.copy()
    one[0, 0, 0] = np.nan
    assert refusal(one, stable, LIMITS) == "25% of its chunks hold NaN or infinity"
    one[0, 0, 0] = 1.5
    assert refusal(one, stable, LIMITS) == "its largest action is 1.5; expected -1 to 1"
    one[:] = 0
    one[0] = 1.0  # 4 of 16 coordinates: 25 %, and RMS sqrt(4 / 16) = 0.5
    assert "25% of its action coordinates" in refusal(one, stable, LIMITS)
    assert refusal(one, one, LIMITS) is None
    assert refusal(stable + np.float32(0.51), stable, LIMITS).startswith("its chunks are 0.51 (RMS)")
    assert refusal(stable + np.float32(0.49), stable, LIMITS) is None
    with pytest.raises(ConfigError):
        GateLimits(distance=0.0)


def test_both_get_the_same_noise():
    arrays, meta = walking(0.0)
    policy = StatePolicy(arrays, meta, SPEC, ENCODER.version, "it")
    np.testing.assert_array_equal(chunks_of(policy, ENCODER, SEEN), chunks_of(policy, ENCODER, SEEN))
    assert not np.array_equal(*chunks_of(policy, ENCODER, SEEN[:2]))


def test_observations_are_states_where_a_chunk_begins_of_the_newest_episodes_of_its_kind(services, tmp_path):
    rng = np.random.default_rng(0)
    with EdgeClient(tmp_path / "spool", services.objects, services.bus, "line-00") as client:
        for number in range(5):
            proprio = np.column_stack([np.full(10, number), rng.random(10)]).astype(np.float32)
            header = EpisodeHeader(
                task="near", instruction=f"Walk {number}.", source=Source.ONLINE, robot="line-00", spec="line",
                control_hz=10.0, snapshot=1, software="0",
            )  # fmt: skip
            episode = Episode(
                header=header, verdict=Verdict(outcome=Outcome.SUCCESS, stage_score=1.0), proprio=proprio,
                actions=np.zeros((9, 2), np.float32), interventions=np.zeros(9, bool), times_s=np.arange(10) / 10.0,
            )  # fmt: skip
            client.submit(episode)
        client.deliver()
    make_coordinator(toy_fleet.experiment(), services).step()
    limits = GateLimits(episodes=2)
    found = observations(services.catalogue, services.objects, SPEC, limits)
    assert [one.instruction for one in found] == ["Walk 3."] * 3 + ["Walk 4."] * 3, "steps 0, 4 and 8 of nine"
    assert [float(one.proprio[0]) for one in found] == [3.0] * 3 + [4.0] * 3
    few = observations(
        services.catalogue, services.objects, SPEC, dataclasses.replace(limits, observations=3)
    )
    assert len(few) == 3
    other = dataclasses.replace(SPEC, name="crane")
    assert observations(services.catalogue, services.objects, other, limits) == []
    row = services.catalogue.episodes()[-1]
    services.objects.delete(row.key)
    assert len(observations(services.catalogue, services.objects, SPEC, limits)) == 3, "one is gone"
