"""Manifests: numbered, immutable, growing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_cases import Fleet, make_episode, open_fleet

from lwd.errors import StoreError
from lwd.log import manifest
from lwd.log.deletion import delete


def test_numbers_parents_and_membership(fleet: Fleet):
    assert manifest.latest(fleet.catalogue) is None
    assert fleet.coordinator.commit() is None
    sent = []
    for count in (2, 3):
        for _ in range(count):
            episode = make_episode(3)
            fleet.send_episode(episode)
            sent.append(episode.header.episode_id)
        fleet.drain()
        fleet.coordinator.commit()
    assert fleet.coordinator.commit() is None  # nothing new, no number used
    first, second = manifest.manifests(fleet.catalogue)
    assert (first.number, first.parent, first.episodes) == (1, None, 2)
    assert (second.number, second.parent, second.episodes) == (2, 1, 5)
    assert manifest.latest(fleet.catalogue) == second
    assert manifest.read(fleet.catalogue, 1) == first
    ids = [row.episode_id for row in manifest.episodes_between(fleet.catalogue, None, 2)]
    assert ids == sent
    assert [row.episode_id for row in manifest.episodes_between(fleet.catalogue, 1, 2)] == sent[2:]
    assert [row.episode_id for row in manifest.episodes_between(fleet.catalogue, 0, 1)] == sent[:2]
    row = manifest.episodes_between(fleet.catalogue, 1, 2)[0]
    assert row.key == f"episodes/{row.episode_id}/{row.sha256}"
    assert len(fleet.objects.get(row.key)) == row.size


def test_a_manifest_does_not_count_what_was_deleted_before_it(fleet: Fleet):
    for name in ("a", "b", "c"):
        fleet.send_episode(make_episode(2, episode_id=name))
    fleet.drain()
    fleet.coordinator.commit()
    for name in ("a", "b"):
        delete(fleet.catalogue, fleet.objects, name, reason="blurred", deleted_by="kim")
    fleet.send_episode(make_episode(2, episode_id="d"))
    fleet.drain()
    found = fleet.coordinator.commit()
    assert found is not None
    held = manifest.episodes_between(fleet.catalogue, None, found.number)
    assert [row.episode_id for row in held] == ["c", "d"]
    assert found.episodes == 2


def test_an_unknown_number_says_which_is_newest(fleet: Fleet):
    with pytest.raises(StoreError, match="manifest 4 does not exist; the newest is None"):
        manifest.read(fleet.catalogue, 4)


@given(rounds=st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=8, deadline=None)
def test_manifests_only_grow(tmp_path_factory, rounds):
    with open_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        frozen: dict[int, list[str]] = {}
        for count in rounds:
            for _ in range(count):
                fleet.send_episode(make_episode(2))
            fleet.drain()
            committed = fleet.coordinator.commit()
            assert (committed is None) == (count == 0)
            if committed is not None:
                assert committed.number == len(frozen) + 1
                frozen[committed.number] = [
                    row.episode_id
                    for row in manifest.episodes_between(fleet.catalogue, None, committed.number)
                ]
                assert committed.episodes == len(frozen[committed.number])
        for number, ids in frozen.items():
            now = [row.episode_id for row in manifest.episodes_between(fleet.catalogue, None, number)]
            assert now == ids
